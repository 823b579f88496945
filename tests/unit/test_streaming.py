"""Which layers of a dense model are streamed within a budget, and what the host keeps of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from doppler.engine.build import build
from doppler.engine.chunks import ChunkSizes
from doppler.engine.fit import fits
from doppler.engine.footprint import Fit, Options, needed, planned
from doppler.errors import CorruptError, DeviceError
from doppler.gpu.kernels import Device, Kernels
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage
from doppler.store.shards import ShardStore
from doppler.weights.coming import Coming, fill
from doppler.weights.host_tier import HostTier, Span
from doppler.weights.streamed import RINGS
from paper_engine import PaperGpu, large_gpu, least_gpu, synthetic
from storable import storable

DENSE = ("llama-3.2-1b", "gemma-3-1b", "gemma-4-e2b")  # alike; with windows; sharing keys
OPTIONS = Options(4096, 512, kv="f16", half=True, host_budget=0)  # keys and values stay
ROOMY = replace(OPTIONS, gpu_budget=1 << 40)


def kept_within(name: str, budget: int | None) -> list[int | None]:
    """Layers that stay, of each way to place it."""
    manifest, options = synthetic(name), replace(OPTIONS, gpu_budget=budget)
    return [fit.kept for _, fit in fits(large_gpu(), manifest, options)]


@pytest.mark.parametrize("name", DENSE)
def test_as_many_layers_stay_as_have_room(name: str) -> None:
    gpu, manifest = large_gpu(), synthetic(name)
    layers = len(manifest.config.layers)
    host_rows = OPTIONS.batch if manifest.config.per_layer else 0
    for wanted in (0, layers // 2):
        fit = Fit(host_rows, kept=wanted)
        budget = needed(gpu, manifest, ROOMY, fit)
        options = replace(OPTIONS, gpu_budget=budget)
        ways = list(fits(gpu, manifest, options))
        assert {it.batch for it, _ in ways} == {OPTIONS.batch}
        first, *smaller = (it for _, it in ways)
        assert first == fit
        kept = [it.kept or 0 for it in (first, *smaller)]
        assert kept == sorted(set(kept), reverse=True)
        assert kept[-1] == 0
        paper = large_gpu()
        engine = asyncio.run(build(Device(paper, Kernels(paper, {})), manifest, options))
        assert engine.weights.streamed is not None
        assert len(engine.weights.streamed.layers) == layers - wanted
        assert paper.peak <= budget


def test_all_stay_where_they_have_room() -> None:
    name = "llama-3.2-1b"
    gpu, manifest = large_gpu(), synthetic(name)
    whole = needed(gpu, manifest, ROOMY, Fit())
    assert kept_within(name, whole)[0] is None
    smaller, fit = next(fits(gpu, manifest, replace(OPTIONS, gpu_budget=whole - 1)))
    assert fit == Fit()
    assert smaller.batch < OPTIONS.batch
    refused = kept_within(name, None)  # by the device, again and again
    assert refused[:2] == [None, len(manifest.config.layers) - RINGS - 1]
    assert refused[-1] == 0


def test_less_than_the_least_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"needs \d+ bytes of GPU memory at least") as refused:
        kept_within("llama-3.2-1b", 100 << 20)
    least = int(str(refused.value).split(" needs ")[1].split(" ")[0])
    manifest = synthetic("llama-3.2-1b")
    embedding = manifest.tensor("token_embd.weight").bytes
    assert embedding < least < manifest.parameters // 2


@pytest.mark.parametrize("gpu", [large_gpu(), least_gpu()], ids=["large", "least"])
@pytest.mark.parametrize("name", DENSE)
def test_layers_take_turns(name: str, gpu: PaperGpu) -> None:
    """No layer lies where the one before it does, and its matrices lie apart."""
    manifest, options = synthetic(name), replace(OPTIONS, half="shader-f16" in gpu.features)
    weights = planned(gpu, manifest, options, Fit(kept=3)).weights
    assert weights.streamed is not None
    layers = weights.streamed.layers
    place = {name: names for names in weights.streamed.shared for name in names}
    used = [
        {part.codes.buffer for it in tensors for part in weights.places[it.name][0].slices}
        for tensors in layers.values()
    ]
    places = [{place[name] for name in names} for names in used]
    assert [len(each) for each in places] == [len(names) for names in used]
    assert all(one.isdisjoint(other) for one, other in pairwise(places))
    assert place.keys() == set().union(*used)
    wanted = {
        name for name in weights.places if name.startswith("blk.") and int(name.split(".")[1]) >= 3
    }
    assert {it.name for tensors in layers.values() for it in tensors} == wanted
    sizes = [size for _, size in weights.allocations]
    assert sum(sizes) < sum(weights.buffers.values())


def test_chunks_are_large_where_each_brings_weights() -> None:
    chunks = ChunkSizes(512, are_few=True)
    assert chunks.size(2000) == 512
    assert chunks.size(300) == 512
    assert chunks.size(100) == 256
    chunks.note(512, 512, 60_000.0)
    assert chunks.size(2000) == 512


def test_parts_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """Only a part's own bytes are kept; of those used in turn, the ones that came first stay."""
    model = storable()
    model.save(tmp_path)
    block = model.manifest.block_size
    spans = {
        (0, 0): Span(256, 3 * block - 512),
        (0, 1): Span(3 * block - 256, block),
        (1, 0): Span(4 * block - 256, 4 * block),
        (1, 1): Span(8 * block - 256, model.manifest.bytes - 8 * block + 256),
    }
    store = ShardStore(model.manifest, FolderStorage(tmp_path), (), MemoryBuffers())
    most = len(model.manifest.blocks) - 7  # that are read for a part: the last one
    budget = (4 + most) * block
    tier = HostTier(store, budget, spans, passing=1)

    async def use() -> list[str]:
        tiers = list[str]()
        for unit, (offset, size) in spans.items():
            async with aclosing(Coming(tier)) as coming:
                data, source = await coming.get([unit])
                assert bytes(data) == model.data[offset : offset + size]
                tiers.append(source)
        return tiers

    assert asyncio.run(use()) == ["storage"] * 4
    assert tier.bytes == 4 * block - 512
    assert tier.peak == tier.bytes + most * block <= budget
    assert asyncio.run(use()) == ["host"] * 2 + ["storage"] * 2


