"""Cases of rotary embeddings and of attention: of batches, and of a token by splits of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from doppler import references
from doppler.config.model import RopePairs
from doppler.config.rope import Rope
from doppler.engine.memory import rope_table
from doppler.gpu.wgsl import Number
from doppler.plan.cache import KV_TYPES, CacheType
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
from doppler.workbench.cases import kept
from doppler.workbench.cases.inputs import (
    SINKS,
    UNTOUCHED,
    bound_sinks,
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
CAP = 0.7  # of scores: so low that most feel it
PAIRS: tuple[RopePairs, ...] = ("half", "interleaved")
CACHED: tuple[CacheType, ...] = get_args(CacheType)
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
    kv: CacheType
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
            self.kv: self.kv != "f32",
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
    cache = kept.empty(spec.kv, kv_heads, spec.capacity or context, dim)
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
        "KV_TYPE": KV_TYPES[spec.kv],
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
    slots = (slice(None), places % cache.shape[1])

    def cached(got: Arrays) -> dict[str, Expected]:
        if spec.projected == 2:
            return {name: Expected(cache) for name in ("keys", "values")}
        own = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
        is_copy = not spec.value_norm
        return {
            "keys": kept.written(spec.kv, cache, slots, own[0], got["keys"]),
            "values": kept.written(spec.kv, cache, slots, own[1], got["values"], is_copy),
        }

    return Trial(
        arrays,
        [Launch("rope", constants, params, named(arrays), tokens + 1)],
        ["qkv", "keys", "values"],
        lambda got: {
            "qkv": inside(
                arrays["qkv"],
                np.s_[:tokens, : heads * dim],
                q.reshape(tokens, -1),
                scale=rows_of(q).reshape(tokens, -1),
            ),
            **cached(got),
        },
    )


def heads_norm(rng: Rng, heads: int, kv_heads: int, head_dim: int, tokens: int) -> Trial:
    """Rows of q and of k, normed in place; v, and the last token, which is not real, stay."""
    widths = heads * head_dim, kv_heads * head_dim
    qkv = normal(rng, tokens + 1, widths[0] + 2 * widths[1])
    norms = [normal(rng, width) for width in widths]
    arrays = {
        "qkv": padded(qkv, qkv.shape[1] + 4),
        "q_norm": norms[0].astype(np.float32),
        "k_norm": norms[1].astype(np.float32),
        "state": state(tokens),
    }
    params = {"q_width": widths[0], "k_width": widths[1], "stride": qkv.shape[1] + 4}
    params |= {"eps": EPS, "offset": OFFSET}
    parts = np.split(qkv[:tokens], [widths[0], sum(widths)], axis=1)[:2]
    exact = [references.rms(x, norm, EPS, OFFSET) for x, norm in zip(parts, norms, strict=True)]
    return Trial(
        arrays,
        [Launch("heads_norm", {}, params, named(arrays), tokens + 1)],
        ["qkv"],
        lambda _: {
            "qkv": inside(
                arrays["qkv"],
                np.s_[:tokens, : sum(widths)],
                np.concatenate(exact, axis=1),
                scale=np.concatenate([rows_of(part) for part in exact], axis=1),
            )
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
    """How keys and values are kept (a ring has no more places than it needs), sinks, and what
    scores are capped by.
    """

    kv: CacheType
    sinks: float | None
    ring: bool
    cap: float = 0.0

    def __str__(self) -> str:
        notes = {
            self.kv: self.kv != "f32",
            "ring": self.ring,
            f"sinks {self.sinks}": self.sinks is not None,
        }
        notes[f"capped by {self.cap}"] = self.cap > 0
        return "".join(f", {note}" for note, holds in notes.items() if holds)


def batch(rng: Rng, kernel: str, place: Place, how_kept: Kept, tile: Tile | int) -> Trial:
    """Attention of a batch by heads of tile.head_dim; of `tile` alone where there are no tiles."""
    heads, kv_heads, tokens = place.heads, place.kv_heads, place.tokens
    dim = tile if isinstance(tile, int) else tile.head_dim
    context, how = place.position + tokens + 3, references.Scores(dim**-0.5, how_kept.cap)
    capacity = place.window + tokens - 1 if how_kept.ring else context
    q_stride, out_stride = (heads + 2 * kv_heads) * dim + 4, heads * dim + 4
    q = 3 * normal(rng, tokens + 1, heads * dim)
    keys, values = (kept.rows(how_kept.kv, normal(rng, kv_heads, context, dim)) for _ in range(2))
    sinks = sinks_at(rng, heads, how_kept.sinks)
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
        "scale": how.scale,
    }
    shape = {"HEAD_DIM": dim} if isinstance(tile, int) else tile.constants()
    constants: dict[str, Number] = {**shape}
    constants |= {"KV_TYPE": KV_TYPES[how_kept.kv], "RING": int(how_kept.ring)}
    constants |= {"SINKS": int(sinks is not None), "SCORE_CAP": how_kept.cap}

    def twin(_: Arrays) -> dict[str, Expected]:
        queries = q[:tokens].reshape(tokens, heads, dim)
        k, v = (kept.numbers(how_kept.kv, part, dim) for part in (keys, values))
        exact = references.attention(queries, k, v, place.position, place.window, how, sinks)
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
    cap: float = 0.0  # of scores

    def __str__(self) -> str:
        ring = f", ring of {self.capacity}" if self.capacity else ""
        ring += f", capped by {self.cap}" if self.cap else ""
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
    caches = [kept.rows(rotation.kv, normal(rng, kv_heads, before + 1, dim)) for _ in range(2)]
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
        kv = [kept.numbers(rotation.kv, part, dim) for part in caches]
        how = references.Scores(float(decode.params["scale"]), split.cap)
        exact = references.attention(q, kv[0], kv[1], before, split.window, how, sinks)[0]
        product = matrix @ exact.ravel()
        return {
            **{name: Expected(arrays[name]) for name in ("keys", "values")},
            **{
                name: kept.written(rotation.kv, arrays[name], place, right, got[name])
                for name, right in own.items()
            },
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
        "KV_TYPE": KV_TYPES[rotation.kv],
        "SINKS": int(has_sinks),
        "SCORE_CAP": split.cap,
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


def join(rng: Rng, heads: int, head_dim: int, splits: int) -> Trial:
    """What joins splits by itself; some, but not all of a head, had no keys."""
    partial, weights = normal(rng, splits, heads, head_dim), 4 * normal(rng, splits, heads)
    weights[rng.random((splits, heads)) < 0.2] = LOWEST
    weights[0] = normal(rng, heads)
    arrays = {
        "partial_out": partial.astype(np.float32),
        "partial_lse": vec4s(weights.ravel()),
        "state": state(1),
        "out": np.zeros((heads, head_dim), np.float32),
    }
    shares = np.exp(weights - weights.max(axis=0))
    exact = (shares[..., None] * partial).sum(axis=0) / shares.sum(axis=0)[:, None]
    launch = Launch(
        "attention_join", {"HEAD_DIM": head_dim}, {"heads": heads, "splits": splits}, named(arrays)
    )
    return Trial(
        arrays, [launch], ["out"], lambda _: {"out": Expected(exact, ROUNDING, rows_of(exact))}
    )


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
    sizes: tuple[tuple[int, int, CacheType], ...] = (
        (12, 7, "f16"),
        (12, 8, "q8"),
        (16, 0, "f32"),
        (64, 61, "f16"),
        (80, 1023, "f32"),
        (80, 1023, "f16"),
        (80, 1024, "q8"),
        (256, 100, "f32"),
        (256, 100, "f16"),
        (256, 100, "q8"),
    )
    specs = [
        Rotation(*shapes[i % 2], dim, pairs, qk_norm, position, ROPES[i % 3], kv)
        for i, (pairs, qk_norm) in enumerate(variants)
        for dim, position, kv in sizes
    ]
    specs += [Rotation(3, 1, 4, "half", False, 99_997, how, "f32") for how in ROPES]
    places: tuple[tuple[int, CacheType], ...] = (  # also cut by the ring's end
        (2, "f32"),
        (9, "f16"),
        (9, "q8"),
        (43, "f32"),
        (109, "f16"),
    )
    specs += [
        Rotation(4, 2, 64, "half", True, position, ROPES[0], kv, 11) for position, kv in places
    ]
    specs += [Rotation(4, 2, 80, pairs, True, 61, ROPES[0], "f32", after=True) for pairs in PAIRS]
    specs.append(Rotation(3, 1, 64, "half", False, 59, GROWING, "f32"))
    specs += [
        Rotation(4, 2, 16, "half", True, 9, ROPES[0], kv, **projected)
        for kv in CACHED
        for projected in PROJECTED
    ]
    wide: dict[str, Any] = {"projected": 1, "value_norm": True}
    specs += [Rotation(3, 1, 512, "half", True, 100, ROPES[1], kv, **wide) for kv in CACHED[1:]]
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
                        kv = CACHED[(i + dim) % 3] if heads == (4, 2) else "f32"
                        how = Kept(kv, SINKS[i % 4], ring)
                        name = f"{place}, width {dim}{how}"
                        args = "attention", place, how, dim
                        found.append(case("attention", name, batch, *args))
    for tokens in (3, 70):
        place = Place(4, 2, 90, tokens, 40)
        capped = Kept("f32", SINKS[tokens % 2], True, CAP)
        args = "attention", place, capped, 24
        found.append(case("attention", f"{place}, width 24{capped}", batch, *args))
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
            kv = CACHED[(i + number) % 3]
            how = Kept(kv, SINKS[(i + number) % 4], number >= len(places))
            name = f"{place}, width {tile.head_dim}{how}, tiles of {tile.rows} by {tile.keys}"
            args = "attention_flash", place, how, tile
            found.append(case("attention_flash", name, batch, *args))
    for place in (places[2], places[5]):
        capped = Kept("f32", None, False, CAP)
        args = "attention_flash", place, capped, tiles[0]
        found.append(case("attention_flash", f"{place}, width 20{capped}", batch, *args))
    return found


def _tokens() -> list[Case]:
    found, needs = [], ("subgroups",)
    for pairs in PAIRS:
        for shift in (0, 1):  # by which sinks are dealt out to the shapes
            for i, split in enumerate(SPLITS):
                kv = CACHED[(i + shift + PAIRS.index(pairs)) % 3]
                sinks = SINKS[(i + shift) % len(SINKS)]
                shape = split.heads, split.kv_heads, split.head_dim
                rotation = Rotation(*shape, pairs, i % 3 != 1, split.before, ROPES[0], kv)
                note = "no sinks" if sinks is None else f"sinks {sinks}"
                name = f"{split}, {pairs}, {kv}, {note}"
                args = split, rotation, sinks
                found.append(case("attention_decode", name, token, *args, needs=needs))
    split = SPLITS[2]
    shape = split.heads, split.kv_heads, split.head_dim
    last = Rotation(*shape, "half", True, split.before, GROWING, "f32", after=True)
    name = f"{split}, normed after rope, growing"
    found.append(case("attention_decode", name, token, split, last, None, needs=needs))
    for window, sinks in ((0, None), (30, SINKS[2])):
        split = Split(6, 2, 24, 40, window, 3, 0, CAP)
        rotation = Rotation(6, 2, 24, "half", False, 40, ROPES[0], "f32")
        args = split, rotation, sinks
        found.append(case("attention_decode", f"{split}, {sinks}", token, *args, needs=needs))
    split = Split(6, 2, 24, 40, 16, 3, 0)
    for kv in ("f32", "q8"):
        for projected in PROJECTED:
            rotation = Rotation(6, 2, 24, "half", True, 40, ROPES[0], kv, **projected)
            name = f"{split.splits} splits, {rotation}"
            args = (split, rotation, None)
            found.append(case("attention_decode", name, token, *args, needs=needs))
    return found


HEADS = ((1, 1, 4), (3, 1, 12), (6, 2, 24), (32, 8, 128))  # of q, of k, and their width
NORMED = tuple(
    case("heads_norm", f"{tokens} tokens, {shape}", heads_norm, *shape, tokens)
    for shape in HEADS
    for tokens in (1, 5)
)
LOWEST = float(np.finfo(np.float32).min)  # of a split without keys
JOINS = ((1, 4, 256), (3, 8, 1), (4, 24, 3), (5, 64, 2), (8, 80, 32), (1, 128, 5), (2, 512, 256))
JOINED = tuple(
    case("attention_join", f"{splits} splits, {heads} heads of {dim}", join, heads, dim, splits)
    for heads, dim, splits in JOINS
)
CASES: tuple[Case, ...] = (
    *NORMED,
    *_rotations(),
    *_batches(),
    *_flash(),
    *_tokens(),
    *JOINED,
)
