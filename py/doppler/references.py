"""What each kernel computes, in NumPy, and a whole forward pass made of it.

The judge of web/kernels/*.wgsl in tests, and a tool for debugging. Functions keep the precision of
what they are given: float64 in, float64 out. Shapes are without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from doppler.config.layer import Experts
from doppler.config.model import Activation, ModelConfig, RopePairs
from doppler.recurrences import delta_net, delta_rates, head_gate, sigmoid
from doppler.sampling import Sampling

Array = npt.NDArray[Any]
ONE = 1 << 24  # weight of the most likely token, in `sample`
LOWEST, ALLOWED = np.float32(-3.4e38), np.float32(-3.3e38)  # of logits.wgsl
UINT = 0xFFFFFFFF
Q8_GROUP, LEAST_SCALE = 32, 1e-30  # of cache.wgsl and cache_write.wgsl


def gather(matrix: Array, tokens: Sequence[int], scale: float) -> Array:
    """Embeddings [n, cols] of `tokens`."""
    rows: Array = matrix[np.asarray(tokens)] * matrix.dtype.type(scale)
    return rows


def rms(x: Array, weight: Array | float, eps: float, offset: float) -> Array:
    """RMSNorm over the last axis: x / sqrt(mean(x²) + eps) · (weight + offset)."""
    out: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * (weight + offset)
    return out


def norm(
    x: Array,
    branch: Array | None,
    post: Array | None,
    weight: Array,
    eps: float,
    offset: float,
) -> tuple[Array, Array]:
    """(x + branch, its RMSNorm); the branch is normed with `post` first where there is one."""
    if branch is not None:
        x = x + (branch if post is None else rms(branch, post, eps, offset))
    return x, rms(x, weight, eps, offset)


def matmul(matrix: Array, x: Array) -> Array:
    """[n, rows] = x [n, cols] · matrix [rows, cols]ᵀ."""
    return x @ matrix.T


def rotate(
    x: Array,
    positions: Array,
    frequencies: Array,
    pairs: RopePairs,
    magnitudes: Array | float = 1.0,
) -> Array:
    """Rotary embedding of x [n, heads, head_dim]; `frequencies` [head_dim/2] radians a position.

    magnitudes [head_dim/2]: what cos and sin are multiplied by.
    """
    angles = np.asarray(positions, np.float64)[:, None, None] * frequencies
    cos, sin = (magnitudes * part for part in (np.cos(angles), np.sin(angles)))
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    half = x.shape[-1] // 2
    first, second = (
        (slice(0, half), slice(half, None))
        if pairs == "half"
        else (slice(0, None, 2), slice(1, None, 2))
    )
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


@dataclass(frozen=True)
class Scores:
    """What attention makes of q · k: it is multiplied by `scale`, and then within ±cap (0: any)."""

    scale: float
    cap: float = 0.0

    def of(self, products: Array) -> Array:
        """Scores in the shape of the products."""
        scores: Array = self.scale * products
        return cap(scores, self.cap) if self.cap else scores


def attention(
    q: Array,
    keys: Array,
    values: Array,
    position: int,
    window: int,
    how: Scores,
    sinks: Array | None = None,
) -> Array:
    """Causal attention of q [n, heads, d], at positions from `position` on -> [n, heads, d].

    keys, values [kv_heads, positions, d]. A window w > 0 lets position p see keys above p - w.
    sinks [heads]: scores without a value, which take a share of the softmax that goes nowhere.
    """
    heads, kv_heads = q.shape[1], keys.shape[0]
    out = np.empty_like(q)
    for t in range(q.shape[0]):
        end = position + t + 1
        start = max(0, end - window) if window else 0
        for head in range(heads):
            kv = head // (heads // kv_heads)
            scores = how.of(keys[kv, start:end] @ q[t, head])
            if sinks is not None:
                scores = np.append(scores, sinks[head])
            shares = np.exp(scores - scores.max())
            out[t, head] = shares[: end - start] @ values[kv, start:end] / shares.sum()
    return out


def q8_codes(x: Array) -> tuple[Array, Array]:
    """(127ths of a group's scale [..., d], not yet rounded; scales) of keys or values x [..., d].

    A scale, of every 32 numbers or what is left of a row, is the largest magnitude among them.
    """
    firsts = np.arange(0, x.shape[-1], Q8_GROUP)
    scales = np.maximum.reduceat(np.abs(x), firsts, axis=-1)
    spread = _spread(scales, x.shape[-1])
    return 127 * x / np.where(spread > LEAST_SCALE, spread, np.inf), scales


def q8_numbers(codes: Array, scales: Array) -> Array:
    """What codes [..., d] stand for."""
    numbers: Array = codes / 127 * _spread(scales, codes.shape[-1])
    return numbers


def _spread(scales: Array, width: int) -> Array:
    """The scale of each number of rows."""
    return np.repeat(scales, Q8_GROUP, axis=-1)[..., :width]


def conv(inputs: Array, filters: Array, earlier: Array) -> Array:
    """Causal convolution of each channel: out[t, c] = Σ_j filters[c, j] · all[t + j, c].

    `all` are the inputs [n, channels] behind the `earlier` ones [taps - 1, channels], the latest
    last; filters [channels, taps].
    """
    every = np.concatenate([earlier, inputs])
    taps = filters.shape[1]
    parts = [filters[:, j] * every[j : j + len(inputs)] for j in range(taps)]
    return np.sum(parts, axis=0, dtype=inputs.dtype)


def conv_inputs(rows: Array) -> Array:
    """What LFM2's convolution reads: B ⊙ x, of rows [n, 3 · channels] of B, C and x."""
    b, _, x = np.split(rows, 3, axis=-1)
    out: Array = b * x
    return out


def silu(x: Array) -> Array:
    """x · σ(x)."""
    out: Array = x * sigmoid(x)
    return out


def gate(gates: Array, ups: Array, activation: Activation) -> Array:
    """act(gates) · ups, act being silu or GELU's tanh approximation.

    GPT-OSS's swiglu_clamped: gates up to 7, ups within ±7, (ups + 1) · gates · σ(1.702 gates).
    """
    if activation == "swiglu_clamped":
        gates, ups = np.minimum(gates, 7.0), np.clip(ups, -7.0, 7.0) + 1
        share = sigmoid(1.702 * gates)
    elif activation == "silu":
        share = sigmoid(gates)
    else:
        assert activation == "gelu_tanh"
        share = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gates + 0.044715 * gates**3)))
    out: Array = gates * share * ups
    return out


