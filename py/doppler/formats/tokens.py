"""The lists of a GGUF vocabulary: its tokens, what kind each is, and which have a part to play."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from doppler.errors import FormatError
from doppler.formats.ends import CLOSING_TAG, CONTROLS, FILL_KEYS, NAMES, ends
from doppler.inputs.fields import Fields, shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token_type
_MOST = 1 << 19  # tokens: twice those of the largest vocabularies, which take seconds
# What llama.cpp takes for ids that a file does not name, by tokenizer.ggml.model.
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0},
    "gpt2": {"bos_token_id": 11, "eos_token_id": 11},
}


class Tokens:
    """All of tokenizer.ggml.*, checked. `warnings` are for people: what is odd, and taken as what.

    Raises FormatError for what is of another type or does not belong together.
    """

    def __init__(self, fields: Fields) -> None:
        self.fields, self.where = fields, fields.where
        self.warnings: list[str] = []
        self.model = fields.text("model")
        self.texts = list(fields.texts("tokens", []))
        if not self.texts:
            raise FormatError(f"{self.where}: the tokenizer has no list of tokens")
        if len(self.texts) > _MOST:
            raise FormatError(
                f"{self.where}: the tokenizer has {len(self.texts)} tokens, more than the {_MOST} "
                "that any may have; the file is damaged"
            )
        self.types = self.numbers("token_type", "iu", NORMAL).tolist()
        self._by_name = {text: i for i, text in enumerate(self.texts) if text in NAMES}
        for text, token in self._by_name.items():
            if text in CONTROLS:
                self.types[token] = CONTROL
        self.bos = self.id("bos_token_id")
        self._eos = self.id("eos_token_id")
        closing = self._by_name.get(CLOSING_TAG)
        if closing is not None and closing == self._eos:
            self.types[closing] = CONTROL

    def numbers(self, key: str, kinds: str, default: float) -> np.ndarray[Any, Any]:
        """One number for each token, of a dtype of `kinds`; longer lists are cut."""
        values = self.fields.get(key)
        if values is None:
            return np.full(len(self.texts), default)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds:
            raise self.fields.error(key, "a list of one number for each token")
        if len(values) < len(self.texts):
            raise FormatError(
                f"{self.where}: {self.fields.prefix}{key} does not have one number for each token: "
                f"{len(values)} for {len(self.texts)}"
            )
        return values[: len(self.texts)]

    def id(self, key: str) -> int | None:
        """A token's id; llama.cpp's default where the file has none, or one that is no token."""
        value = self.fields.get(key)
        if value is not None and type(value) is not int:
            raise self.fields.error(key, "the number of a token")
        if value is not None and 0 <= value < len(self.texts):
            return int(value)
        default = self._default(key)
        if value is not None:
            taken = "no token" if default is None else f"{default}, {shown(self.texts[default])},"
            self.warnings.append(
                f"{self.fields.prefix}{key} is {shown(value)} and there are {len(self.texts)} "
                f"tokens: {taken} is taken instead"
            )
        return default

    def _default(self, key: str) -> int | None:
        default = _DEFAULTS.get(self.model, {}).get(key)
        if default is None or default >= len(self.texts):
            return None
        # Of byte-level vocabularies only Falcon's has its end there, and others have text.
        text = self.model == "gpt2" and self.types[default] != CONTROL
        return None if text else default

    def ends(self) -> tuple[int, ...]:
        """Every id that ends a text or an answer."""
        given = [self._eos, self.id("eot_token_id"), self.id("eom_token_id")]
        for token in self.fields.integers("eos_token_ids", [], least=-(2**63), most=2**64):
            if 0 <= token < len(self.texts):
                given.append(token)
            else:
                self.warnings.append(
                    f"{self.fields.prefix}eos_token_ids has {token}, which is no token: left out"
                )
        fill = {key: self.id(key) for key in FILL_KEYS}
        given += fill.values()
        named = [key for key, token in fill.items() if token is not None]
        return ends(self._by_name, [token for token in given if token is not None], named)

    def added(self, but: Collection[int] = ()) -> list[dict[str, Any]]:
        """Tokens that are found in the text before anything else is done to it, all but some."""
        return [
            {
                "id": token,
                "content": self.texts[token],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for token, kind in enumerate(self.types)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED) and self.texts[token] and token not in but
        ]

    def merges(self) -> list[tuple[str, str]]:
        """The pairs of tokens that become one, the most urgent first."""
        if not isinstance(self.fields.get("merges"), list):
            raise FormatError(f"{self.where}: the tokenizer has no list of merges")
        known, pairs, unknown = set(self.texts), [], 0
        for text in self.fields.texts("merges"):
            at = text.find(" ", 1)  # the left part may begin with a space
            if at < 0 or at == len(text) - 1:
                raise FormatError(f"{self.where}: the merge {shown(text)} does not have two parts")
            left, right = text[:at], text[at + 1 :]
            if left in known and right in known and left + right in known:
                pairs.append((left, right))
            else:
                unknown += 1
        if unknown:
            self.warnings.append(f"{unknown} merges are of no tokens of the vocabulary: left out")
        return pairs
