"""A setting of config.json that only some values of are known."""

from __future__ import annotations

from typing import Any

from doppler.errors import UnsupportedError
from doppler.inputs.fields import Fields, shown


def need(fields: Fields, key: str, known: tuple[Any, ...]) -> None:
    """Raises UnsupportedError for a setting that changes the arithmetic."""
    if fields.has(key) and fields.get(key) not in known:
        raise UnsupportedError(
            f"{fields.where}: {fields.prefix}{key} is {shown(fields.get(key))}, which Doppler "
            "cannot do"
        )
