"""The steps of attention, besides its products: rope, and what every head makes of the KV cache.

A layer's keys and values are bound in as few slices of their heads as the adapter allows; each
slice has steps of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from doppler.gpu.step import Step, View
from doppler.gpu.wgsl import Number
from doppler.plan.bindings import rope_table
from doppler.plan.cache import KV_TYPES, CacheSlice
from doppler.plan.layer import PlannedModel
from doppler.plan.tiles import tile_of


def heads_norm(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """Norms all heads of q at once, and all of k, where the model has such norms."""
    c, m, vectors = model.config, model.memory(batch), model.weights.vectors
    if not c.norm_over_heads:
        return
    shape = c.shape(index)
    bindings = {"qkv": m["qkv"], "state": m["state"]}
    bindings |= {name: vectors[f"blk.{index}.attn_{name}.weight"] for name in ("q_norm", "k_norm")}
    params: dict[str, Number] = {"eps": c.norm_eps, "offset": c.norm_offset}
    params |= {"q_width": shape.q_width, "k_width": shape.kv_width, "stride": model.widths.qkv}
    yield Step("heads_norm", {}, bindings, params, batch, f"blk.{index}.heads norm")


def rope(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """Rotates q in place; moves k, rotated, and v into layer `index`'s cache."""
    shared, constants = rope_bindings(model, batch, index), rope_constants(model, index)
    for part in model.layout.cache_slices(index):
        params = {**rope_params(model, index, part), "stride": model.widths.qkv}
        bindings = shared | part.bindings()
        yield Step("rope", constants, bindings, params, batch, f"blk.{index}.rope")


def rope_bindings(model: PlannedModel, batch: int, index: int) -> dict[str, View]:
    """What is bound to rotate q and k, besides the cache."""
    c, m, vectors = model.config, model.memory(batch), model.weights.vectors
    angles = m[rope_table(c.layers[index].rope)]
    bindings = {"qkv": m["qkv"], "angles": angles, "state": m["state"]}
    if _norms_heads(model):
        bindings["q_norm"] = vectors[f"blk.{index}.attn_q_norm.weight"]
        if c.shape(index).key_heads:
            bindings["k_norm"] = vectors[f"blk.{index}.attn_k_norm.weight"]
    return bindings


def rope_constants(model: PlannedModel, index: int) -> dict[str, Number]:
    """Which numbers are pairs, when they are normed, and what there is besides queries."""
    c = model.config
    shape = c.shape(index)
    return {
        "HEAD_DIM": shape.head_dim,
        "PROJECTED": 0 if shape.value_heads else 1 if shape.key_heads else 2,
        "VALUE_NORM": int(c.value_norm and shape.key_heads > 0),
        "PAIRS": int(c.rope_pairs == "interleaved"),
        "QK_NORM": int(_norms_heads(model)) + int(c.norm_after_rope),
        **cached(model, index),
    }


def _norms_heads(model: PlannedModel) -> bool:
    """Whether each head is normed by itself, as it is rotated."""
    return model.config.qk_norm and not model.config.norm_over_heads


def rope_params(model: PlannedModel, index: int, part: CacheSlice) -> dict[str, Number]:
    """Heads, positions and norms of a slice of layer `index`'s cache."""
    c = model.config
    rope = c.ropes[c.layers[index].rope]
    return {
        **heads(model, index, part),
        "eps": c.norm_eps,
        "offset": c.norm_offset,
        "growth": rope.growth,
        "original": max(rope.original_context, 1),
    }


def attention(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """Rotated q and layer `index`'s cache -> attended."""
    c, m, shape = model.config, model.memory(batch), model.config.shape(index)
    constants: dict[str, Number] = {"HEAD_DIM": shape.head_dim, "SINKS": int(c.sinks)}
    constants |= {"SCORE_CAP": c.score_cap, **cached(model, index)}
    kernel = "attention"
    if batch > 1 and not model.adapter.is_cpu:
        kernel = "attention_flash"
        constants |= tile_of(shape.head_dim, model.adapter.workgroup_bytes).constants()
    for part in model.layout.cache_slices(index):
        params = {
            **heads(model, index, part),
            "q_stride": model.widths.qkv,
            "out_stride": shape.q_width,
            "window": c.layers[index].window,
            "scale": c.query_scale,
        }
        bindings = {"qkv": m["qkv"], "out": m["attended"], "state": m["state"]}
        bindings |= part.bindings() | sinks(model, index)
        yield Step(kernel, constants, bindings, params, batch, f"blk.{index}.attention")


def heads(model: PlannedModel, index: int, part: CacheSlice) -> dict[str, Number]:
    """Which heads layer `index` has, and which of them a slice of the cache has."""
    shape = model.config.shape(index)
    return {
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "kv_head0": part.head0,
        "kv_count": part.heads,
        "context": model.layout.context,
        "capacity": part.capacity,
    }


def cached(model: PlannedModel, index: int) -> dict[str, Number]:
    """Constants of cache.wgsl for layer `index`."""
    is_ring = model.layout.capacities[index] < model.layout.context
    return {"KV_TYPE": KV_TYPES[model.layout.kv], "RING": int(is_ring)}


def sinks(model: PlannedModel, index: int) -> dict[str, View]:
    """What kernels with SINKS bind for layer `index`."""
    name = f"blk.{index}.attn_sinks.weight"
    return {"sinks": model.weights.vectors[name]} if model.config.sinks else {}
