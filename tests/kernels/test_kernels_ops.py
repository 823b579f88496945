"""Norm, rope, attention and gate in the browser against float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.config import Activation, Rope, RopePairs
from doppler.engine.memory import rope_table
from doppler.plan.layer import ACTIVATIONS
from gpu_page import Case, GpuPage

Array = npt.NDArray[Any]
# float32 rounding over sums of up to some hundred terms; mistakes in a formula are 1e-3 and more.
TOLERANCE = 1e-5
# f16 may round either way: a step of 2^-10 at most.
HALF_TOLERANCE = 1e-3


def padded(values: Array, stride: int) -> Array:
    """Rows [n, width] as float32 [n, stride], zeros beyond the width."""
    out = np.zeros((values.shape[0], stride), np.float32)
    out[:, : values.shape[1]] = values
    return out


def vec4s(vector: Array) -> Array:
    return np.pad(vector, (0, -len(vector) % 4)).astype(np.float32)


def state(count: int, position: int = 0) -> Array:
    return np.array([position, count, 0, 0, 0], np.uint32)


def assert_close(out: Array, exact: Array) -> None:
    """Within the rounding of what `out` is made of, relative to the largest of each row."""
    scale = np.maximum(np.abs(exact).max(axis=-1, keepdims=True), 1e-30)
    margin = HALF_TOLERANCE if out.dtype == np.float16 else TOLERANCE
    assert (np.abs(out.astype(np.float64) - exact) / scale).max() < margin


def cache_type(half: bool) -> type[np.floating[Any]]:
    """What keys and values are kept as."""
    return np.float16 if half else np.float32


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Random numbers that float32 holds, as float64."""
    return rng.standard_normal(shape, np.float32).astype(np.float64)


# Where a head's sinks lie, scores being around 0 and seldom beyond ±10: there are none, they take
# part, take nearly all, take nothing.
SINKS = (None, 0.0, 15.0, -60.0)


def sinks_at(rng: np.random.Generator, heads: int, at: float | None) -> Array | None:
    """A sink a head, around `at`, as float64; None for None."""
    return None if at is None else (at + normal(rng, heads)).astype(np.float32).astype(np.float64)


def in_ring(kept: Array, capacity: int) -> Array:
    """Keys or values [kv_heads, positions, d] where a ring [kv_heads, capacity, d] has them: the
    latest position of each slot, and what would show where there is none.
    """
    out = np.full((kept.shape[0], capacity, kept.shape[2]), 100.0, kept.dtype)
    for position in range(kept.shape[1]):
        out[:, position % capacity] = kept[:, position]
    return out


def bound_sinks(sinks: Array | None) -> dict[str, Array]:
    """What a kernel binds of them."""
    return {} if sinks is None else {"sinks": sinks.astype(np.float32)}


