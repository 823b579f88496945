"""Fields of strangers' data, each read in one way: its name, kind and range, and what to say.

GGUF metadata, config.json, tokenizer files, safetensors headers and manifests are read with it. It
is no library's work: those that also run in the page either convert where this must refuse (true is
no 1 here) or are larger than all readers together. It knows no NumPy, which the page loads only to
convert files, but takes its arrays for lists.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from reprlib import Repr
from typing import Any, Self

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.nesting import is_too_deep

LARGEST_FLOAT = 3.4028234663852886e38  # of float32, in which all is computed
SMALLEST_FLOAT = 1.1754943508222875e-38  # above 0 that GPUs do not take for 0
LARGEST_INT = 2**31 - 1  # of what is counted in a model; offsets and sizes have LARGEST_SIZE
LARGEST_SIZE = 2**53 - 1  # bytes, as a page can count them
# Lists and objects that JSON may have: each takes 80 bytes here and may be of three there. A
# tokenizer.json has one for each merge, which are 30 bytes or more.
_MOST_PARTS, _PART_BYTES = 1 << 20, 16
_SHOWN = 60  # characters of a stranger's value in a message
_TOO_LONG = "int_max_str_digits"  # in what Python says of such an integer, to programmers
_SURROGATE = re.compile("[\ud800-\udfff]")

_short = Repr()
_short.maxlevel, _short.maxlist, _short.maxstring, _short.maxother = 3, 8, _SHOWN, _SHOWN


def shown(value: Any, most: int = _SHOWN) -> str:
    """A stranger's value for a message: as Python writes it, on one line, printable, and cut."""
    if hasattr(value, "tolist"):
        value = value[:8].tolist() if value.ndim else value.item()
    if isinstance(value, (str, bytes, bytearray)):
        text = repr(value[: most + 1])
    elif isinstance(value, int) and abs(value) >= 10**_SHOWN:  # Python writes no number of any size
        text = f"an integer of {value.bit_length()} bits"
    else:
        text = _short.repr(value)
    return text if len(text) <= most + 2 else f"{text[:most]}…"


