"""Vocabularies -> tokenizer.json, the file that Hugging Face's tokenizers read.

GGUF has two kinds: pieces in which ▁ is a space, with scores ("llama") or merges ("gemma4"), and
pieces over bytes as printable letters, with merges ("gpt2"). All become a BPE model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from doppler.errors import UnsupportedError
from doppler.formats import sentencepiece
from doppler.formats.pre_tokenizers import RULES
from doppler.formats.tokenizer_json import begin_with, document, encode
from doppler.formats.tokens import Tokens
from doppler.inputs.fields import Fields, shown

_LETTERS = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True)
class Vocabulary:
    """`json` is tokenizer.json; the rest is what it does not say. `eos` are all ids that end.

    warnings: what is odd in the files, and what it was taken for, in a sentence each.
    """

    json: bytes
    bos: int | None
    eos: tuple[int, ...]
    add_bos: bool
    chat_template: str | None
    warnings: tuple[str, ...] = ()


def vocabulary_from_gguf(metadata: Mapping[str, Any], where: str) -> Vocabulary | None:
    """The tokenizer of a GGUF file, None where it has none.

    Raises UnsupportedError for a kind of tokenizer that Doppler does not know, FormatError for
    lists that do not belong together.
    """
    fields = Fields(metadata, where).below("tokenizer.ggml.")
    model = fields.text("model", "none")
    if model in ("none", "no_vocab"):
        return None
    if model not in _MODELS:
        raise UnsupportedError(
            f"{where}: tokenizer {shown(model)} is not one of {', '.join(_MODELS)}, which Doppler "
            "knows"
        )
    tokens = Tokens(fields)
    content, begins = _MODELS[model](tokens)
    # Some files of Gemma 4 say that texts have no begin token, which llama.cpp does not believe.
    add_bos = fields.flag("add_bos_token", begins) or model == "gemma4"
    if add_bos and tokens.bos is None:
        tokens.warnings.append("texts should have a begin token, and the file names none")
    elif add_bos and tokens.bos is not None:
        content["post_processor"] = begin_with(tokens.texts[tokens.bos], tokens.bos)
    return Vocabulary(
        json=encode(content),
        bos=tokens.bos,
        eos=tokens.ends(),
        add_bos=add_bos and tokens.bos is not None,
        chat_template=Fields(metadata, where).text("tokenizer.chat_template", "") or None,
        warnings=tuple(tokens.warnings),
    )


def _byte_level(tokens: Tokens) -> tuple[dict[str, Any], bool]:
    name = tokens.fields.text("pre", "")
    if not name:
        name = "default"
        tokens.warnings.append(
            "tokenizer.ggml.pre is missing: how texts are cut into words is guessed, answers may "
            "be the worse for it; a file converted anew by today's llama.cpp says it"
        )
    if name not in RULES:
        raise UnsupportedError(
            f"{tokens.where}: Doppler does not know the pre-tokenizer {shown(name)} "
            "(tokenizer.ggml.pre); update Doppler, or give the model as safetensors with its "
            "tokenizer.json"
        )
    rule = RULES[name]
    content = document(
        added=tokens.added(),
        normalizer=rule.normalizer,
        pre_tokenizer=rule.pre_tokenizer,
        decoder=_LETTERS,
        model={
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": rule.whole,
            "vocab": tokens.texts,
            "merges": iter(tokens.merges()),
        },
    )
    return content, rule.begins


_MODELS: dict[str, Callable[[Tokens], tuple[dict[str, Any], bool]]] = {
    "llama": sentencepiece.scored,
    "gpt2": _byte_level,
    "gemma4": sentencepiece.ranked,
}
