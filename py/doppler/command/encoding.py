"""PyPI's `tokenizers`, which are on CPython what the web's are in the page."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as Library

from doppler.tokenizer import Added


class PypiEncoding:
    """A tokenizer.json opened, which adds no special tokens of its own."""

    def __init__(self, document: bytes) -> None:
        self._library = Library.from_buffer(document)

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))

    def ids(self, pieces: Sequence[str]) -> list[int | None]:
        return [self._library.token_to_id(piece) for piece in pieces]

    def added(self) -> list[Added]:
        tokens = self._library.get_added_tokens_decoder()
        return [Added(token.content, number, token.special) for number, token in tokens.items()]
