"""Cases of rotary embeddings and of attention: of batches, and of a token by splits of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from doppler import references
from doppler.config.model import RopePairs
from doppler.config.rope import Rope
from doppler.engine.memory import rope_table
from doppler.plan.decode import parts_of
from doppler.plan.tiles import Tile, tile_of
from doppler.workbench.case import (
    ROUNDING,
    Array,
    Arrays,
    Case,
    Expected,
    Launch,
    Rng,
    Trial,
    inside,
    named,
    rows_of,
)
from doppler.workbench.cases.inputs import (
    SINKS,
    UNTOUCHED,
    bound_sinks,
    cache_type,
    case,
    in_ring,
    normal,
    padded,
    sinks_at,
    state,
    vec4s,
)

ROPES = (
    Rope(10_000.0),
    Rope(1_000_000.0, "linear", 8.0),
    Rope(500_000.0, "llama3", 32.0, 1.0, 4.0, 8192),
)
GROWING = Rope(10_000.0, original_context=20, growth=0.5)
PAIRS: tuple[RopePairs, ...] = ("half", "interleaved")
EPS, OFFSET = 1e-6, 1.0
PROJECTED: tuple[dict[str, Any], ...] = (  # and how: fields of a Rotation
    {"value_norm": True},
    {"projected": 1},
    {"projected": 1, "value_norm": True},
    {"projected": 2},
)
BASE_BYTES = 1 << 14  # workgroup memory that every adapter has


@dataclass(frozen=True)
class Rotation:
    """Three real tokens in a batch of four, from `position` on; capacity: of a ring, or 0.

    after: norms come after rope.
    """

    heads: int
    kv_heads: int
    head_dim: int
    pairs: RopePairs
    qk_norm: bool
    position: int
    rope: Rope
    half: bool
    capacity: int = 0
    after: bool = False
    projected: int = 0  # besides q: keys and values, keys that are both (1), or nothing (2)
    value_norm: bool = False

    tokens = 3

    @property
    def width(self) -> int:
        """Numbers of all heads of a token that are projected."""
        return (self.heads + (2, 1, 0)[self.projected] * self.kv_heads) * self.head_dim

    def __str__(self) -> str:
        shape = f"{self.heads} heads of {self.head_dim} at {self.position}, {self.pairs}"
        notes = {
            self.rope.scaling: self.rope in ROPES[1:],
            "growing": self.rope.growth,
            "normed": self.qk_norm,
            "after rope": self.after,
            "f16": self.half,
            f"ring of {self.capacity}": self.capacity,
            "keys are values": self.projected == 1,
            "of another layer": self.projected == 2,
            "values normed": self.value_norm,
        }
        return ", ".join([shape, *(note for note, holds in notes.items() if holds)])


def rope(rng: Rng, spec: Rotation) -> Trial:
    """Queries in place, keys and values into the cache."""
    heads, kv_heads, dim, tokens = spec.heads, spec.kv_heads, spec.head_dim, spec.tokens
    context = spec.position + 5
    width = spec.width
    qkv, norms = normal(rng, tokens + 1, width), normal(rng, 2, dim)
    cache = np.zeros((kv_heads, spec.capacity or context, dim), cache_type(spec.half))
    arrays = {
        "qkv": padded(qkv, width + 4),
        "angles": np.array(rope_table(spec.rope, dim, context)),
        "keys": cache,
        "values": cache.copy(),
        "state": state(tokens, spec.position),
    }
    if spec.qk_norm:
        arrays |= {"q_norm": vec4s(norms[0]), "k_norm": vec4s(norms[1])}
    constants = {
        "HEAD_DIM": dim,
        "PAIRS": int(spec.pairs == "interleaved"),
        "QK_NORM": int(spec.qk_norm) + int(spec.after),
        "PROJECTED": spec.projected,
        "VALUE_NORM": int(spec.value_norm),
        "KV_HALF": int(spec.half),
        "RING": int(spec.capacity > 0),
    }
    params = {
        "heads": heads,
        "kv_heads": kv_heads,
        "kv_head0": 0,
        "kv_count": kv_heads,
        "stride": width + 4,
        "context": context,
        "capacity": cache.shape[1],
        "eps": EPS,
        "offset": OFFSET,
        **_growth(spec.rope),
    }
    places = spec.position + np.arange(tokens)
    q, k, v = _rotated(qkv[:tokens].reshape(tokens, -1, dim), norms, spec, places)
    kept = (slice(None), places % cache.shape[1])
    exactly = 0.0 if not (spec.half or spec.value_norm) else None
    right = {name: Expected(cache) for name in ("keys", "values")}
    if spec.projected < 2:
        right["keys"] = inside(cache, kept, k.transpose(1, 0, 2))
        right["values"] = inside(cache, kept, v.transpose(1, 0, 2), exactly)
    return Trial(
        arrays,
        [Launch("rope", constants, params, named(arrays), tokens + 1)],
        ["qkv", "keys", "values"],
        lambda _: {
            "qkv": inside(
                arrays["qkv"],
                np.s_[:tokens, : heads * dim],
                q.reshape(tokens, -1),
                scale=rows_of(q).reshape(tokens, -1),
            ),
            **right,
        },
    )


def _growth(how: Rope) -> dict[str, float]:
    return {"growth": how.growth, "original": max(how.original_context, 1)}


def _rotated(
    parts: Array, norms: Array, spec: Rotation, places: Array
) -> tuple[Array, Array, Array]:
    """q, k, v [n, heads, d] of parts [n, heads, d], which has those that are projected."""
    q, k, v = np.split(parts, [spec.heads, spec.heads + spec.kv_heads], axis=1)
    v = k if spec.projected == 1 else v
    v = references.rms(v, 1.0, EPS, 0.0) if spec.value_norm else v
    frequencies = np.array(spec.rope.inverse_frequencies(spec.head_dim))

    def turned(part: Array, norm: Array) -> Array:
        if spec.qk_norm and not spec.after:
            part = references.rms(part, norm, EPS, OFFSET)
        part = references.rotate(part, places, frequencies, spec.pairs)
        return references.rms(part, norm, EPS, OFFSET) if spec.after else part

    grown = 1 + spec.rope.growth * np.log1p(places // max(spec.rope.original_context, 1))
    return turned(q, norms[0]) * grown[:, None, None], turned(k, norms[1]), v


@dataclass(frozen=True)
class Place:
    """A batch of `tokens` real tokens and one more, from `position` on."""

    heads: int
    kv_heads: int
    position: int
    tokens: int
    window: int

    def __str__(self) -> str:
        window = f", window {self.window}" if self.window else ""
        return f"{self.tokens} tokens at {self.position}, {self.heads} heads{window}"


@dataclass(frozen=True)
class Kept:
    """How keys and values are kept (a ring has no more places than it needs), and sinks."""

    half: bool
    sinks: float | None
    ring: bool

    def __str__(self) -> str:
        notes = {"f16": self.half, "ring": self.ring, f"sinks {self.sinks}": self.sinks is not None}
        return "".join(f", {note}" for note, holds in notes.items() if holds)


def batch(rng: Rng, kernel: str, place: Place, kept: Kept, tile: Tile | int) -> Trial:
    """Attention of a batch by heads of tile.head_dim; of `tile` alone where there are no tiles."""
    heads, kv_heads, tokens = place.heads, place.kv_heads, place.tokens
    dim = tile if isinstance(tile, int) else tile.head_dim
    context, scale = place.position + tokens + 3, dim**-0.5
    capacity = place.window + tokens - 1 if kept.ring else context
    q_stride, out_stride = (heads + 2 * kv_heads) * dim + 4, heads * dim + 4
    q = 3 * normal(rng, tokens + 1, heads * dim)
    keys, values = (
        normal(rng, kv_heads, context, dim).astype(cache_type(kept.half)) for _ in range(2)
    )
    sinks = sinks_at(rng, heads, kept.sinks)
    arrays = {
        "qkv": padded(q, q_stride),
        "keys": in_ring(keys[:, : place.position + tokens], capacity),
        "values": in_ring(values[:, : place.position + tokens], capacity),
        "out": np.zeros((tokens + 1, out_stride), np.float32),
        "state": state(tokens, place.position),
        **bound_sinks(sinks),
    }
    params = {
        "heads": heads,
        "kv_heads": kv_heads,
        "kv_head0": 0,
        "kv_count": kv_heads,
        "q_stride": q_stride,
        "out_stride": out_stride,
        "context": context,
        "capacity": capacity,
        "window": place.window,
        "scale": scale,
    }
    constants = {"HEAD_DIM": dim} if isinstance(tile, int) else tile.constants()
    constants |= {"KV_HALF": int(kept.half), "RING": int(kept.ring)}
    constants["SINKS"] = int(sinks is not None)

    def twin(_: Arrays) -> dict[str, Expected]:
        queries = q[:tokens].reshape(tokens, heads, dim)
        kv = keys.astype(np.float64), values.astype(np.float64)
        exact = references.attention(queries, *kv, place.position, place.window, scale, sinks)
        where = np.s_[:tokens, : heads * dim]
        return {"out": inside(arrays["out"], where, exact.reshape(tokens, -1))}

    return Trial(
        arrays, [Launch(kernel, constants, params, named(arrays), tokens + 1)], ["out"], twin
    )


@dataclass(frozen=True)
class Split:
    """A token after `before` others, its keys cut into `splits`; capacity: of a ring, or 0."""

    heads: int
    kv_heads: int
    head_dim: int
    before: int
    window: int
    splits: int
    capacity: int

    def __str__(self) -> str:
        ring = f", ring of {self.capacity}" if self.capacity else ""
        heads = f"{self.heads} heads of {self.head_dim}"
        return f"{self.before} tokens before, {heads}, {self.splits} splits{ring}"


CONTEXT = 310  # of the tokens of SPLITS
SPLITS = (
    Split(1, 1, 8, 0, 0, 1, 0),
    Split(3, 1, 16, 5, 0, 8, 0),
    Split(4, 2, 24, 40, 16, 3, 0),
    Split(5, 1, 64, 300, 0, 2, 0),
    Split(8, 1, 128, 70, 64, 32, 0),
    Split(4, 1, 256, 150, 0, 4, 0),
    Split(4, 2, 24, 40, 16, 3, 16),
    Split(3, 1, 64, 10, 16, 2, 16),
    Split(8, 1, 128, 127, 64, 32, 64),
    Split(5, 1, 32, 305, 280, 1, 290),
    Split(4, 1, 16, 308, 1, 4, 5),
)


def token(rng: Rng, split: Split, rotation: Rotation, sinks_are: float | None) -> Trial:
    """A token's own key and value, its attention by splits, what joins them, and the matvec that
    joins them by itself.
    """
    heads, kv_heads, dim, before = split.heads, split.kv_heads, split.head_dim, split.before
    width = rotation.width
    qkv, norms = normal(rng, 1, width), normal(rng, 2, dim)
    caches = [
        normal(rng, kv_heads, before + 1, dim).astype(cache_type(rotation.half)) for _ in range(2)
    ]
    for part in caches:
        if rotation.projected < 2:
            part[:, before] = 9.0  # to be written
    capacity = split.capacity or CONTEXT
    sinks = sinks_at(rng, heads, sinks_are)
    matrix = normal(rng, ROWS, heads * dim)
    arrays = {
        "qkv": padded(qkv, width),
        "q_norm": norms[0].astype(np.float32),
        "k_norm": norms[1].astype(np.float32),
        "angles": np.array(rope_table(rotation.rope, dim, CONTEXT)),
        "keys": in_ring(caches[0], capacity),
        "values": in_ring(caches[1], capacity),
        "partial_out": np.full((split.splits, heads, dim), UNTOUCHED, np.float32),
        "partial_lse": np.zeros(-(-split.splits * heads // 4) * 4, np.float32),
        "state": state(1, before),
        **bound_sinks(sinks),
        "out": np.zeros((heads, dim), np.float32),
        "codes": padded(matrix, heads * dim),
        "one": state(1),
        "product": np.zeros(ROWS, np.float32),
    }
    decode = _decode(split, rotation, capacity, sinks is not None)
    q, k, v = _rotated(qkv.reshape(1, -1, dim), norms, rotation, np.array([before]))
    place = np.s_[:, before % capacity]

    def twin(got: Arrays) -> dict[str, Expected]:
        own = {"keys": k[0], "values": v[0]} if rotation.projected < 2 else {}
        for part, name in zip(caches, own, strict=False):
            part[:, before] = got[name][place]  # rounded as the kernel rounds
        kv = caches[0].astype(np.float64), caches[1].astype(np.float64)
        scale = float(decode.params["scale"])
        exact = references.attention(q, *kv, before, split.window, scale, sinks)[0]
        product = matrix @ exact.ravel()
        return {
            **{name: Expected(arrays[name]) for name in ("keys", "values")},
            **{name: inside(arrays[name], place, right) for name, right in own.items()},
            "out": Expected(exact, ROUNDING, rows_of(exact)),
            "product": Expected(product, ROUNDING, rows_of(product)),
        }

    launches = [decode, _join(split), _joining_product(split)]
    return Trial(arrays, launches, ["keys", "values", "out", "product"], twin)


ROWS = 9  # of the matvec


def _decode(split: Split, rotation: Rotation, capacity: int, has_sinks: bool) -> Launch:
    constants = {
        "HEAD_DIM": split.head_dim,
        "PAIRS": int(rotation.pairs == "interleaved"),
        "QK_NORM": int(rotation.qk_norm) + int(rotation.after),
        "PROJECTED": rotation.projected,
        "VALUE_NORM": int(rotation.value_norm),
        "KV_HALF": int(rotation.half),
        "SINKS": int(has_sinks),
        "RING": int(split.capacity > 0),
        "LANES": 4,  # SwiftShader's subgroups have no more
        "PARTS": min(4, parts_of(split.head_dim, split.before * 40)),
        "TURN": 4,
    }
    params = {
        "heads": split.heads,
        "kv_heads": split.kv_heads,
        "kv_head0": 0,
        "kv_count": split.kv_heads,
        "context": CONTEXT,
        "capacity": capacity,
        "window": split.window,
        "splits": split.splits,
        "scale": split.head_dim**-0.5,
        "eps": EPS,
        "offset": OFFSET,
        **_growth(rotation.rope),
    }
    names = ["qkv", "q_norm", "k_norm", "angles", "keys", "values", "partial_out", "partial_lse"]
    bindings = named([*names, "state", *(["sinks"] * has_sinks)])
    return Launch("attention_decode", constants, params, bindings)


def _join(split: Split) -> Launch:
    params = {"heads": split.heads, "splits": split.splits}
    bindings = named(["partial_out", "partial_lse", "out", "state"])
    return Launch("attention_join", {"HEAD_DIM": split.head_dim}, params, bindings)


def _joining_product(split: Split) -> Launch:
    cols = split.heads * split.head_dim
    constants = {"FORM": 0, "COLS": cols, "PROLOGUE": 4, "ACTIVATION": 0, "STAGE": 1, "ADDEND": 0}
    constants |= {"TEAM": 8, "ROWS": 2, "DEPTH": 1, "TOKENS": 1}
    constants |= {"SPLITS": split.splits, "SCALED": 0, "EXPERTS": 0}
    params = {
        "rows": ROWS,
        "row0": 0,
        "x_stride": cols,
        "out_stride": 0,
        "out0": 0,
        "last": 0,
        "eps": 0.0,
        "offset": 0.0,
        "heads": split.heads,
        "experts": 0,
        "used": 0,
        "addend0": 0,
        "addend_stride": 0,
    }
    bindings = {
        "codes": "codes",
        "x": "partial_out",
        "branch": "partial_lse",
        "state": "one",
        "out": "product",
    }
    return Launch("matvec_subgroup", constants, params, bindings)


def _rotations() -> list[Case]:
    """Every variant of norm, pairs and scaling, at the start and up to position 100,000."""
    shapes = ((3, 1), (4, 2))
    variants = [(pairs, qk_norm) for pairs in PAIRS for qk_norm in (False, True)]
    sizes = (
        (12, 7, True),
        (16, 0, False),
        (64, 61, True),
        (80, 1023, False),
        (80, 1023, True),
        (256, 100, False),
        (256, 100, True),
    )
    specs = [
        Rotation(*shapes[i % 2], dim, pairs, qk_norm, position, ROPES[i % 3], half)
        for i, (pairs, qk_norm) in enumerate(variants)
        for dim, position, half in sizes
    ]
    specs += [Rotation(3, 1, 4, "half", False, 99_997, how, False) for how in ROPES]
    places = ((2, False), (9, True), (43, False), (109, True))  # also cut by the ring's end
    specs += [
        Rotation(4, 2, 64, "half", True, position, ROPES[0], half, 11) for position, half in places
    ]
    specs += [Rotation(4, 2, 80, pairs, True, 61, ROPES[0], False, after=True) for pairs in PAIRS]
    specs.append(Rotation(3, 1, 64, "half", False, 59, GROWING, False))
    specs += [
        Rotation(4, 2, 16, "half", True, 9, ROPES[0], False, **projected) for projected in PROJECTED
    ]
    wide: dict[str, Any] = {"projected": 1, "value_norm": True}
    specs.append(Rotation(3, 1, 512, "half", True, 100, ROPES[1], True, **wide))
    return [case("rope", str(spec), rope, spec) for spec in specs]


def _batches() -> list[Case]:
    """Prefill and decode; windows smaller than, equal to and larger than what there is."""
    found = []
    for heads in ((3, 1), (4, 2)):
        for dim in (16, 64, 80, 256, 320, 512)[: 4 if heads == (3, 1) else 6]:
            for position, tokens in ((0, 1), (0, 17), (63, 2), (190, 3)):
                for i, window in enumerate((0, 1, 70, position + tokens, 1000), start=position):
                    place = Place(*heads, position, tokens, window)
                    for ring in (False, True)[: 2 if 0 < window <= position else 1]:
                        kept = Kept(heads == (4, 2), SINKS[i % 4], ring)
                        name = f"{place}, width {dim}{kept}"
                        args = "attention", place, kept, dim
                        found.append(case("attention", name, batch, *args))
    return found


def _flash() -> list[Case]:
    """Every width of head in the least memory, and other tiles."""
    tiles = [
        *(tile_of(dim, BASE_BYTES) for dim in (20, 64, 128, 256, 512)),
        Tile(head_dim=4, rows=8, keys=4, chunk=4, values=4, keep_q=1),
        Tile(head_dim=80, rows=16, keys=16, chunk=20, values=4, keep_q=1),
        Tile(head_dim=64, rows=16, keys=32, chunk=16, values=32, keep_q=0),
    ]
    places = (  # starts and middles, groups that tiles cut across
        Place(1, 1, 0, 1, 0),
        Place(3, 1, 0, 23, 0),
        Place(4, 2, 61, 5, 0),
        Place(4, 1, 0, 37, 7),
        Place(5, 1, 90, 14, 20),
        Place(2, 2, 3, 70, 33),
        Place(6, 2, 40, 9, 1000),
    )
    rings = (
        Place(5, 1, 90, 14, 20),
        Place(3, 1, 64, 23, 1),
        Place(4, 2, 150, 37, 33),
        Place(2, 2, 70, 1, 70),
    )
    found = []
    for i, tile in enumerate(tiles):
        for number, place in enumerate((*places, *rings)):
            if tile.head_dim == 512 and number not in (3, 8):
                continue  # as all others, but slower to compile
            kept = Kept(i % 2 == 1, SINKS[(i + number) % 4], number >= len(places))
            name = f"{place}, width {tile.head_dim}{kept}, tiles of {tile.rows} by {tile.keys}"
            args = "attention_flash", place, kept, tile
            found.append(case("attention_flash", name, batch, *args))
    return found


def _tokens() -> list[Case]:
    found, needs = [], ("subgroups",)
    for pairs in PAIRS:
        for shift in (0, 1):  # by which sinks are dealt out to the shapes
            for i, split in enumerate(SPLITS):
                half = (i % 2 == 0) == (pairs == "half")
                sinks = SINKS[(i + shift) % len(SINKS)]
                shape = split.heads, split.kv_heads, split.head_dim
                rotation = Rotation(*shape, pairs, i % 3 != 1, split.before, ROPES[0], half)
                note = "no sinks" if sinks is None else f"sinks {sinks}"
                name = f"{split}, {pairs}, {note}"
                kernel = "attention_join" if shift and pairs == "half" else "attention_decode"
                found.append(case(kernel, name, token, split, rotation, sinks, needs=needs))
    split = SPLITS[2]
    shape = split.heads, split.kv_heads, split.head_dim
    last = Rotation(*shape, "half", True, split.before, GROWING, False, after=True)
    name = f"{split}, normed after rope, growing"
    found.append(case("attention_decode", name, token, split, last, None, needs=needs))
    split = Split(6, 2, 24, 40, 16, 3, 0)
    for projected in PROJECTED:
        rotation = Rotation(6, 2, 24, "half", True, 40, ROPES[0], False, **projected)
        name = f"{split.splits} splits, {rotation}"
        args = (split, rotation, None)
        found.append(case("attention_decode", name, token, *args, needs=("subgroups",)))
    return found


CASES: tuple[Case, ...] = (*_rotations(), *_batches(), *_flash(), *_tokens())