def test_what_is_late_comes_last(tmp_path: Path) -> None:
    """Into a tier that has no room for all; what is read ahead is within the budget, too."""
    model = storable()
    model.save(tmp_path)
    block = model.manifest.block_size
    spans = {(0, number): Span(number * block, block) for number in range(4)}
    store = ShardStore(model.manifest, FolderStorage(tmp_path), (), MemoryBuffers())
    tier = HostTier(store, 3 * block + 1, spans)
    asyncio.run(fill(tier, lambda unit: unit[1] < 2))
    assert [unit for unit in spans if tier.holds(unit)] == [(0, 0), (0, 2), (0, 3)]
    assert tier.peak == tier.bytes == 3 * block


def test_a_part_of_a_damaged_block_is_refused(tmp_path: Path) -> None:
    model = storable()
    model.save(tmp_path)
    path = tmp_path / model.manifest.shards[0].name
    data = bytearray(path.read_bytes())
    data[0] ^= 1  # beside the part, in its block
    path.write_bytes(data)
    store = ShardStore(model.manifest, FolderStorage(tmp_path), (), MemoryBuffers())
    tier = HostTier(store, 1 << 30, {(0, 0): Span(256, 512)}, passing=1)

    async def use() -> None:
        async with aclosing(Coming(tier)) as coming:
            await coming.get([(0, 0)])

    with pytest.raises(CorruptError, match="block 0"):
        asyncio.run(use())
    assert tier.bytes == 0
