"""Vocabularies of pieces in which a space is ▁ and rare characters are bytes like <0x0A>."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np

from doppler.errors import FormatError
from doppler.formats.pre_tokenizers import split
from doppler.formats.tokenizer_json import document
from doppler.formats.tokens import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Tokens

_SPACE = "▁"
# Characters of the longest piece that others are joined to. SentencePiece makes pieces of 16 unless
# told otherwise; the longest of Gemma are 31 spaces. To look at a longer one is quadratic work.
_LONGEST = 256
# Merges take a tokenizer.json so many times the room of their pieces, and this in any case.
_ROOM, _LEAST_ROOM = 6, 16 << 20
_MERGE_ROOM = 8  # what a merge takes beside its characters


def scored(tokens: Tokens) -> tuple[dict[str, Any], bool]:
    """tokenizer.ggml.model "llama": SentencePiece's own pieces, with scores.

    -> tokenizer.json as data, and whether texts get a begin token where the file does not say.
    """
    _meet_normalised_text(tokens)
    prefixed = tokens.fields.flag("add_space_prefix", True)
    return _document(tokens, _merges_of_scores(tokens), prefixed), True


def ranked(tokens: Tokens) -> tuple[dict[str, Any], bool]:
    """tokenizer.ggml.model "gemma4": such pieces with merges; ends of lines are words."""
    spaces = _meet_normalised_text(tokens)
    content = _document(tokens, iter(tokens.merges()), prefixed=False, but=spaces)
    content["pre_tokenizer"] = split(r"\n+")
    return content, True


def _meet_normalised_text(tokens: Tokens) -> list[int]:
    """Converters write runs of ▁ as spaces, which are none in a text once ▁ stands for them."""
    runs = []
    for token, kind in enumerate(tokens.types):
        text = tokens.texts[token]
        if kind == USER_DEFINED and not text.strip(" " + _SPACE):
            tokens.texts[token] = text.replace(" ", _SPACE)
            runs.append(token)
    return runs


def _document(
    tokens: Tokens, merges: Iterator[tuple[str, str]], prefixed: bool, but: Iterable[int] = ()
) -> dict[str, Any]:
    unknown = tokens.id("unknown_token_id")
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefixed else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restore = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    return document(
        added=tokens.added(frozenset(but)),
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        model={
            "unk_token": None if unknown is None else tokens.texts[unknown],
            "fuse_unk": True,
            "byte_fallback": BYTE in tokens.types,
            "ignore_merges": False,
            "vocab": tokens.texts,
            "merges": merges,
        },
    )


def _merges_of_scores(tokens: Tokens) -> Iterator[tuple[str, str]]:
    """Merges, the most urgent first, that do what the scores ask for.

    SentencePiece joins the neighbours whose piece has the highest score. Every way to cut a piece
    in two pieces is a merge, ranked by the piece's score and then by the longer left part, which is
    the order that Hugging Face's own conversion has. User-defined pieces come before all others.
    """
    scores = tokens.numbers("scores", "iuf", 0.0).astype(np.float64)
    types = np.array(tokens.types)
    known = set(tokens.texts)
    room = _LEAST_ROOM + _ROOM * sum(map(len, tokens.texts))

    def cuts(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
        nonlocal room
        for left, right in _cuts(texts, known):
            room -= len(left) + len(right) + _MERGE_ROOM
            if room < 0:
                raise FormatError(
                    f"{tokens.where}: the tokens can be joined in more ways than those of any "
                    "tokenizer; the file is damaged"
                )
            yield left, right

    first = [tokens.texts[i] for i in np.flatnonzero(types == USER_DEFINED)]
    yield from sorted(cuts(first), key=lambda cut: (-len(cut[0]), -len(cut[1])))
    plain = np.isin(types, (UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE), invert=True)
    order = np.argsort(-scores, kind="stable")
    yield from cuts(tokens.texts[i] for i in order[plain[order]].tolist())


def _cuts(texts: Iterable[str], known: Set[str]) -> Iterator[tuple[str, str]]:
    """Every way to cut each text in two pieces, the longer left part first.

    It looks at 1.5 million cuts for Gemma's vocabulary, in wasm too: hence no more than this.
    """
    for text in texts:
        if len(text) > _LONGEST:
            continue
        for at in range(len(text) - 1, 0, -1):
            if text[:at] in known and text[at:] in known:
                yield text[:at], text[at:]
