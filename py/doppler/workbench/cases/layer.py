"""Cases of the kernels of a layer that multiply no matrix: embeddings, norms, gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from doppler import references
from doppler.config.model import Activation
from doppler.plan.layer import ACTIVATIONS
from doppler.weights.placement import FORMS
from doppler.workbench.case import Array, Arrays, Case, Expected, Launch, Rng, Trial, inside, named
from doppler.workbench.cases.inputs import case, fours, normal, padded, state, vec4s
from doppler.workbench.cases.weights import Matrix


def lookup(
    kind: str, planes: Arrays, rows: int, cols: int, tokens: Array, row0: int = 0
) -> tuple[Launch, dict[str, Array]]:
    """A launch of gather, and its arrays but for the planes; the last token is not real."""
    stride = fours(cols) + 4
    arrays = {
        "tokens": tokens,
        "state": state(len(tokens) - 1),
        "out": np.zeros((len(tokens), stride), np.float32),
    }
    params = {"rows": rows, "cols": cols, "row0": row0, "stride": stride, "scale": 1.0}
    bindings = named([*planes, *arrays])
    constants = {"FORM": FORMS[kind], "IN_ORDER": 0}
    return Launch("gather", constants, params, bindings, len(tokens)), arrays


def gather(
    rng: Rng, kind: str, rows: int, cols: int, tokens: int, scale: float, in_order: bool = False
) -> Trial:
    """Rows of a matrix, scaled: those of tokens, or (in_order) one for each of them."""
    matrix = Matrix.random(rng, kind, rows, cols)
    filled = {"raw": matrix.raw, **matrix.planes()}
    ids = rng.permutation(rows)[:tokens].astype(np.uint32)
    launch, arrays = lookup(kind, matrix.planes(), rows, cols, ids)
    constants = {**launch.constants, "IN_ORDER": int(in_order)}
    scaled = replace(launch, constants=constants, params={**launch.params, "scale": scale})
    used = range(tokens - 1) if in_order else ids[:-1].tolist()
    exact = references.gather(matrix.values, used, scale)
    return Trial(
        {**arrays, **filled},
        [matrix.relayout(named(filled)), scaled],
        ["out"],
        lambda _: {"out": inside(arrays["out"], np.s_[:-1, :cols], exact)},
    )


def slices(rng: Rng) -> Trial:
    """Two slices of a matrix, the second moved in two pieces, fill each other's gaps."""
    kind, rows, cols, cut, piece = "Q5_0", 67, 96, 24, 20
    matrix = Matrix.random(rng, kind, rows, cols)
    low, rest = matrix.part(0, cut), matrix.part(cut, rows - cut)
    pieces = rest.part(0, piece), rest.part(piece, rest.rows - piece)
    tokens = np.array([66, 0, 23, 24, 43, 44, 3], np.uint32)
    first, arrays = lookup(kind, low.planes(), cut, cols, tokens)
    second, _ = lookup(kind, low.planes(), rest.rows, cols, tokens, row0=cut)
    out = arrays.pop("out")
    high = {name: f"high_{name}" for name in low.planes()}
    exact = references.gather(matrix.values, tokens[:-1].tolist(), 1.0)
    is_low = (tokens[:-1] < cut)[:, None]
    place = np.s_[:-1, :cols]
    return Trial(
        {
            **arrays,
            **low.planes(),
            **{f"high_{name}": plane for name, plane in rest.planes().items()},
            **{"raw": low.raw, "raw_1": pieces[0].raw, "raw_2": pieces[1].raw},
            **{"low_out": out, "high_out": out},
        },
        [
            low.relayout(named(["raw", *low.planes()])),
            pieces[0].relayout({"raw": "raw_1", **high}),
            pieces[1].relayout({"raw": "raw_2", **high}, row0=piece),
            replace(first, bindings={**first.bindings, "out": "low_out"}),
            replace(second, bindings={**second.bindings, **high, "out": "high_out"}),
        ],
        ["low_out", "high_out"],
        lambda _: {
            "low_out": inside(out, place, np.where(is_low, exact, 0.0), 0.0, 1.0),
            "high_out": inside(out, place, np.where(is_low, 0.0, exact), 0.0, 1.0),
        },
    )


