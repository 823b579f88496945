"""Manifests: their identity, and what is checked when one is read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from doppler.errors import FormatError, UnsupportedError
from doppler.manifest import Manifest, TokenizerInfo
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
    "field missing": (lambda data: data[D].pop("blocks"), "'blocks' is missing"),
    "field of another kind": (set_at(D, "bytes", "12"), "'bytes' is '12'"),
    "bool for int": (set_at(D, "bytes", True), "'bytes' is True"),
    "config": (set_at(D, "config", "hidden", 0), "hidden is 0"),
    "config field": (lambda data: data[D]["config"].pop("heads"), "heads"),
    "eos": (set_at(D, "tokenizer", "eos", ["2"]), "eos"),
    "tensor missing": (lambda data: data[D]["tensors"].pop(), "'output_norm.weight' is missing"),
    "tensor twice": (lambda data: data[D]["tensors"].append(data[D]["tensors"][0]), "twice"),
    "tensor unknown": (set_at(D, "tensors", 0, "name", "x"), "missing"),
    "tensor's shape": (set_at(D, "tensors", 0, "shape", [1, 256]), "has shape"),
    "shape": (set_at(D, "tensors", 0, "shape", [0]), "no shape"),
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
    with pytest.raises(FormatError, match="there is not a manifest"):
        Manifest.from_json("<html>", "there")
    with pytest.raises(FormatError, match="missing"):
        Manifest.from_json("[]", "there")
    data = json.loads(manifest.to_json())
    data[D]["tensors"][0]["type"] = "IQ1_S"
    with pytest.raises(UnsupportedError, match="IQ1_S"):
        Manifest.from_json(json.dumps(data), "there")
