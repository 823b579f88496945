"""The tokenizer of the page: @huggingface/tokenizers in a worker of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyodide.ffi import to_js

from doppler.text.tokenizer import Added


class PageEncoding:
    """@huggingface/tokenizers, by way of the worker (web/runtime has the JavaScript side)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).to_py())

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        return str(self._tokenizer.decode(_array(ids), skip_special))

    def ids(self, pieces: Sequence[str]) -> list[int | None]:
        found: list[int | None] = json.loads(self._tokenizer.ids(json.dumps(pieces)))
        return found

    def added(self) -> list[Added]:
        return [Added(*token) for token in json.loads(self._tokenizer.added())]


def _array(ids: Sequence[int]) -> Any:
    return to_js([int(i) for i in ids])