def xielu(x: Array, numbers: Array) -> Array:
    """xIELU: a · x² + βx above 0, else (expm1(min(x, eps)) - x) · b + βx; numbers: a, b, β, eps."""
    a, b, beta, eps = numbers.astype(x.dtype)
    below = (np.expm1(np.minimum(x, eps)) - x) * b
    out: Array = np.where(x > 0, a * x * x, below) + beta * x
    return out


def route(
    logits: Array, how: Experts, scales: Array | float = 1.0, biases: Array | float = 0.0
) -> tuple[npt.NDArray[np.int64], Array]:
    """Experts of each token [n, used], from the router's logits [n, experts], and their shares.

    scales [experts]: what these are multiplied by. biases [experts]: added where they are chosen.
    """
    if how.sigmoid:
        shares = sigmoid(logits)
    else:
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
    keys = shares + biases if how.biased else logits
    chosen = np.argsort(-keys, axis=-1, kind="stable")[:, : how.used]
    kept = np.take_along_axis(shares, chosen, -1)
    if how.normed:
        kept = kept / np.maximum(kept.sum(axis=-1, keepdims=True), 1e-20)
    kept = kept * logits.dtype.type(how.factor)
    return chosen, kept * np.broadcast_to(scales, logits.shape[-1:])[chosen]


def read(words: npt.NDArray[np.uint32], workgroups: int) -> npt.NDArray[np.uint32]:
    """Sums [workgroups, 256] of what each thread of read.wgsl reads, modulo 2^32."""
    tiles = words.reshape(-1, 4, 256, 4).sum(axis=(1, 3), dtype=np.uint32)
    return np.array([tiles[w::workgroups].sum(axis=0, dtype=np.uint32) for w in range(workgroups)])


@dataclass(frozen=True)
class Choice:
    """What `sample` decided: the token, and the ids among which it was drawn with their weights."""

    token: int
    kept: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]


