"""Manifests: their identity, and what is checked when one is read."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from doppler.convert.outline import outline_safetensors
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import folder_sources
from doppler.store.manifest import Manifest, TokenizerInfo
from doppler.store.sharded import Shard
from storable import storable

HASH = "0" * 64


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    info = TokenizerInfo(10, HASH, 1, (2, 3), True, "{{ messages }} ü")
    return replace(storable().manifest, tokenizer=info)


def test_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), "manifest.json") == manifest


def test_identity_is_of_the_description_only(manifest: Manifest) -> None:
    data = json.loads(manifest.to_json())
    canonical = json.dumps(
        data["description"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert manifest.identity == data["identity"] == blake3(canonical.encode()).hexdigest()
    renamed = replace(manifest, name="other", title="Other", license="mit", shards=())
    assert renamed.identity == manifest.identity
    assert replace(manifest, tokenizer=None).identity != manifest.identity


def test_what_it_tells(manifest: Manifest) -> None:
    assert manifest.tensor("output_norm.weight").shape == (256,)
    assert manifest.quantization in {tensor.type for tensor in manifest.tensors}
    assert manifest.parameters > 4400 * 256


def set_at(*path: Any) -> Callable[[Any], None]:
    """An edit that sets the value at the path, its last element."""

    def edit(data: Any) -> None:
        for key in path[:-2]:
            data = data[key]
        data[path[-2]] = path[-1]

    return edit


D = "description"
EDITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "version": (set_at("doppler", 9), "version 9"),
    "identity": (set_at("identity", HASH), "identity"),
    "description": (set_at(D, "tokenizer", "bos", 5), "identity"),
    "field missing": (lambda data: data[D].pop("blocks"), "description.blocks is missing"),
    "field of another kind": (set_at(D, "bytes", "12"), "description.bytes is '12'"),
    "bool for int": (set_at(D, "bytes", True), "description.bytes is True"),
    "config": (set_at(D, "config", "hidden", 0), "hidden is 0"),
    "config field": (lambda data: data[D]["config"].pop("heads"), "heads"),
    "eos": (set_at(D, "tokenizer", "eos", ["2"]), "eos"),
    "tensor missing": (lambda data: data[D]["tensors"].pop(), "'output_norm.weight' is missing"),
    "tensor twice": (lambda data: data[D]["tensors"].append(data[D]["tensors"][0]), "twice"),
    "tensor unknown": (set_at(D, "tensors", 0, "name", "x"), "missing"),
    "tensor's shape": (set_at(D, "tensors", 0, "shape", [1, 256]), "has shape"),
    "shape": (set_at(D, "tensors", 0, "shape", [0]), r"tensors\[0\].shape is \[0\]"),
    "tensor's bytes": (set_at(D, "tensors", 0, "bytes", 1), "cannot have 1 bytes"),
    "tensor's offset": (set_at(D, "tensors", 1, "offset", 0), "cannot lie at 0"),
    "bytes": (set_at(D, "bytes", 256), "byte space at 256"),
    "block size": (set_at(D, "block_size", 7), "blocks of 7 bytes"),
    "block count": (lambda data: data[D]["blocks"].pop(), "blocks of"),
    "block hash": (set_at(D, "blocks", 1, "xyz"), "hash of block 1"),
    "shard name": (set_at("shards", 0, "name", "../x"), "cannot be a shard's name"),
    "shard offset": (set_at("shards", 1, "offset", 5), "begins at 5"),
    "shard hash": (set_at("shards", 1, "sha256", "5"), "sha256 of shard-00001"),
    "shard missing": (lambda data: data["shards"].pop(), "the shards hold"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_is_wrong_is_named(manifest: Manifest, name: str) -> None:
    edit, message = EDITS[name]
    data = copy.deepcopy(json.loads(manifest.to_json()))
    edit(data)
    with pytest.raises(FormatError, match=f"^there: .*{message}"):
        Manifest.from_json(json.dumps(data), "there")


def test_other_text_and_types(manifest: Manifest) -> None:
    with pytest.raises(FormatError, match="there is not a manifest: its JSON is damaged"):
        Manifest.from_json("<html>", "there")
    with pytest.raises(FormatError, match="there is not a manifest: its JSON is no object"):
        Manifest.from_json("[]", "there")
    with pytest.raises(FormatError, match="there: doppler is missing"):
        Manifest.from_json("{}", "there")
    data = json.loads(manifest.to_json())
    data[D]["tensors"][0]["type"] = "IQ1_S"
    with pytest.raises(UnsupportedError, match="IQ1_S"):
        Manifest.from_json(json.dumps(data), "there")


def identified(data: Any) -> str:
    """The text, with the identity of whatever its description is now."""
    canonical = json.dumps(data[D], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    with contextlib.suppress(UnicodeEncodeError):
        data["identity"] = blake3(canonical.encode()).hexdigest()
    return json.dumps(data)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of nested data, as what holds it and its key there; a list's first two."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:2])
    for key, value in list(items):
        yield data, key
        if isinstance(value, (dict, list)):
            yield from places(value)


VALUES = [None, True, -1, 0, 5, 0.5, 10**400, 10**4000, 1e300, float("inf"), float("nan"), "x"]
VALUES += ["\ud800", "\u202e\x1b[31m" * 999, [], [1], [[[]]] * 99, {}, {"a": 1}, 2**31, 1e-300]


@pytest.mark.parametrize("experts", [False, True])
def test_any_value_in_any_place(manifest: Manifest, experts: bool) -> None:
    """What is no model is refused in one line, whatever its identity says."""
    if experts:
        path = Path(__file__).parents[1] / "fixtures" / "mixtral-like"
        outlines = asyncio.run(
            outline_safetensors(folder_sources(path), MemoryBuffers(), "x", ("none",))
        )
        manifest = outlines["none"].manifest
        blocks = (HASH,) * -(-manifest.bytes // manifest.block_size)
        shard = Shard("shard-00000.bin", 0, manifest.bytes, HASH, HASH)
        manifest = replace(manifest, blocks=blocks, shards=(shard,))
    data = json.loads(manifest.to_json())
    assert Manifest.from_json(identified(data), "there") == manifest
    read = refused = 0
    for holder, key in places(data):
        kept = holder[key]
        for value in VALUES:
            holder[key] = value
            try:
                again = Manifest.from_json(identified(data), "there")
                assert Manifest.from_json(again.to_json(), "there") == again
                read += 1
            except DopplerError as error:
                refused += 1
                told = str(error)
                assert told.startswith("there")
                assert told.isprintable()
                assert len(told) < 400
        holder[key] = kept
    assert refused > 10 * read > 0


def test_what_is_claimed_costs_nothing(manifest: Manifest) -> None:
    data = json.loads(manifest.to_json())
    config = data[D]["config"]
    config["layers"] = config["layers"][:1] * 4096
    config["experts"] = {"count": 1024, "used": 1, "normed": True}
    texts = [identified(data)]
    config["layers"] *= 2
    texts.append(identified(data))
    data[D]["bytes"] = 2**52
    data[D]["block_size"] = 256
    texts.append(identified(data))
    for text in texts:
        tracemalloc.start()
        with pytest.raises(FormatError, match=r"is missing|at most 4096 objects"):
            Manifest.from_json(text, "there")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + (8 << 20)
        tracemalloc.stop()
