"""What kernels that keep a state from token to token compute, in NumPy; references.py has the rest.

Functions keep the precision of what they are given. Shapes are without padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from doppler.config.mixers import LENGTH_EPS, DeltaNet

Array = npt.NDArray[Any]


def gated_delta(
    q: Array, k: Array, v: Array, decays: Array, rates: Array, memory: Array
) -> tuple[Array, Array]:
    """The gated delta rule (arXiv 2412.06464): what each token reads, and the memory afterwards.

    q, k [n, heads, key_dim], v [n, heads, value_dim], decays and rates [n, heads]; a head's memory
    [heads, value_dim, key_dim] fades, takes what of v it does not hold for k, and is read for q.
    """
    out = np.empty_like(v)
    for t in range(len(q)):
        memory = memory * decays[t, :, None, None]
        missing = v[t] - np.einsum("hvk,hk->hv", memory, k[t])
        memory = memory + np.einsum("hv,hk->hvk", rates[t, :, None] * missing, k[t])
        out[t] = np.einsum("hvk,hk->hv", memory, q[t])
    return out, memory


def unit(x: Array, eps: float = LENGTH_EPS) -> Array:
    """x / √(Σx² + eps) over the last axis."""
    out: Array = x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps)
    return out


def delta_rates(beta: Array, alpha: Array, a: Array, dt: Array) -> tuple[Array, Array]:
    """What is projected, [n, heads] -> decays e^(a · softplus(alpha + dt)), and rates σ(beta)."""
    x = alpha + dt
    softplus = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return np.exp(a * softplus), sigmoid(beta)


def sigmoid(x: Array) -> Array:
    """σ(x); beyond -80, float32 would overflow."""
    out: Array = 1 / (1 + np.exp(-np.maximum(x, -80.0)))
    return out


def head_gate(x: Array, gates: Array, weight: Array | None, eps: float) -> Array:
    """Heads x [n, heads, d] · σ(gates); with a weight [d], rms(x) · weight · gates · σ(gates)."""
    if weight is None:
        return x * sigmoid(gates)
    normed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    out: Array = normed * weight * gates * sigmoid(gates)
    return out


def delta_net(net: DeltaNet, qkv: Array, rates: tuple[Array, Array]) -> Array:
    """What a prompt's tokens read, [n, value_heads, value_dim]; qkv [n, channels], convolved.

    rates: decays and rates [n, value_heads].
    """
    n, heads = len(qkv), np.arange(net.value_heads)
    q, k, v = np.split(qkv, [net.key_width, 2 * net.key_width], axis=1)
    own = heads % net.key_heads if net.tiled else heads * net.key_heads // net.value_heads
    q, k = (unit(it.reshape(n, net.key_heads, net.key_dim))[:, own] for it in (q, k))
    v = v.reshape(n, net.value_heads, net.value_dim)
    memory = np.zeros((net.value_heads, net.value_dim, net.key_dim), q.dtype)
    out, _ = gated_delta(q / np.sqrt(q.dtype.type(net.key_dim)), k, v, *rates, memory)
    return out