def norm(rng: Rng, width: int, tokens: int, branch: bool, post: bool) -> Trial:
    """Residual and RMSNorm; the last token of the batch is not real."""
    stride, eps, offset = fours(width) + 4, 1e-6, 1.0 if post else 0.0
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
    constants = {"HAS_BRANCH": int(branch), "HAS_POST": int(post), "HAS_NORM": 1, "SCALED": 0}
    params = {"width": width, "stride": stride, "eps": eps, "offset": offset}
    params |= {"each": 1, "scale": 1.0, "branch_eps": eps}
    real = slice(0, tokens)
    exact = references.norm(
        x[real], b[real] if branch else None, p if post else None, w, eps, offset
    )
    place = real, slice(0, width)
    return Trial(
        arrays,
        [Launch("norm", constants, params, named(arrays), tokens + 1)],
        ["x", "out"],
        lambda _: {
            "x": inside(arrays["x"], place, exact[0]),
            "out": inside(arrays["out"], place, exact[1]),
        },
    )


def scaled(rng: Rng, width: int, each: int, normed: bool) -> Trial:
    """Two tokens of `each` rows and one that is not real: what ends a layer, or its embeddings."""
    rows, stride, eps, branch_eps, scale = 3 * each, fours(width), 1e-6, 0.5, 0.7
    x, b = normal(rng, rows, width), normal(rng, rows, width)
    w, p, own = normal(rng, width), normal(rng, width), 1.3
    arrays = {
        "x": padded(x, stride),
        "branch": padded(b, stride),
        "post": np.append(vec4s(p), np.array([own, 0, 0, 0], np.float32)),
        "out": np.zeros((rows, stride), np.float32),
        "state": state(2),
    }
    arrays |= {"weight": vec4s(w)} if normed else {}
    constants = {"HAS_BRANCH": 1, "HAS_POST": 1, "HAS_NORM": int(normed), "SCALED": int(normed)}
    params = {"width": width, "stride": stride, "eps": eps, "offset": 0.0}
    params |= {"each": each, "scale": scale, "branch_eps": branch_eps}
    place = np.s_[: 2 * each, :width]
    total = x + references.rms(b, p, branch_eps, 0.0)
    total = (scale * (own if normed else 1.0) * total)[: 2 * each]
    out = references.rms(total, w, eps, 0.0) if normed else np.zeros_like(total)
    return Trial(
        arrays,
        [Launch("norm", constants, params, named(arrays), rows)],
        ["x", "out"],
        lambda _: {
            "x": inside(arrays["x"], place, total),
            "out": inside(arrays["out"], place, out),
        },
    )


def joined(rng: Rng, width: int) -> Trial:
    """Two tokens and one that is not real: the sum of two, each normed; x stays as it is."""
    stride, eps, branch_eps = fours(width) + 4, 1e-6, 0.5
    x, b = normal(rng, 3, width), normal(rng, 3, width)
    w, p = normal(rng, width), normal(rng, width)
    arrays = {
        "x": padded(x, stride),
        "branch": padded(b, stride),
        "post": vec4s(p),
        "weight": vec4s(w),
        "out": np.zeros((3, stride), np.float32),
        "state": state(2),
    }
    constants = {"HAS_BRANCH": 0, "HAS_POST": 1, "HAS_NORM": 1, "SCALED": 0}
    params = {"width": width, "stride": stride, "eps": eps, "offset": 1.0}
    params |= {"each": 1, "scale": 1.0, "branch_eps": branch_eps}
    total = references.rms(x, w, eps, 1.0) + references.rms(b, p, branch_eps, 1.0)
    return Trial(
        arrays,
        [Launch("norm", constants, params, named(arrays), 3)],
        ["x", "out"],
        lambda _: {
            "x": Expected(arrays["x"]),
            "out": inside(arrays["out"], np.s_[:2, :width], total[:2]),
        },
    )