def norm_case(
    rng: np.random.Generator, width: int, tokens: int, branch: bool, post: bool
) -> tuple[Case, tuple[Array, Array]]:
    """A case and the exact (x, out) of its real tokens; the last of the batch is not real."""
    stride, eps, offset = -(-width // 4) * 4 + 4, 1e-6, 1.0 if post else 0.0
    x, b = normal(rng, tokens + 1, width), 3 * normal(rng, tokens + 1, width)
    w, p = normal(rng, width), normal(rng, width)
    arrays = {
        "x": padded(x, stride),
        "weight": vec4s(w),
        "out": np.zeros((tokens + 1, stride), np.float32),
        "state": state(tokens),
    }
    arrays |= {"branch": padded(b, stride)} if branch else {}
    arrays |= {"post": vec4s(p)} if post else {}
    case = Case(
        "norm",
        {"HAS_BRANCH": int(branch), "HAS_POST": int(post)},
        arrays,
        {"width": width, "stride": stride, "eps": eps, "offset": offset},
        ["x", "out"],
        tokens + 1,
    )
    real = slice(0, tokens)
    exact = references.norm(
        x[real], b[real] if branch else None, p if post else None, w, eps, offset
    )
    return case, exact


def test_norm(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(0)
    made = [
        norm_case(rng, width, tokens, branch, post)
        for width in (1, 6, 67, 640)
        for tokens in (1, 3)
        for branch, post in ((False, False), (True, False), (True, True))
    ]
    for (case, (x, out)), result in zip(made, gpu_page.run([c for c, _ in made]), strict=True):
        tokens, width = out.shape
        assert_close(result["x"][:tokens, :width], x)
        assert_close(result["out"][:tokens, :width], out)
        np.testing.assert_array_equal(result["x"][tokens], case.arrays["x"][tokens])
        assert not result["out"][tokens].any()
        assert not result["out"][:, width:].any()


def rope_case(
    rng: np.random.Generator,
    heads: tuple[int, int],
    head_dim: int,
    pairs: RopePairs,
    qk_norm: bool,
    position: int,
    rope: Rope,
    half: bool,
    capacity: int | None = None,
) -> tuple[Case, tuple[Array, Array, Array]]:
    """A case of three real tokens in a batch of four, and the exact q, k, v."""
    (q_heads, kv_heads), tokens, eps, offset = heads, 3, 1e-6, 1.0
    context = position + 5
    width = (q_heads + 2 * kv_heads) * head_dim
    stride = width + 4
    qkv = normal(rng, tokens + 1, width)
    q_norm, k_norm = normal(rng, head_dim), normal(rng, head_dim)
    cache = np.zeros((kv_heads, capacity or context, head_dim), cache_type(half))
    arrays = {
        "qkv": padded(qkv, stride),
        "angles": np.array(rope_table(rope, head_dim, context)),
        "keys": cache,
        "values": cache.copy(),
        "state": state(tokens, position),
    }
    if qk_norm:
        arrays |= {"q_norm": vec4s(q_norm), "k_norm": vec4s(k_norm)}
    case = Case(
        "rope",
        {
            "HEAD_DIM": head_dim,
            "PAIRS": int(pairs == "interleaved"),
            "QK_NORM": int(qk_norm),
            "KV_HALF": int(half),
            "RING": int(capacity is not None),
        },
        arrays,
        {
            "heads": q_heads,
            "kv_heads": kv_heads,
            "stride": stride,
            "context": context,
            "capacity": capacity or context,
            "eps": eps,
            "offset": offset,
        },
        ["qkv", "keys", "values"],
        tokens + 1,
    )
    parts = qkv[:tokens].reshape(tokens, -1, head_dim)
    q, k, v = np.split(parts, [q_heads, q_heads + kv_heads], axis=1)
    if qk_norm:
        q = references.rms(q, q_norm, eps, offset)
        k = references.rms(k, k_norm, eps, offset)
    places = position + np.arange(tokens)
    frequencies = np.array(rope.inverse_frequencies(head_dim))
    q, k = (references.rotate(part, places, frequencies, pairs) for part in (q, k))
    return case, (q, k, v)


ROPES = (
    Rope(10_000.0),
    Rope(1_000_000.0, "linear", 8.0),
    Rope(500_000.0, "llama3", 32.0, 1.0, 4.0, 8192),
)


def test_rope(gpu_page: GpuPage) -> None:
    """Every variant of norm, pairs and scaling, at the start and up to position 100,000."""
    rng = np.random.default_rng(1)
    shapes: list[tuple[int, int]] = [(3, 1), (4, 2)]
    variants: list[tuple[RopePairs, bool]] = [
        ("half", False),
        ("half", True),
        ("interleaved", False),
        ("interleaved", True),
    ]
    made = [
        rope_case(
            rng, shapes[index % 2], head_dim, pairs, qk_norm, position, ROPES[index % 3], half
        )
        for index, (pairs, qk_norm) in enumerate(variants)
        for head_dim, position, half in (
            (12, 7, True),
            (16, 0, False),
            (64, 61, True),
            (80, 1023, False),
            (80, 1023, True),
            (256, 100, False),
            (256, 100, True),
        )
    ]
    made += [rope_case(rng, (3, 1), 4, "half", False, 99_997, rope, half=False) for rope in ROPES]
    made += [
        rope_case(rng, (4, 2), 64, "half", True, position, ROPES[0], half, capacity=11)
        for position, half in (
            (2, False),
            (9, True),
            (43, False),
            (109, True),
        )  # also cut by the end
    ]
    for (case, (q, k, v)), result in zip(made, gpu_page.run([c for c, _ in made]), strict=True):
        tokens, heads, head_dim = q.shape
        position = int(case.arrays["state"][0])
        out = result["qkv"][:tokens, : heads * head_dim].reshape(q.shape)
        assert_close(out, q)
        real = (position + np.arange(tokens)) % case.params["capacity"]
        assert_close(result["keys"][:, real].transpose(1, 0, 2), k)
        values = result["values"][:, real].transpose(1, 0, 2)
        assert_close(values, v)
        if values.dtype == np.float32:
            np.testing.assert_array_equal(values, v.astype(np.float32))
        rest = np.delete(result["keys"], real, axis=1)
        assert not rest.any()
        untouched = result["qkv"][:, heads * head_dim :]
        np.testing.assert_array_equal(untouched, case.arrays["qkv"][:, heads * head_dim :])
        np.testing.assert_array_equal(result["qkv"][tokens], case.arrays["qkv"][tokens])


def attention_case(
    rng: np.random.Generator,
    heads: tuple[int, int],
    head_dim: int,
    position: int,
    tokens: int,
    window: int,
    half: bool,
    sinks_are: float | None,
    ring: bool,
) -> tuple[Case, Array]:
    """A case (the last token of its batch is not real) and the exact output. A ring has no more
    slots than it needs.
    """
    q_heads, kv_heads = heads
    context = position + tokens + 3
    capacity = window + tokens - 1 if ring else context
    q_stride = (q_heads + 2 * kv_heads) * head_dim + 4
    out_stride = q_heads * head_dim + 4
    q = 3 * normal(rng, tokens + 1, q_heads * head_dim)
    keys, values = (
        normal(rng, kv_heads, context, head_dim).astype(cache_type(half)) for _ in range(2)
    )
    scale, sinks = head_dim**-0.5, sinks_at(rng, q_heads, sinks_are)
    arrays = {
        "qkv": padded(q, q_stride),
        "keys": in_ring(keys[:, : position + tokens], capacity),
        "values": in_ring(values[:, : position + tokens], capacity),
        "out": np.zeros((tokens + 1, out_stride), np.float32),
        "state": state(tokens, position),
        **bound_sinks(sinks),
    }
    params = {
        "heads": q_heads,
        "kv_heads": kv_heads,
        "q_stride": q_stride,
        "out_stride": out_stride,
        "context": context,
        "capacity": capacity,
        "window": window,
        "scale": scale,
    }
    constants = {"HEAD_DIM": head_dim, "KV_HALF": int(half), "RING": int(ring)}
    constants["SINKS"] = int(sinks is not None)
    case = Case("attention", constants, arrays, params, ["out"], tokens + 1)
    queries = q[:tokens].reshape(tokens, q_heads, head_dim)
    exact_keys, exact_values = keys.astype(np.float64), values.astype(np.float64)
    exact = references.attention(queries, exact_keys, exact_values, position, window, scale, sinks)
    return case, exact.reshape(tokens, -1)


def test_attention(gpu_page: GpuPage) -> None:
    """Prefill and decode; windows smaller than, equal to and larger than what there is."""
    rng = np.random.default_rng(2)
    places = ((0, 1), (0, 17), (63, 2), (190, 3))
    made = [
        attention_case(
            rng, heads, head_dim, position, tokens, window, heads == (4, 2), SINKS[index % 4], ring
        )
        for heads in ((3, 1), (4, 2))
        for head_dim in (16, 64, 80, 256)
        for position, tokens in places
        for index, window in enumerate((0, 1, 70, position + tokens, 1000), start=position)
        for ring in (False, True)[: 2 if 0 < window <= position else 1]
    ]
    results = gpu_page.run([case for case, _ in made])
    for (_, exact), result in zip(made, results, strict=True):
        tokens, width = exact.shape
        assert_close(result["out"][:tokens, :width], exact)
        assert not result["out"][tokens].any()
        assert not result["out"][:, width:].any()


def gate_case(
    rng: np.random.Generator, ffn: int, tokens: int, activation: Activation
) -> tuple[Case, Array]:
    """A case (the last token of its batch is not real) and the exact output; some gates are so
    large that exp or tanh would overflow.
    """
    up0 = -(-ffn // 4) * 4
    gates, ups = normal(rng, tokens + 1, ffn) * 4, normal(rng, tokens + 1, ffn)
    gates[0, 0] = -200.0
    gates[-2, -1] = 200.0
    arrays = {
        "gate_up": np.concatenate([padded(gates, up0), padded(ups, up0)], axis=1),
        "out": np.zeros((tokens + 1, up0 + 4), np.float32),
        "state": state(tokens),
    }
    params = {"ffn": ffn, "in_stride": 2 * up0, "up0": up0, "out_stride": up0 + 4, "each": 1}
    constants = {"ACTIVATION": ACTIVATIONS[activation]}
    case = Case("gate", constants, arrays, params, ["out"], tokens + 1)
    return case, references.gate(gates, ups, activation)[:tokens]


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gate(gpu_page: GpuPage, activation: Activation) -> None:
    rng = np.random.default_rng(3)
    made = [gate_case(rng, *shape, activation) for shape in ((1, 1), (67, 3), (260, 17))]
    for (_, right), result in zip(made, gpu_page.run([c for c, _ in made]), strict=True):
        tokens, ffn = right.shape
        assert_close(result["out"][:tokens, :ffn], right)
        assert not result["out"][tokens].any()
        assert not result["out"][:, ffn:].any()
