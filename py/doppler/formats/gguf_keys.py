"""The metadata of one architecture in a GGUF file, by the keys that it prefixes with its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import Fields, shown


class Keys(Fields):
    """The architecture's own keys. What has one value a layer counts where all are the same."""

    def get(self, key: str) -> Any:
        value = super().get(key)
        if not isinstance(value, np.ndarray) or not value.size:
            return value
        if (value != value[0]).any():
            raise UnsupportedError(f"{self.where}: {self.prefix}{key} differs between layers")
        return value[0].item()

    def each(self, key: str, count: int) -> list[Any] | None:
        """A value for each of `count` layers; None where there is none or one for all."""
        value = super().get(key)
        if not isinstance(value, np.ndarray):
            return None
        if len(value) != count:
            raise FormatError(
                f"{self.where}: {self.prefix}{key} is of {len(value)} layers, the model of {count}"
            )
        found: list[Any] = value.tolist()
        return found

    def need(self, key: str, neutral: tuple[float, ...]) -> None:
        """Raises UnsupportedError for a value that changes the arithmetic."""
        value = self.get(key)
        known = value is None or (isinstance(value, (bool, int, float)) and value in neutral)
        if not known:
            raise UnsupportedError(
                f"{self.where}: {self.prefix}{key} is {shown(value)}, which Doppler cannot do"
            )

    def widths(self, key: str, count: int, least: int = 1) -> list[int]:
        """A whole number from `least` on for each of `count` layers; they may have one together."""
        values = self.each(key, count)
        if values is None:
            return [self.integer(key, least=least)] * count
        each = (Fields({key: value}, self.where, self.prefix) for value in values)
        return [it.integer(key, least=least) for it in each]