def gate(rng: Rng, ffn: int, tokens: int, activation: Activation) -> Trial:
    """act(gates) · ups; some gates are so large that exp or tanh would overflow. The last token of
    the batch is not real.
    """
    up0 = fours(ffn)
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
    exact = references.gate(gates, ups, activation)[:tokens]
    return Trial(
        arrays,
        [Launch("gate", constants, params, named(arrays), tokens + 1)],
        ["out"],
        lambda _: {"out": inside(arrays["out"], np.s_[:tokens, :ffn], exact)},
    )


def xielu(rng: Rng, ffn: int, tokens: int) -> Trial:
    """Also of numbers so far below 0 that exp is 0, near 0, and 0. The last token of the batch is
    not real.
    """
    stride = fours(ffn) + 4
    x, numbers = 4 * normal(rng, tokens + 1, ffn), np.array([1.3, 0.9, 0.45, -1e-6], np.float32)
    x[0, 0], x[-2, -1] = -300.0, 0.0
    x[0, ffn // 2] = -1e-3
    arrays = {
        "x": padded(x, stride),
        "numbers": numbers,
        "out": np.zeros((tokens + 1, stride), np.float32),
        "state": state(tokens),
    }
    launch = Launch("xielu", {}, {"ffn": ffn, "stride": stride}, named(arrays), tokens + 1)
    exact, size = references.xielu(x[:tokens], numbers), np.abs(x[:tokens]) + 1e-4
    place = np.s_[:tokens, :ffn]
    return Trial(
        arrays,
        [launch],
        ["out"],
        lambda _: {"out": inside(arrays["out"], place, exact, scale=np.abs(exact) + size)},
    )


def last(rng: Rng, count: int, own: bool) -> Trial:
    """Of a batch of seven, `count` of them real, from position 20 on."""
    width, own_width = 600, 12
    x, given = (normal(rng, 7, n).astype(np.float32) for n in (width, own_width))
    before = state(count, 20, 3, 9)
    arrays = {"x": x, "out": np.zeros(width, np.float32), "state": before}
    if own:
        arrays |= {"own": given, "own_out": np.zeros(own_width, np.float32)}
    params = {"width": width // 4, "own_width": own_width // 4}
    right = {"out": Expected(arrays["out"]), "state": Expected(before)}
    if count:
        right["out"] = Expected(x[count - 1])
        right["state"] = Expected(state(1, 19 + count, 3, 9))
    if own:
        right["own_out"] = Expected(given[count - 1])
    launch = Launch("last", {"OWN": int(own)}, params, named(arrays))
    return Trial(arrays, [launch], list(right), lambda _: right)


CASES: tuple[Case, ...] = (
    case("gather", "Q6_K, 9 tokens of 768, scaled", gather, "Q6_K", 67, 768, 9, 27.7),
    case("gather", "Q5_0, 5 rows of 96, in order", gather, "Q5_0", 8, 96, 6, 16.0, True),
    case("gather", "two slices of a matrix, one moved in two pieces", slices),
    *(
        case("norm", f"{tokens} tokens of {width}{name}", norm, width, tokens, *folded)
        for width in (1, 6, 67, 640)
        for tokens in (1, 3)
        for name, folded in {
            "": (False, False),
            ", branch": (True, False),
            ", normed branch": (True, True),
        }.items()
    ),
    *(
        case("last", f"{count} of 7 tokens{note}", last, count, bool(note))
        for count, note in ((5, ""), (1, ", and their own"), (7, ", and their own"), (0, ""))
    ),
    case("norm", "a layer's end, of 67", scaled, 67, 1, True),
    case("norm", "three rows of 20 a token, added alone", scaled, 20, 3, False),
    case("norm", "two of 67, each normed", joined, 67),
    *(
        case("xielu", f"{tokens} tokens of {ffn}", xielu, ffn, tokens)
        for ffn, tokens in ((3, 1), (67, 3), (260, 17))
    ),
    *(
        case("gate", f"{name}, {tokens} tokens of {ffn}", gate, ffn, tokens, name)
        for name in ("silu", "gelu_tanh")
        for ffn, tokens in ((1, 1), (67, 3), (260, 17))
    ),
)
