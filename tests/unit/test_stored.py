"""What comes back from storage, damaged in every way: an error that is ours, or nothing lost."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from doppler.errors import DopplerError, FormatError
from doppler.inputs.fields import parse_json
from doppler.inputs.nesting import is_too_deep
from doppler.plan.matvec_configs import Cut
from doppler.store.cut import is_same_cut, recut
from doppler.store.manifest import BLOCK_SIZE
from doppler.store.stored import Origin, as_ours, guarded, read_manifest, read_origin
from storable import storable

SOUND = storable().manifest.to_json().encode()
WRONG = (None, True, -1, 1 << 70, 1e400, "x", "\ud800", [], {}, [[]], {"a": {}})


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where the values of a document are; of a list, the first item only."""
    if isinstance(value, dict):
        return [path, *(p for key, item in value.items() for p in paths(item, (*path, key)))]
    if isinstance(value, list) and value:
        return [path, *paths(value[0], (*path, 0))]
    return [path]


@pytest.mark.parametrize("path", paths(json.loads(SOUND)), ids=str)
def test_a_value_of_another_type_is_our_own_error(path: tuple[str | int, ...]) -> None:
    """Or still a manifest, where the value does not count: its title, say."""
    for wrong in WRONG:
        document = json.loads(SOUND)
        place, last = document, path[-1] if path else None
        for key in path[:-1]:
            place = place[key]
        if last is None:
            document = wrong
        else:
            place[last] = wrong
        with suppress(DopplerError):
            read_manifest(json.dumps(document).encode(), "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        SOUND[:1000],
        SOUND[:-2],
        SOUND + SOUND,
        b"\0" * 1000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b"null",
        b'"text"',
        SOUND.replace(b'"heads"', b'"HEADS"'),
    ],
    ids=range(12),
)
def test_damage_is_our_own_error(data: bytes) -> None:
    with pytest.raises(DopplerError, match="here"):
        read_manifest(data, "here")


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * 100_000, True),
        ("[" * 100_000 + "]" * 100_000, True),
        ('{"a":' * 300 + "1" + "}" * 300, True),
        ('{"a":[' * 160 + "]}" * 160, True),
        ('["' + "[" * 1000 + '"' + ", [" * 200 + "]" * 201, True),
        ('["\\\\", ' + "[" * 200 + "]" * 201, True),
        ("[" * 50 + "]" * 50, False),
        ("[" * 60, False),
        ("[" + "[[[1]]], " * 5000 + "0]", False),
        ('{"' + "[" * 1000 + '": "' + "{" * 1000 + '"}', False),
        ('["' + '\\"[' * 1000 + '"]', False),
        ('["' + "[\\\\" * 500 + '", ' + "[" * 30 + "]" * 31, False),
        ('["' + "[" * 1000, False),
    ],
)
def test_what_is_nested_too_deep(text: str, deep: bool) -> None:
    """In the page, json.loads itself would end Python: brackets in texts are none."""
    assert is_too_deep(text.encode()) == deep
    if deep:
        with pytest.raises(DopplerError, match=r"here.*nested too deep"):
            parse_json(text, "here")


def test_errors_that_nobody_foresaw() -> None:
    def fail() -> None:
        raise MemoryError("for " + "ever" * 100)

    with pytest.raises(DopplerError, match=r"^it is broken \(MemoryError: for ever"):
        guarded(fail, "it is broken")
    ours = DopplerError("told")
    assert as_ours(ours, "x") is ours


def test_an_address_comes_back() -> None:
    url, model = "https://a.example/m", storable().manifest
    assert read_origin(json.dumps({"url": url}).encode()) == Origin(url)
    assert read_origin(None) == Origin()
    assert Origin.of(url, model, model) == Origin(url)
    fine = recut(model, BLOCK_SIZE)
    origin = Origin.of(url, model, fine)
    assert read_origin(origin.to_json().encode()) == origin
    assert is_same_cut(origin.served(fine), model)
    for shards in ((), origin.shards[:-1], (("shard-0.bin", 1), ("shard-1.bin", model.bytes - 1))):
        with pytest.raises(FormatError, match="no cut of the model"):
            Origin(url, None, shards).served(fine)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"url": "http://a',
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"url"',
        b"5",
        b"{}",
        b'{"url": null}',
        b'{"url": 5}',
        b'{"url": ["http://a.example"]}',
        b'{"url": "javascript:alert(1)"}',
        b'{"url": "https://a.example/m", "shards": 5}',
        b'{"url": "https://a.example/m", "shards": [["../x", 5]]}',
        b'{"url": "https://a.example/m", "shards": [["shard-00000.bin", "much"]]}',
        b"[" * 100_000,
        b"\0" * 50,
    ],
)
def test_a_damaged_address_costs_the_address_only(data: bytes) -> None:
    origin = read_origin(data)
    assert origin.url is None
    assert "origin.json is damaged" in (origin.problem or "")


@pytest.mark.parametrize(
    "cut",
    [
        *[(), (8,), (8, 4, 1, 1), (0, 1, 1), (-8, 1, 1), (3, 1, 1), (512, 1, 1), (8, 3, 1)],
        *[(8, 4, 4), ("8", 1, 1), (8.0, 1, 1), (True, 1, 1), (None, 1, 1), ([], 1, 1)],
    ],
)
def test_a_cut_that_no_kernel_has(cut: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Cut.checked(*cut)  # type: ignore[arg-type]
    assert Cut.checked(8, 4, 2) == Cut(8, 4, 2)
