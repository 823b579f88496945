"""PyPI's `tokenizers`, which are on CPython what the web's are in the page."""

from __future__ import annotations

import json
from collections import abc

from tokenizers import Tokenizer as Library
from tokenizers.normalizers import Replace, Sequence

from doppler.text.shield import MARK
from doppler.text.tokenizer import Added


class PypiEncoding:
    """A tokenizer.json opened, which adds no special tokens of its own."""

    def __init__(self, document: bytes) -> None:
        library = self._library = Library.from_buffer(document)
        normalizer = library.normalizer
        normalized = {
            token.content
            for token in library.get_added_tokens_decoder().values()
            if token.normalized
            and (normalizer is None or normalizer.normalize_str(token.content) == token.content)
        }
        if normalized:  # found before a mark is dropped, and for the rest as they were
            content = json.loads(document)
            for token in content["added_tokens"]:
                token["normalized"] &= token["content"] not in normalized
            self._library = Library.from_str(json.dumps(content))
        steps = [Replace(MARK, ""), *([normalizer] if normalizer else [])]
        self._library.normalizer = Sequence(steps)

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: abc.Sequence[int], skip_special: bool) -> str:
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))

    def ids(self, pieces: abc.Sequence[str]) -> list[int | None]:
        return [self._library.token_to_id(piece) for piece in pieces]

    def added(self) -> list[Added]:
        tokens = self._library.get_added_tokens_decoder()
        return [Added(token.content, number, token.special) for number, token in tokens.items()]