def sample(
    logits: npt.NDArray[np.float32],
    seen: Sequence[int],
    sampling: Sampling,
    step: int,
    allowed: Sequence[int] | None = None,
) -> Choice:
    """The token number `step` of an answer, with the integer arithmetic of sample.wgsl.

    It is one of those in `allowed` (None: of all).
    """
    z = logits.astype(np.float32)
    ids = np.array(sorted(set(seen)), dtype=np.int64)
    penalty = np.float32(sampling.repetition_penalty)
    z[ids] = np.where(z[ids] < 0, z[ids] * penalty, z[ids] / penalty)
    if not sampling.is_greedy:
        z = z / np.float32(sampling.temperature)
    if allowed is not None:
        z = _masked(z, allowed)
    if sampling.is_greedy:
        best = np.array([np.argmax(z)])
        return Choice(int(best[0]), best, np.array([ONE]))
    weights = (np.exp(z - z.max()) * np.float32(ONE)).astype(np.int64)
    keep = np.ones(len(z), dtype=bool)
    if 0 < sampling.top_k < len(z):
        keep &= z >= np.sort(z)[-sampling.top_k]
    if sampling.top_p < 1:
        keep &= z >= _nucleus(z[keep], weights[keep], sampling.top_p)
    keep &= weights >= max(int(np.ceil(np.float32(sampling.min_p) * np.float32(ONE))), 1)
    kept = np.flatnonzero(keep)
    sums = np.cumsum(weights[kept])
    goal = int(sums[-1]) * pcg(sampling.seed ^ pcg(step)) // 2**32 + 1
    return Choice(int(kept[np.searchsorted(sums, goal)]), kept, weights[kept])


def _masked(z: npt.NDArray[np.float32], allowed: Sequence[int]) -> npt.NDArray[np.float32]:
    """LOWEST for all but those ids, which are above it whatever their z."""
    ids = np.array(allowed)
    masked = np.full_like(z, LOWEST)
    masked[ids] = np.maximum(z[ids], ALLOWED)
    return masked


