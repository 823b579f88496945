"""What a token may cost, counted on plans: no clock, no GPU.

Budgets are what the plans need today. A plan that needs less may lower its number here; one that
needs more has to say why.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from doppler.store.manifest import MANIFEST_FILE, Manifest
from paper_engine import PaperGpu, large_gpu, least_gpu, paper_engine, synthetic

CONTEXT = 4096
MOST_MEMORY = 1.10  # of weights and KV cache together
# Dispatches of a token after 128 and after 4,000 on a large GPU, and on the least that there is.
DISPATCHES = {
    "gemma-3-1b": (134, 138, 162),
    "gemma-3-4b": (182, 187, 220),
    "llama-3.2-1b": (88, 104, 104),
    "llama-3.2-3b": (150, 178, 180),
    "gemma-3-270m": (94, 97, 114),
    "smollm2-135m-instruct": (154, 184, 184),
}
SHIPPED = ("gemma-3-270m", "smollm2-135m-instruct")
# Bytes of keys and values in f16 at a context of 4,096 and of 32,768 tokens, with batches of 512.
CACHES = {
    "gemma-3-1b": (39_845_888, 157_286_400),
    "gemma-3-4b": (266_338_304, 853_540_864),
    "llama-3.2-1b": (134_217_728, 1_073_741_824),
    "llama-3.2-3b": (469_762_048, 3_758_096_384),
    "gemma-3-270m": (28_311_552, 116_391_936),
    "smollm2-135m-instruct": (94_371_840, 754_974_720),
}
# Megabytes of weights that a token reads: body and head.
MEGABYTES = {
    "gemma-3-1b": 576.4,
    "gemma-3-4b": 2243.8,
    "llama-3.2-1b": 714.1,
    "llama-3.2-3b": 1852.2,
    "gemma-3-270m": 249.3,
    "smollm2-135m-instruct": 96.5,
}


@pytest.fixture(params=DISPATCHES)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def manifest(name: str, request: pytest.FixtureRequest) -> Manifest:
    """A shipped model's own, or that of a synthetic one."""
    if name not in SHIPPED:
        return synthetic(name)
    folder: Path = request.getfixturevalue("models") / name
    return Manifest.from_json((folder / MANIFEST_FILE).read_text("utf-8"), name)


def test_dispatches(name: str, manifest: Manifest) -> None:
    """Few, whatever the adapter: 160 for a model of 26 layers is the least to hold."""
    short, long, least = DISPATCHES[name]
    engine = paper_engine(manifest, large_gpu(), CONTEXT)
    assert len(engine.steps(128, 1)) <= short
    assert len(engine.steps(4000, 1)) <= long
    engine = paper_engine(manifest, least_gpu(), CONTEXT)
    assert len(engine.steps(128, 1)) <= least
    assert len(engine.steps(4000, 1)) <= least


@pytest.mark.parametrize("gpu", [large_gpu(), least_gpu()], ids=["large", "least"])
def test_every_weight_is_read_once(name: str, manifest: Manifest, gpu: PaperGpu) -> None:
    """A token multiplies with each matrix once; embeddings that are not the head are looked up."""
    engine = paper_engine(manifest, gpu, CONTEXT)
    read = Counter(
        plane
        for step in engine.steps(128, 1)
        if step.kernel.startswith("mat")
        for key in ("codes", "scales")
        for plane in [step.bindings.get(key)]
        if plane is not None
    )
    matrices = [
        matrix
        for key, matrix in engine.weights.matrices.items()
        if key != "token_embd.weight" or manifest.config.tied
    ]
    planes = [p for matrix in matrices for part in matrix.slices for p in part.bindings().values()]
    assert read == Counter(planes)
    work = engine.work(128, 1)
    size = sum(w.bytes for w in work if w.kernel.startswith("mat"))
    assert size == sum(plane.size for plane in planes)
    assert size <= MEGABYTES[name] * 1e6


def test_keys_and_values_are_read_once(manifest: Manifest) -> None:
    """Of the tokens that a layer sees: its window's, or all."""
    engine = paper_engine(manifest, large_gpu(), CONTEXT)
    config = manifest.config
    for seen in (128, 4000):
        work = [w for w in engine.work(seen, 1) if w.kernel.startswith("attention")]
        tokens = sum(min(seen + 1, layer.window or seen + 1) for layer in config.layers)
        assert sum(w.bytes for w in work) == 2 * 2 * config.shape(0).kv_width * tokens


@pytest.mark.parametrize("gpu", [large_gpu, least_gpu])
def test_memory(manifest: Manifest, gpu: type[PaperGpu]) -> None:
    """What there is besides weights and cache is small; weights are as large as their file, but for
    those that were made wider to be stacked.
    """
    paper = gpu()
    paper_engine(manifest, paper, CONTEXT)
    held = paper.memory()
    weights, kv = held["weights"], held["kv"]
    assert held["total"] <= MOST_MEMORY * (weights + kv)
    stored = sum(tensor.bytes for tensor in manifest.tensors)
    assert stored <= weights <= 1.013 * stored


@pytest.mark.parametrize(("context", "at"), [(CONTEXT, 0), (32768, 1)])
def test_cache(name: str, manifest: Manifest, context: int, at: int) -> None:
    """A layer with a window keeps that and a batch, not the whole context."""
    held, config, batch = large_gpu(), manifest.config, 512
    paper_engine(manifest, held, context, batch)
    kept = sum(
        min(layer.window + batch, context) if layer.window else context for layer in config.layers
    )
    assert held.memory()["kv"] == 2 * 2 * config.shape(0).kv_width * kept == CACHES[name][at]
    in_bytes = large_gpu()
    paper_engine(manifest, in_bytes, context, batch, "q8")
    assert in_bytes.memory()["kv"] * 16 == held.memory()["kv"] * 9
