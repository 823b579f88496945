"""Vocabularies -> tokenizer.json, the file that Hugging Face's tokenizers read.

GGUF has two kinds: "llama" (SentencePiece: pieces with scores, spaces as ▁, bytes as <0x0A>) and
"gpt2" (pieces over bytes as printable letters, with merges). Both become a BPE model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.tokenizer_json import begin_with, document, encode

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
# These end an answer, if they are control tokens.
_TURN_ENDS = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|return|>", "<|call|>")
_SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """`json` is tokenizer.json; the rest is what it does not say. `eos` are all ids that end."""

    json: bytes
    bos: int | None
    eos: tuple[int, ...]
    add_bos: bool
    chat_template: str | None


def vocabulary_from_gguf(metadata: Mapping[str, Any], where: str) -> Vocabulary | None:
    """The tokenizer of a GGUF file, None where it has none.

    Raises UnsupportedError for a kind of tokenizer that Doppler does not know, FormatError for
    lists that do not belong together.
    """
    model = metadata.get("tokenizer.ggml.model", "none")
    if not isinstance(model, str):
        raise FormatError(f"{where}: tokenizer.ggml.model is no text")
    if model in ("none", "no_vocab"):
        return None
    if model not in _MODELS:
        raise UnsupportedError(
            f"{where}: tokenizer {model!r} is not one of {', '.join(_MODELS)}, which Doppler knows"
        )
    pieces = _Pieces(metadata, where)
    content = _MODELS[model](pieces)
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", _bos_by_default(pieces)) is True
    if add_bos and pieces.bos is not None:
        content["post_processor"] = begin_with(pieces.tokens[pieces.bos], pieces.bos)
    template = metadata.get("tokenizer.chat_template")
    return Vocabulary(
        json=encode(content),
        bos=pieces.bos,
        eos=pieces.ends(),
        add_bos=add_bos and pieces.bos is not None,
        chat_template=template if isinstance(template, str) else None,
    )


def _bos_by_default(pieces: _Pieces) -> bool:
    """What llama.cpp does where the file does not say."""
    return pieces.model == "llama" or pieces.pre == "llama-bpe"


class _Pieces:
    """The lists of a GGUF vocabulary, checked against each other."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._metadata = metadata
        self.model: str = metadata["tokenizer.ggml.model"]
        self.pre = str(metadata.get("tokenizer.ggml.pre", "default"))
        tokens = metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
            raise FormatError(f"{where}: the tokenizer has no list of tokens")
        self.tokens: list[str] = tokens
        self.types: list[int] = self.numbers("token_type", 1).astype(int).tolist()
        self.bos = self.id("bos_token_id")

    def numbers(self, key: str, default: float) -> np.ndarray[Any, Any]:
        """The list of one number a token."""
        values = self._metadata.get(f"tokenizer.ggml.{key}")
        if values is None:
            return np.full(len(self.tokens), default)
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens):
            raise FormatError(
                f"{self.where}: tokenizer.ggml.{key} does not have one number for each token"
            )
        return values

    def id(self, key: str) -> int | None:
        """A token id, None where the file has none."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise FormatError(f"{self.where}: tokenizer.ggml.{key} is {value!r}, which is no token")
        return value

    def get(self, key: str, default: Any) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def ends(self) -> tuple[int, ...]:
        """Every id that ends a text or an answer."""
        ids = [self.id(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
        for token, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind in (_CONTROL, _USER_DEFINED) and text in _TURN_ENDS:
                ids.append(token)
        return tuple(dict.fromkeys(token for token in ids if token is not None))

    def added(self, kinds: tuple[int, ...]) -> list[dict[str, Any]]:
        """Tokens that are found in the text before anything else is done to it."""
        return [
            {
                "id": token,
                "content": self.tokens[token],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }
            for token, kind in enumerate(self.types)
            if kind in kinds and self.tokens[token]
        ]


def _sentencepiece(pieces: _Pieces) -> dict[str, Any]:
    tokens = pieces.tokens
    for token, kind in enumerate(pieces.types):
        if kind == _USER_DEFINED and not tokens[token].strip(" "):
            # converters write runs of ▁ as spaces: such pieces have to meet the normalised text
            tokens[token] = tokens[token].replace(" ", _SPACE)
    unknown = pieces.id("unknown_token_id")
    prefixed = bool(pieces.get("add_space_prefix", True))
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefixed else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restore = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    return document(
        added=pieces.added((_UNKNOWN, _CONTROL, _USER_DEFINED)),
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        model={
            "unk_token": None if unknown is None else tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": _BYTE in pieces.types,
            "ignore_merges": False,
            "vocab": tokens,
            "merges": _merges_of_scores(pieces),
        },
    )


def _merges_of_scores(pieces: _Pieces) -> Iterator[tuple[str, str]]:
    """Merges, the most urgent first, that do what the scores ask for.

    SentencePiece joins the neighbours whose piece has the highest score. Every way to cut a piece
    in two pieces is a merge, ranked by the piece's score and then by the longer left part, which is
    the order that Hugging Face's own conversion has. User-defined pieces come before all others.
    """
    scores = pieces.numbers("scores", 0.0)
    types = np.array(pieces.types)
    known = set(pieces.tokens)
    first = [pieces.tokens[i] for i in np.flatnonzero(types == _USER_DEFINED)]
    yield from sorted(_cuts(first, known), key=lambda cut: (-len(cut[0]), -len(cut[1])))
    plain = np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE), invert=True)
    order = np.argsort(-scores, kind="stable")
    yield from _cuts((pieces.tokens[i] for i in order[plain[order]].tolist()), known)


def _cuts(texts: Iterable[str], known: Set[str]) -> Iterator[tuple[str, str]]:
    """Every way to cut each text in two pieces, the longer left part first.

    It looks at 1.5 million cuts for Gemma's vocabulary, in wasm too: hence no more than this.
    """
    for text in texts:
        for at in range(len(text) - 1, 0, -1):
            if text[:at] in known and text[at:] in known:
                yield text[:at], text[at:]


_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES = {**_GPT2, "use_regex": False}
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# Words that capitals begin, of GPT-4o and GPT-OSS (the vocabulary named o200k).
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _ENDING = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_CASED_WORD = (
    f"{_BEFORE}{_CAPITALS}*{_SMALL}+{_ENDING}|{_BEFORE}{_CAPITALS}+{_SMALL}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


# By tokenizer.ggml.pre. Digits are split off by a pattern: the library's own step for it takes only
# ASCII ones in the page, and all numeric characters on CPython.
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "default": [_GPT2],
    "gpt-2": [_GPT2],
    "smollm": [_split(r"\p{N}"), _GPT2],
    "llama-bpe": [_split(_WORD % "{1,3}"), _BYTES],
    "qwen2": [_split(_WORD % ""), _BYTES],
    "gpt-4o": [_split(_CASED_WORD), _BYTES],
}
_WHOLE_WORDS_FIRST = ("llama-bpe", "gpt-4o")  # a word that is a token is taken as it is
_NORMALIZERS = {"qwen2": {"type": "NFC"}}


def _byte_level(pieces: _Pieces) -> dict[str, Any]:
    if pieces.pre not in _PRE_TOKENIZERS:
        raise UnsupportedError(
            f"{pieces.where}: pre-tokenizer {pieces.pre!r} is not one of "
            f"{', '.join(_PRE_TOKENIZERS)}, which Doppler knows"
        )
    merges = pieces.get("merges", None)
    if not isinstance(merges, list) or not all(isinstance(merge, str) for merge in merges):
        raise FormatError(f"{pieces.where}: the tokenizer has no list of merges")
    return document(
        added=pieces.added((_UNKNOWN, _CONTROL, _USER_DEFINED)),
        normalizer=_NORMALIZERS.get(pieces.pre),
        pre_tokenizer={"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[pieces.pre]},
        decoder={**_GPT2, "add_prefix_space": True},
        model={
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pieces.pre in _WHOLE_WORDS_FIRST,
            "vocab": pieces.tokens,
            "merges": (_merge(text, pieces.where) for text in merges),
        },
    )


def _merge(text: str, where: str) -> tuple[str, str]:
    left, _, right = text.partition(" ")
    if not left or not right:
        raise FormatError(f"{where}: the merge {text!r} does not have two parts")
    return left, right


_MODELS = {"llama": _sentencepiece, "gpt2": _byte_level}