def parse_json(data: bytes | str, where: str) -> dict[str, Any]:
    """The object that is JSON's text. Raises FormatError where it is none, or has a key twice."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if is_too_deep(raw):
        raise FormatError(f"{where}: its JSON is damaged: it is nested too deeply")
    if raw.count(b"[") + raw.count(b"{") > _MOST_PARTS + len(raw) // _PART_BYTES:
        raise FormatError(f"{where}: its JSON is damaged: it has too many lists and objects")
    try:
        value = json.loads(data, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        told = "a number has too many digits" if _TOO_LONG in str(error) else error
        raise FormatError(f"{where}: its JSON is damaged: {told}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: its JSON is no object")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found


class Fields:
    """The fields of a mapping in the file `where`; messages put `prefix` before their keys.

    What is absent and what is null is the same, and must not be where no default is given. All
    methods raise FormatError for a value of another kind or out of range.
    """

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._data, self.where, self.prefix = data, where, prefix

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def below(self, prefix: str) -> Self:
        """Those whose keys begin so, without it: GGUF's keys are paths."""
        found = {k[len(prefix) :]: v for k, v in self._data.items() if k.startswith(prefix)}
        return type(self)(found, self.where, self.prefix + prefix)

    def over(self, others: Fields) -> Fields:
        """These, and of others what is absent here."""
        own = {key: value for key, value in self._data.items() if value is not None}
        return Fields({**others._data, **own}, self.where, self.prefix)

    def get(self, key: str) -> Any:
        """The value as it stands; None where there is none."""
        return self._data.get(key)

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return self.get(key) is not None

    def error(self, key: str, wanted: str) -> FormatError:
        """To be raised for a value that is not what was wanted."""
        value = self.get(key)
        name = self.where + ": " + shown(self.prefix + key)[1:-1]
        if value is None:
            return FormatError(f"{name} is missing, and must be {wanted}")
        return FormatError(f"{name} is {shown(value)}, and must be {wanted}")

    def integer(
        self, key: str, default: int | None = None, least: int = 0, most: int = LARGEST_INT
    ) -> int:
        """A whole number from `least` to `most`; true and 1.0 are none."""
        value = self._value(key, default)
        if not _is_integer(value, least, most):
            raise self.error(key, f"a whole number from {least} to {most}")
        return int(value)

    def integers(
        self, key: str, default: list[int] | None = None, least: int = 0, most: int = LARGEST_INT
    ) -> list[int]:
        """A list of whole numbers from `least` to `most`."""
        value = self._list(key, default)
        if value is None or not all(_is_integer(item, least, most) for item in value):
            raise self.error(key, f"a list of whole numbers from {least} to {most}")
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        least: float = -LARGEST_FLOAT,
        most: float = LARGEST_FLOAT,
    ) -> float:
        """A number that float32 can hold, from `least` to `most`; no NaN."""
        value = self._value(key, default)
        if not _is_number(value, least, most):
            raise self.error(key, f"a number{_bounds(value, least, most)}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string of whole characters: JSON can write halves of them."""
        value = self._value(key, default)
        if not is_text(value):
            raise self.error(key, "a text")
        return str(value)

    def texts(self, key: str, default: list[str] | None = None) -> list[str]:
        """A list of such strings."""
        value = self._list(key, default)
        if value is None or not all(map(is_text, value)):
            raise self.error(key, "a list of texts")
        return value

    def choice(self, key: str, known: Collection[str], default: str | None = None) -> str:
        """One of the texts that are known; UnsupportedError for others."""
        value = self.text(key, default)
        if value not in known:
            name = f"{self.where}: {self.prefix}{key}"
            raise UnsupportedError(
                f"{name} is {shown(value)}; Doppler knows {', '.join(sorted(known))}"
            )
        return value

    def table(self, key: str) -> Fields:
        """The fields of an object; none where it is absent."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return Fields(value, self.where, f"{self.prefix}{key}.")

    def numbers(self, key: str, default: list[float] | None = None) -> list[float]:
        """A list of numbers that float32 can hold, as they stand."""
        value = self._list(key, default)
        if value is None or not all(_is_number(item) for item in value):
            raise self.error(key, "a list of numbers")
        return value

    def tables(self, key: str, most: int | None = None) -> list[Fields]:
        """The fields of each object of a list of at most so many; none where it is absent."""
        value = self._list(key, [])
        if value is None or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "a list of objects")
        if most is not None and len(value) > most:
            raise self.error(key, f"a list of at most {most} objects")
        name = self.prefix + key
        return [Fields(item, self.where, f"{name}[{i}].") for i, item in enumerate(value)]

    def _value(self, key: str, default: Any) -> Any:
        return default if (found := self.get(key)) is None else found

    def _list(self, key: str, default: list[Any] | None) -> list[Any] | None:
        """A list, or an array of NumPy's as one; None for anything else."""
        value = self._value(key, default)
        value = value.tolist() if hasattr(value, "tolist") else value
        return value if isinstance(value, list) else None


def is_text(value: Any) -> bool:
    """Whether a value is a string without lone surrogates."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def _is_integer(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float = -LARGEST_FLOAT, most: float = LARGEST_FLOAT) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _bounds(value: Any, least: float, most: float) -> str:
    """What is to be said of a number's range, where a value is out of it."""
    if (least, most) != (-LARGEST_FLOAT, LARGEST_FLOAT):
        return _range(least, most)
    is_large = type(value) in (int, float) and value == value
    return f" of at most {LARGEST_FLOAT:.2g}, which float32 can hold" if is_large else ""


def _range(least: float, most: float) -> str:
    return f" from {least:g} to {most:g}" if most < LARGEST_FLOAT else f" from {least:g} on"
