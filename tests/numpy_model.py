"""A dense decoder in NumPy, float32, from a converted folder: config and weights to logits.

It is the oracle for what conversion and configs mean: it knows manifests, and no architecture.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from doppler.config import Layer
from doppler.formats.quants import dequantize
from doppler.manifest import Manifest


class NumpyModel:
    """All weights in memory, as float32 arrays of the manifest's shapes."""

    def __init__(self, folder: Path) -> None:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        self.manifest = Manifest.from_json(text, str(folder))
        self.config = self.manifest.config
        space = b"".join((folder / shard.name).read_bytes() for shard in self.manifest.shards)
        self.weights = {
            t.name: dequantize(t.type, space[t.offset : t.offset + t.bytes], t.shape)
            for t in self.manifest.tensors
        }

    def logits(self, ids: list[int]) -> np.ndarray:
        """float32 [tokens, vocab]."""
        c, w = self.config, self.weights
        x = w["token_embd.weight"][ids] * np.float32(c.embedding_scale)
        for index, layer in enumerate(c.layers):
            self.prefix = f"blk.{index}."
            x = x + self._branch(
                self._attention(self._norm(x, "attn_norm"), layer), "post_attention_norm"
            )
            x = x + self._branch(self._ffn(self._norm(x, "ffn_norm")), "post_ffw_norm")
        self.prefix = ""
        head = w["token_embd.weight" if c.tied else "output.weight"]
        return self._norm(x, "output_norm") @ head.T

    def _weight(self, name: str) -> np.ndarray:
        return self.weights[f"{self.prefix}{name}.weight"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = self._weight(name) + np.float32(self.config.norm_offset)
        mean = (x * x).mean(-1, keepdims=True, dtype=np.float32)
        return x / np.sqrt(mean + np.float32(self.config.norm_eps)) * scale

    def _branch(self, x: np.ndarray, norm: str) -> np.ndarray:
        return self._norm(x, norm) if self.config.post_norms else x

    def _ffn(self, x: np.ndarray) -> np.ndarray:
        gate, up = x @ self._weight("ffn_gate").T, x @ self._weight("ffn_up").T
        if self.config.activation == "silu":
            gate = gate / (1 + np.exp(-gate))
        else:
            inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            gate = 0.5 * gate * (1 + np.tanh(inner))
        return (gate * up).astype(np.float32) @ self._weight("ffn_down").T

    def _attention(self, x: np.ndarray, layer: Layer) -> np.ndarray:
        c = self.config
        q = self._heads(x, "attn_q", c.heads, layer)
        k = self._heads(x, "attn_k", c.kv_heads, layer)
        v = (x @ self._weight("attn_v").T).reshape(len(x), c.kv_heads, c.head_dim)
        shared = c.heads // c.kv_heads
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * np.float32(c.query_scale)
        query, key = np.arange(len(x))[:, None], np.arange(len(x))
        seen = (key <= query) & ((key > query - layer.window) if layer.window else True)
        scores = np.where(seen, scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", share, v).reshape(len(x), -1)
        return out @ self._weight("attn_output").T

    def _heads(self, x: np.ndarray, name: str, heads: int, layer: Layer) -> np.ndarray:
        """Projected, normed and rotated: [tokens, heads, head_dim]."""
        c = self.config
        y = (x @ self._weight(name).T).reshape(len(x), heads, c.head_dim)
        if c.qk_norm:
            y = self._norm(y, f"{name}_norm")
        frequencies = np.array(c.ropes[layer.rope].inverse_frequencies(c.head_dim))
        angles = np.arange(len(x))[:, None, None] * frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        half = c.head_dim // 2
        split = slice(0, half), slice(half, None)
        first, second = split if c.rope_pairs == "half" else (slice(0, None, 2), slice(1, None, 2))
        a, b = y[..., first].copy(), y[..., second].copy()
        y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
        return y