def _nucleus(z: Array, weights: npt.NDArray[np.int64], top_p: float) -> Any:
    """The z at which the weights, from the largest on, reach top_p of their sum."""
    order = np.argsort(-z, kind="stable")
    sums = np.cumsum(weights[order])
    goal = max(int(sums[-1]) * int(np.float32(top_p) * np.float64(2**32)) // 2**32, 1)
    return z[order[np.searchsorted(sums, goal)]]


def draft(history: Sequence[int], longest: int, most: int) -> list[int]:
    """Up to `most` ids that followed the latest earlier place of the last ids: of as many as match,
    up to `longest`. Beyond the end of history the drafts themselves follow.
    """
    length = len(history)
    best = (0, 0)
    for place in range(1, length):
        same = 0
        while same < min(place, longest) and history[place - 1 - same] == history[-1 - same]:
            same += 1
        best = max(best, (same, place))
    same, place = best
    out = list(history)
    for i in range(most if same else 0):
        out.append(out[place + i])
    return out[length:]


def pcg(x: int) -> int:
    """One output of PCG RXS-M-XS 32: well mixed bits of x."""
    state = (x * 747796405 + 2891336453) & UINT
    word = (((state >> ((state >> 28) + 4)) ^ state) * 277803737) & UINT
    return (word >> 22) ^ word


def forward(
    config: ModelConfig, weights: Callable[[str], npt.NDArray[np.float32]], ids: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Logits [n, vocab] of every position of a prompt, in float32.

    `weights` gives a tensor by its GGUF name: matrices [rows, columns] dequantised, vectors.
    """
    x = gather(weights("token_embd.weight"), ids, config.embedding_scale)
    each = _each_layers_own(config, weights, ids, x) if config.per_layer else None
    kept: dict[int, tuple[Array, Array]] = {}
    for index in range(len(config.layers)):
        tensors = _Tensors(config, weights, index)
        x = _block(config, tensors, x, kept)
        if each is not None:
            x = x + _own_branch(config, tensors, x, each[:, index])
        if config.layer_scales:
            x = x * tensors("layer_output_scale")
    x = rms(x, weights("output_norm.weight"), config.norm_eps, config.norm_offset)
    head = weights("token_embd.weight" if config.tied else "output.weight")
    logits = (config.logit_scale * matmul(head, x)).astype(np.float32, copy=False)
    return cap(logits, config.logit_cap) if config.logit_cap else logits


def cap(logits: Array, most: float) -> Array:
    """most · tanh(logits / most)."""
    out: Array = logits.dtype.type(most) * np.tanh(logits / logits.dtype.type(most))
    return out


def _each_layers_own(
    config: ModelConfig, weights: Callable[[str], Array], ids: Sequence[int], x: Array
) -> Array:
    """Embeddings x [n, hidden] of ids -> those that each layer has of its own, [n, layers, p].

    Half of them are looked up, half are projected from x.
    """
    shape, eps = (len(ids), len(config.layers), config.per_layer), config.norm_eps
    looked_up = gather(weights("per_layer_token_embd.weight"), ids, math.sqrt(config.per_layer))
    projected = matmul(weights("per_layer_model_proj.weight"), x) / math.sqrt(config.hidden)
    weight = weights("per_layer_proj_norm.weight")
    normed = rms(projected.reshape(shape), weight, eps, config.norm_offset)
    return ((looked_up.reshape(shape) + normed) / math.sqrt(2)).astype(x.dtype)


def _own_branch(config: ModelConfig, weight: _Tensors, x: Array, own: Array) -> Array:
    """What a layer's own embeddings [n, p] add to x [n, hidden]."""
    branch = weight.project("proj", gate(weight.project("inp_gate", x), own, config.activation))
    return rms(branch, weight("post_norm"), config.norm_eps, config.norm_offset)


@dataclass(frozen=True)
class _Tensors:
    """Those of one layer, by their names in it."""

    config: ModelConfig
    weights: Callable[[str], Array]
    index: int

    def __call__(self, name: str) -> Array:
        return self.weights(f"blk.{self.index}.{name}.weight")

    def project(self, name: str, x: Array) -> Array:
        """Matrix `name` times x [n, columns], and its bias -> [n, rows].

        An expert's is named PART.EXPERT.
        """
        out = matmul(self(name), x)
        if name.split(".")[0] in self.config.biases:
            out = out + self.weights(f"blk.{self.index}.{name}.bias")
        return out


def _block(
    config: ModelConfig, weight: _Tensors, x: Array, kept: dict[int, tuple[Array, Array]]
) -> Array:
    """One layer: x [n, hidden] -> x [n, hidden]. `kept` has keys and values by layer."""
    eps, offset = config.norm_eps, config.norm_offset
    normed = _rms(config, x, weight("attn_norm")) if config.pre_norms else x
    branch = _mix(config, weight, normed, kept)
    post = weight("post_attention_norm") if config.post_norms else None
    x = x + (branch if post is None else rms(branch, post, eps, offset))
    branch = _ffn(config, weight, x)
    return x + (rms(branch, weight("post_ffw_norm"), eps, offset) if config.post_norms else branch)


def _mix(
    config: ModelConfig, weight: _Tensors, normed: Array, kept: dict[int, tuple[Array, Array]]
) -> Array:
    """Normed states [n, hidden] -> what attention, or what is there in its place, adds to x."""
    mixer = config.layers[weight.index].mixer
    if mixer == "conv":
        return _short_conv(weight, normed)
    if mixer == "delta":
        return _delta_net(config, weight, normed)
    return weight.project("attn_output", _attend(config, weight, normed, kept))


def _delta_net(config: ModelConfig, weight: _Tensors, normed: Array) -> Array:
    """The same of Gated DeltaNet, for a whole prompt."""
    net = config.delta_net
    assert net is not None
    inputs, filters = weight.project("attn_qkv", normed), weight("ssm_conv1d")
    qkv = silu(conv(inputs, filters, np.zeros((net.taps - 1, net.channels), inputs.dtype)))
    gates, beta, alpha = (
        weight.project(it, normed) for it in ("attn_gate", "ssm_beta", "ssm_alpha")
    )
    rates = delta_rates(beta, alpha, weight("ssm_a"), weight("ssm_dt"))
    out = delta_net(net, qkv, rates)
    gated = head_gate(out, gates.reshape(out.shape), weight("ssm_norm"), config.norm_eps)
    return weight.project("ssm_out", gated.reshape(len(normed), -1))


def _short_conv(weight: _Tensors, normed: Array) -> Array:
    """Normed states [n, hidden] of a whole prompt -> branch [n, hidden]."""
    rows, filters = weight.project("shortconv.in_proj", normed), weight("shortconv.conv")
    before = np.zeros((filters.shape[1] - 1, filters.shape[0]), rows.dtype)
    _, c, _ = np.split(rows, 3, axis=-1)
    return weight.project("shortconv.out_proj", c * conv(conv_inputs(rows), filters, before))


def _ffn(config: ModelConfig, weight: _Tensors, x: Array) -> Array:
    """x [n, hidden] -> what the FFN adds to it."""
    experts = config.mixture(weight.index)
    normed = _rms(config, x, weight("ffn_norm")) if config.pre_norms else x
    if experts is None:
        return _feed(config, weight, normed)
    if not experts.own_norms:
        out = _mixture(config, experts, weight, normed, weight.project("ffn_gate_inp", normed))
        if experts.beside:
            beside = _feed(config, weight, normed)
            gate = weight.project("ffn_gate_inp_shexp", normed) if experts.gated else None
            out = out + (beside if gate is None else sigmoid(gate) * beside)
        return out
    routed = _rms(config, x, weight("ffn_gate_inp_norm")) * config.router_scale
    logits = weight.project("ffn_gate_inp", routed)
    read = _rms(config, x, weight("pre_ffw_norm_2"))
    out = _rms(config, _mixture(config, experts, weight, read, logits), weight("post_ffw_norm_2"))
    return out + _rms(config, _feed(config, weight, normed), weight("post_ffw_norm_1"))


def _rms(config: ModelConfig, x: Array, weight: Array) -> Array:
    """As most norms of a model are."""
    return rms(x, weight, config.norm_eps, config.norm_offset)


def _feed(config: ModelConfig, weight: _Tensors, x: Array, expert: str = "") -> Array:
    """x [n, hidden], normed -> what the dense FFN, or one expert (".3"), makes of it."""
    ups = weight.project(f"ffn_up{expert}", x)
    if not config.has_gates:
        return weight.project("ffn_down", xielu(ups, weight("xielu")))
    gates = weight.project(f"ffn_gate{expert}", x)
    return weight.project(f"ffn_down{expert}", gate(gates, ups, config.activation))


def _mixture(
    config: ModelConfig, experts: Experts, weight: _Tensors, x: Array, logits: Array
) -> Array:
    """x [n, hidden], normed -> the shares of the experts that the logits [n, experts] choose."""
    scales = weight("ffn_exps_scale") if experts.scaled else 1.0
    biases = weight("exp_probs_b") if experts.biased else 0.0
    chosen, shares = route(logits, experts, scales, biases)
    out = np.zeros_like(x)
    for expert in np.unique(chosen):
        tokens, slots = np.nonzero(chosen == expert)
        out[tokens] += shares[tokens, slots, None] * _feed(config, weight, x[tokens], f".{expert}")
    return out


def _attend(
    config: ModelConfig, weight: _Tensors, normed: Array, kept: dict[int, tuple[Array, Array]]
) -> Array:
    """Normed states [n, hidden] -> attended values [n, heads · head_dim]."""
    layer, shape = config.layers[weight.index], config.shape(weight.index)
    n, d, eps, offset = normed.shape[0], shape.head_dim, config.norm_eps, config.norm_offset
    rope, positions = config.ropes[layer.rope], np.arange(n)
    frequencies, magnitudes = np.array(rope.inverse_frequencies(d, n)), np.array(rope.magnitudes(d))

    def heads(name: str, count: int) -> Array:
        row = weight.project(name, normed)
        if config.norm_over_heads and name != "attn_v":
            row = rms(row, weight(f"{name}_norm"), eps, offset)
        return row.reshape(n, count, d)

    def turned(x: Array, name: str) -> Array:
        if config.qk_norm and not (config.norm_after_rope or config.norm_over_heads):
            x = rms(x, weight(name), eps, offset)
        x = rotate(x, positions, frequencies, config.rope_pairs, magnitudes)
        return rms(x, weight(name), eps, offset) if config.norm_after_rope else x

    q = turned(heads("attn_q", shape.heads), "attn_q_norm")
    if rope.growth:
        grown = 1 + rope.growth * np.log1p(positions // rope.original_context)
        q = q * grown.astype(q.dtype)[:, None, None]
    if layer.shares < 0:
        k = heads("attn_k", shape.kv_heads)
        v = heads("attn_v", shape.kv_heads) if shape.value_heads else k
        v = rms(v, 1.0, eps, 0.0) if config.value_norm else v
        keys = turned(k, "attn_k_norm")
        kept[weight.index] = keys.transpose(1, 0, 2), v.transpose(1, 0, 2)
    keys, values = kept[weight.index if layer.shares < 0 else layer.shares]
    sinks = weight("attn_sinks") if config.sinks else None
    how = Scores(config.query_scale, config.score_cap)
    out = attention(q, keys, values, 0, layer.window, how, sinks)
    if config.output_gate:
        out = head_gate(out, heads("attn_gate", shape.heads), None, eps)
    return out.reshape(n, -1)
