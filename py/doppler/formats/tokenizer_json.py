"""tokenizer.json of a BPE model, from its parts to bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

_CHUNK = 8192  # entries of a list that are encoded at once


def document(
    added: list[dict[str, Any]],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    """tokenizer.json as data, but for `vocab` (a list of tokens) and `merges` (an iterator)."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            **model,
        },
    }


def begin_with(text: str, token: int) -> dict[str, Any]:
    """The post-processor that puts a token before every text."""
    begin = {"SpecialToken": {"id": text, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
    }


def encode(content: dict[str, Any]) -> bytes:
    """JSON in UTF-8. Vocabulary and merges go chunk by chunk: as one text they take 150 MB."""
    model = dict(content["model"])
    tokens: Sequence[str] = model.pop("vocab")
    merges: Iterable[tuple[str, str]] = model.pop("merges")
    text = bytearray(_compact({**content, "model": model})[:-2])
    text += b',"vocab":{'
    ids = {token: i for i, token in enumerate(tokens)}
    _extend(text, ids.items(), dict)
    text += b'},"merges":['
    _extend(text, merges, list)
    text += b"]}}"
    return bytes(text)


def _extend(text: bytearray, items: Iterable[Any], kind: type[Any]) -> None:
    iterator = iter(items)
    comma = b""
    while chunk := list(islice(iterator, _CHUNK)):
        text += comma + _compact(kind(chunk))[1:-1]
        comma = b","


def _compact(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
