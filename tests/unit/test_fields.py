"""Fields of strangers' data: what is taken, what is refused, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import Fields, parse_json, shown

READERS: dict[str, Callable[[Fields], object]] = {
    "integer": lambda fields: fields.integer("k"),
    "integers": lambda fields: fields.integers("k"),
    "number": lambda fields: fields.number("k"),
    "flag": lambda fields: fields.flag("k"),
    "text": lambda fields: fields.text("k"),
    "texts": lambda fields: fields.texts("k"),
    "table": lambda fields: fields.table("k").get("a"),
    "tables": lambda fields: [table.get("a") for table in fields.tables("k")],
}
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {  # value -> what each reader makes of it
    "one": (1, {"integer": 1, "number": 1.0}),
    "negative": (-1, {"number": -1.0}),
    "half": (0.5, {"number": 0.5}),
    "whole float": (2.0, {"number": 2.0}),
    "too many": (2**31, {"number": 2.0**31}),
    "401 digits": (10**400, {}),
    "infinite": (float("inf"), {}),
    "no number": (float("nan"), {}),
    "beyond float32": (1e39, {}),
    "true": (True, {"flag": True}),
    "digits": ("1", {"text": "1"}),
    "text": ("wörter", {"text": "wörter"}),
    "half a character": ("a\ud800", {}),
    "nothing": (None, {"table": None, "tables": []}),
    "empty": ([], {"integers": [], "texts": [], "tables": []}),
    "numbers": ([1, 2], {"integers": [1, 2]}),
    "array": (np.array([1, 2]), {"integers": [1, 2]}),
    "floats": (np.array([1.0]), {}),
    "flags": ([True], {}),
    "texts": (["a"], {"texts": ["a"]}),
    "halves": (["\udc00"], {}),
    "object": ({"a": 5}, {"table": 5}),
    "objects": ([{"a": 5}], {"tables": [5]}),
    "mixed": ([{"a": 5}, 1], {}),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_by_every_reader(name: str) -> None:
    value, taken = VALUES[name]
    for reader, read in READERS.items():
        fields = Fields({"k": value}, "there", "above.")
        if reader in taken:
            assert read(fields) == taken[reader]
            continue
        with pytest.raises(FormatError) as caught:
            read(fields)
        message = str(caught.value)
        assert message.startswith("there: above.k is ")
        assert len(message) < 200
        assert message.isprintable()


def test_ranges_choices_and_defaults() -> None:
    fields = Fields({"n": 5, "kind": "odd", "null": None}, "there")
    assert (fields.integer("n", most=5), fields.integer("null", 7)) == (5, 7)
    assert (fields.flag("no", False), fields.text("no", "")) == (False, "")
    assert not fields.has("null")
    with pytest.raises(FormatError, match="there: n is 5, and must be a whole number from 6 to 9"):
        fields.integer("n", least=6, most=9)
    with pytest.raises(FormatError, match="there: n is 5, and must be a number from 0 to 1"):
        fields.number("n", least=0, most=1)
    with pytest.raises(FormatError, match="there: no is missing, and must be a whole number"):
        fields.integer("no")
    assert fields.choice("kind", ["odd"]) == "odd"
    with pytest.raises(UnsupportedError, match="there: kind is 'odd'; Doppler knows even, none"):
        fields.choice("kind", ["none", "even"])


def test_keys_that_are_paths() -> None:
    fields = Fields({"llama.rope.base": "x", "other": 1}, "f.gguf").below("llama.").below("rope.")
    with pytest.raises(FormatError, match=r"f\.gguf: llama\.rope\.base is 'x', and must be a num"):
        fields.number("base")
    with pytest.raises(FormatError, match=r"there: a\.list\[1\]\.n is missing"):
        Fields({"list": [{}, {}]}, "there", "a.").tables("list")[1].integer("n")


@pytest.mark.parametrize(
    "value",
    [
        "plain\u202eturned\u2066\x1b[31mred\nline\r\x00\ud800\u2028",
        "x" * 1_000_000,
        b"\x1b" * 1000,
        10**9000,
        [10**4000],
        [["a" * 1000] * 1000] * 1000,
        {"\x1b[2J" * 100: {"a": {"b": {"c": {}}}}},
        np.arange(100_000),
    ],
    ids=range(8),
)
def test_what_a_message_shows_is_short_and_printable(value: Any) -> None:
    text = shown(value)
    assert text.isprintable()
    assert len(text) < 70
    told = str(Fields({"\x1b[2J" * 50: value}, "there").error("\x1b[2J" * 50, "a number"))
    assert told.isprintable()
    assert len(told) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"k": 1, "x": 2, "k": 3}}', "the key 'k' stands twice in one object"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply"),
        (b'{"a":[' * 500, "nested too deeply"),
        ('{"a": [' + "{}," * 1_400_000 + "{}]}", "too many lists and objects"),
        ("1" * 10_000, "digits"),
        ("[1]", "no object"),
        ("{", "damaged"),
        (b"\xff\xfe\xfd", "damaged"),
    ],
)
def test_json_that_is_no_object(text: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"there: its JSON.*{message}"):
        parse_json(text, "there")


def test_brackets_inside_of_strings_are_not_nested() -> None:
    """Vocabularies have any number of them, and quotes and backslashes."""
    pieces = ["[" * 300, "{[" * 300, '"[', "\\", '\\"[', "]" * 300, "}}"]
    data = {"vocab": {piece: i for i, piece in enumerate(pieces)}, "pairs": [[["a"]]] * 1000}
    assert parse_json(json.dumps(data), "there") == data
    deep: Any = {}
    for _ in range(60):
        deep = {"[": [deep]} if len(str(deep)) % 2 else {"a": deep}
    assert parse_json(json.dumps(deep), "there") == deep


def test_strings_are_left_out_in_linear_time() -> None:
    for text in ('"\\"' * 500_000, '"' * 1_000_001, "[" * 200 + '"' + "\\" * 1_000_001):
        with pytest.raises(FormatError, match="damaged"):
            parse_json(text, "there")
