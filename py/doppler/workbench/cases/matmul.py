"""Cases of the products: matvecs and matmuls of every block type, with what is folded into them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from doppler import references
from doppler.config.model import Activation
from doppler.gpu.device import MATRIX_UNITS
from doppler.plan.layer import ACTIVATIONS
from doppler.weights.placement import FORMS
from doppler.workbench.case import (
    Array,
    Arrays,
    Case,
    Expected,
    Launch,
    Rng,
    Trial,
    inside,
    named,
)
from doppler.workbench.cases.inputs import UNTOUCHED, case, fours, normal, padded, state, vec4s
from doppler.workbench.cases.weights import Matrix, columns, moved

# Sums of thousands of f32 products in another order than NumPy's: relative to the sum of their
# magnitudes, a few units of 2^-24 remain. A wrong weight is off by 1e-2 or more.
SUM_ERROR = 2e-6
HALF_ERROR = 1.5e-3  # of f16: activations, and sums of 4 or 8 products, are rounded to 11 bits
GATE_ERROR = 1e-4  # of the largest
UNIT_ERROR = 2e-3  # of the largest, on matrix units
HALVES = "shader-f16"
FEATURES: Mapping[str, tuple[str, ...]] = {
    "matvec_subgroup": ("subgroups",),
    "matvec_half": (HALVES, "subgroups"),
    "matmul_subgroup_matrix": (MATRIX_UNITS,),
}
# What a kernel's cut is where a case says nothing else.
TEAM = {"TEAM": 32, "ROWS": 4, "DEPTH": 2, "TOKENS": 1}
CUTS: Mapping[str, Mapping[str, int]] = {
    "matvec": {},
    "matvec_workgroup": TEAM,
    "matvec_subgroup": TEAM,
    "matvec_half": TEAM,
    "matmul": {},
    "matmul_tile": {"ROW_BLOCKS": 1, "TOKEN_BLOCKS": 1, "HALF": 0},
    "matmul_subgroup_matrix": {"ROW_TILES": 2, "TOKEN_TILES": 1},
}
MATVECS = ("matvec", "matvec_workgroup", "matvec_subgroup")


def features(kernel: str) -> tuple[str, ...]:
    """What a device must have to run it."""
    return FEATURES.get(kernel, ())


def name_of(activation: int) -> Activation:
    """An activation by its number in the kernels."""
    names: tuple[Activation, ...] = get_args(Activation)
    return next(name for name in names if ACTIVATIONS[name] == activation)


def activations(rng: Rng, tokens: int, cols: int) -> Array:
    """float32 [tokens, cols rounded up to a vec4], zeros beyond cols."""
    return padded(normal(rng, tokens, cols), fours(cols))


@dataclass(frozen=True)
class Product:
    """out = x · matrixᵀ for `tokens` tokens, `count` of them real (default: all), with matrix rows
    from row0 on of a larger matrix, at column out0 + row0 of the output.
    """

    kernel: str
    kind: str
    rows: int
    cols: int
    tokens: int = 1
    count: int | None = None
    row0: int = 0
    out0: int = 0
    last: int = 0  # a matvec multiplies the last real token
    activation: int = 0
    cut: Mapping[str, int] = field(default_factory=dict)
    size: float = 1.0  # of the activations
    half: bool = False  # it multiplies f16
    addend0: int = 0
    addend_stride: int = 0  # 0: it is the same for all tokens

    @property
    def real(self) -> int:
        """Real tokens."""
        return self.tokens if self.count is None else self.count

    @property
    def first(self) -> int:
        """The output's column of the first row."""
        return self.row0 + self.out0

    @property
    def read(self) -> slice:
        """The tokens that are multiplied."""
        return slice(self.real - 1, self.real) if self.last else slice(0, self.real)

    @property
    def written(self) -> tuple[slice, slice]:
        """Where the results lie."""
        height = self.rows // 2 if self.activation else self.rows
        count = self.read.stop - self.read.start
        return slice(0, count), slice(self.first, self.first + height)

    def empty(self) -> Array:
        """The output before."""
        return np.full((self.tokens, self.first + self.rows + 3), UNTOUCHED, np.float32)

    def launch(self, bindings: Mapping[str, str]) -> Launch:
        """The kernel; `bindings` has "addend" where there is one."""
        constants = {"FORM": FORMS[self.kind], "ACTIVATION": self.activation, "EXPERTS": 0}
        constants |= {"ADDEND": int("addend" in bindings), **CUTS[self.kernel]}
        params: dict[str, int | float] = {
            "rows": self.rows,
            "row0": self.row0,
            "x_stride": fours(self.cols),
            "out0": self.out0,
            "out_stride": self.first + self.rows + 3,
            "experts": 0,
            "used": 0,
            "addend0": self.addend0,
            "addend_stride": self.addend_stride,
        }
        if self.kernel.startswith("matmul"):
            params["cols"] = self.cols
        else:
            params |= {"last": self.last, "eps": 0.0, "offset": 0.0, "heads": 0}
            constants |= {"COLS": self.cols, "PROLOGUE": 0, "SPLITS": 0, "SCALED": 0}
            constants["STAGE"] = int(self.tokens == 1)
        return Launch(self.kernel, {**constants, **self.cut}, params, bindings, self.tokens)

    def expected(self, values: Array, x: Array, margin: float = SUM_ERROR) -> Expected:
        """Relative to the sum of the products' magnitudes.

        With f16, sums that are small beside the largest may be off by more: its smallest numbers
        are a millionth of those that activations reach.
        """
        matrix = values.astype(np.float64)
        used = x.astype(np.float64)[self.read, : self.cols]
        scale = references.matmul(np.abs(matrix), np.abs(used))
        scale = np.maximum(scale, scale.max() if self.half else 1e-30)
        exact = references.matmul(matrix, used)
        return inside(self.empty(), self.written, exact, HALF_ERROR if self.half else margin, scale)

    def expected_gates(self, values: Array, x: Array, margin: float) -> Expected:
        """Relative to the largest of all tokens' results, real or not; gated by pairs of rows."""
        both = references.matmul(values.astype(np.float64), x.astype(np.float64)[:, : self.cols])
        if self.activation:
            pairs = both[:, : self.rows // 2], both[:, self.rows // 2 :]
            both = references.gate(*pairs, name_of(self.activation))
        exact, scale = both[self.read], np.abs(both).max()
        return inside(self.empty(), self.written, exact, margin, scale)


def product(rng: Rng, spec: Product) -> Trial:
    """A plain product."""
    matrix, x, arrays, launches = _inputs(rng, spec)
    return Trial(arrays, launches, ["out"], lambda _: {"out": spec.expected(matrix.values, x)})


def gates(rng: Rng, spec: Product, margin: float) -> Trial:
    """A product of which all that counts is small beside the largest result."""
    matrix, x, arrays, launches = _inputs(rng, spec)
    return Trial(
        arrays,
        launches,
        ["out"],
        lambda _: {"out": spec.expected_gates(matrix.values, x, margin)},
    )


def _inputs(rng: Rng, spec: Product) -> tuple[Matrix, Array, dict[str, Array], list[Launch]]:
    """A matrix, the activations, all arrays, and launches that move the one and multiply both."""
    matrix = Matrix.random(rng, spec.kind, spec.rows, spec.cols)
    x = (activations(rng, spec.tokens, spec.cols) * spec.size).astype(np.float32)
    filled, relayout = moved(matrix)
    arrays = {**filled, "x": x, "state": state(spec.real), "out": spec.empty()}
    launch = spec.launch(named(arrays.keys() - {"raw"}))
    return matrix, x, arrays, [relayout, launch]


def addends(rng: Rng, spec: Product) -> Trial:
    """A slice's rows get what belongs to them in the whole matrix, on top of what they get else: a
    bias, and a token's own.
    """
    matrix, x, arrays, (relayout, plain) = _inputs(rng, spec)
    width = spec.row0 + spec.rows + 6
    own_spec = replace(spec, addend0=4, addend_stride=width)
    bias = rng.standard_normal(spec.row0 + spec.rows).astype(np.float32)
    own = rng.standard_normal((spec.tokens, width)).astype(np.float32)
    arrays |= {"bias": bias, "own": own, "biased": spec.empty(), "with_own": spec.empty()}
    launches = [
        relayout,
        plain,
        spec.launch({**plain.bindings, "addend": "bias", "out": "biased"}),
        own_spec.launch({**plain.bindings, "addend": "own", "out": "with_own"}),
    ]

    def twin(got: Arrays) -> dict[str, Expected]:
        out = got["out"][spec.written]
        first = own_spec.addend0 + spec.row0
        sums = {"biased": out + bias[spec.row0 :], "with_own": out + own[:, first:][:, : spec.rows]}
        return {
            "out": spec.expected(matrix.values, x),
            **{
                name: inside(spec.empty(), spec.written, exact, 0.0, 1.0)
                for name, exact in sums.items()
            },
        }

    return Trial(arrays, launches, ["out", "biased", "with_own"], twin)


def ups(rng: Rng, spec: Product) -> Trial:
    """Gates alone are multiplied; the ups are given, a row for each token."""
    matrix, x, arrays, (relayout, plain) = _inputs(rng, spec)
    width = spec.row0 + spec.rows + 6
    own = replace(spec, activation=2, addend0=4, addend_stride=width)
    given = rng.standard_normal((spec.tokens, width)).astype(np.float32)
    arrays |= {"ups": given, "gated": spec.empty()}
    launch = own.launch({**plain.bindings, "addend": "ups", "out": "gated"})
    launch = replace(launch, constants={**launch.constants, "ADDEND": 2})

    def twin(got: Arrays) -> dict[str, Expected]:
        first = own.addend0 + spec.row0
        read = given[spec.read, first : first + spec.rows].astype(np.float64)
        exact = references.gate(got["out"][spec.written].astype(np.float64), read, name_of(2))
        return {
            "out": spec.expected(matrix.values, x),
            "gated": inside(spec.empty(), spec.written, exact, SUM_ERROR, np.abs(exact).max()),
        }

    return Trial(arrays, [relayout, plain, launch], ["out", "gated"], twin)


def together(rng: Rng, spec: Product) -> Trial:
    """What each of a few tokens gets is what it would get alone: bit for bit in f32, while drivers
    may leave out a rounding to f16, as that of an H100 does.
    """
    matrix, x, arrays, (relayout, launch) = _inputs(rng, spec)
    one = replace(spec, tokens=1, cut={**spec.cut, "TOKENS": 1})
    singles = range(spec.tokens)
    arrays |= {f"x_{t}": x[[t]] for t in singles} | {f"out_{t}": one.empty() for t in singles}
    alone = [one.launch({**launch.bindings, "x": f"x_{t}", "out": f"out_{t}"}) for t in singles]

    def twin(got: Arrays) -> dict[str, Expected]:
        right = {f"out_{t}": one.expected(matrix.values, x[[t]]) for t in singles}
        if spec.half:
            return {**right, "out": spec.expected(matrix.values, x)}
        return {**right, "out": Expected(np.concatenate([got[name] for name in right]))}

    outputs = ["out", *(f"out_{t}" for t in singles)]
    return Trial(arrays, [relayout, launch, *alone], outputs, twin)


@dataclass(frozen=True)
class Folded:
    """A matvec into which a norm, a residual and an activation are folded (matvec_common.wgsl)."""

    kernel: str
    rows: int
    cols: int
    prologue: int
    last: int
    stage: int
    activation: int
    cut: Mapping[str, int]
    is_scaled: bool = False


EPS, TOKENS, SCALE = 1e-6, 3, 1.3


def folded(rng: Rng, spec: Folded) -> Trial:
    """One of three tokens; `next` gets the residual where there is one."""
    rows, cols = spec.rows, spec.cols
    height, stride = rows * (1 + (spec.activation > 0)), fours(cols)
    offset = 1.0 if spec.prologue == 3 else 0.0
    x, branch = normal(rng, TOKENS, cols), 3 * normal(rng, TOKENS, cols)
    weight, post = normal(rng, cols), normal(rng, cols)
    matrix = normal(rng, height, cols)
    constants = {"FORM": 0, "COLS": cols, "PROLOGUE": spec.prologue, "STAGE": spec.stage}
    constants |= {"ACTIVATION": spec.activation, "ADDEND": 0, "SPLITS": 0, "EXPERTS": 0, **spec.cut}
    constants["SCALED"] = int(spec.is_scaled)
    arrays = {
        "codes": padded(matrix, stride),
        "x": padded(x, stride),
        "branch": padded(branch, stride),
        "post": np.append(vec4s(post), np.array([SCALE, 0, 0, 0], np.float32)),
        "weight": vec4s(weight),
        "next": np.zeros((TOKENS, stride), np.float32),
        "state": state(TOKENS),
        "out": np.full(rows + 7, UNTOUCHED, np.float32),
    }
    params = {
        "rows": height,
        "row0": 0,
        "x_stride": stride,
        "out_stride": 0,
        "out0": 4,
        "last": spec.last,
        "eps": EPS,
        "offset": offset,
        "heads": 0,
        "experts": 0,
        "used": 0,
        "addend0": 0,
        "addend_stride": 0,
    }
    t = TOKENS - 1 if spec.last else 0
    residual, _ = references.norm(
        x[[t]],
        branch[[t]] if spec.prologue > 1 else None,
        post if spec.prologue in (3, 5) else None,
        weight,
        EPS,
        offset,
    )
    residual = residual * (SCALE if spec.is_scaled else 1.0)
    is_normed = spec.prologue in (1, 2, 3)
    v = references.rms(residual, weight, EPS, offset) if is_normed else residual
    out = v[0] @ matrix.T
    if spec.activation:
        pairs = out[None, :rows], out[None, rows:]
        out = references.gate(*pairs, name_of(spec.activation))[0]
    after = inside(arrays["next"], np.s_[t, :cols], residual[0])
    return Trial(
        arrays,
        [Launch(spec.kernel, constants, params, named(arrays))],
        ["out", "next"],
        lambda _: {
            "out": inside(arrays["out"], np.s_[4:-3], out),
            "next": after if spec.prologue > 1 else Expected(arrays["next"]),
        },
    )


def _folded_of(kernel: str) -> list[Case]:
    """Each shape and prologue, with one of the cuts and activations."""
    shapes = ((1, 6), (5, 36), (67, 100), (130, 640), (31, 1152))
    cuts = ((1, 1, 0), (4, 2, 1), (128, 4, 1), (256, 2, 2), (16, 1, 0))
    found = []
    folds = [*itertools.product(shapes, range(4)), ((67, 100), 5), ((31, 1152), 5)]
    for number, ((rows, cols), prologue) in enumerate(folds):
        # Each shape and prologue meets others.
        team, at_once, activation = cuts[(number + number // 5) % 5]
        depth = (8, 2, 1)[number % 3] // at_once or 1
        cut = {"TEAM": team, "ROWS": at_once, "DEPTH": depth, "TOKENS": 1}
        spec = Folded(
            kernel,
            rows,
            cols,
            prologue,
            last=prologue % 2,
            stage=int(prologue > 0 or team > 4),
            activation=activation,
            cut={} if kernel == "matvec" else cut,
            is_scaled=cols == 100 and prologue in (3, 5),
        )
        gate = f", {name_of(activation)}" if activation else ""
        name = f"F32, {rows} rows of {cols}, prologue {prologue}{gate}"
        found.append(case(kernel, name, folded, spec, needs=features(kernel)))
    return found


def _plain(note: str, spec: Product, extra: tuple[str, ...] = ()) -> Case:
    return case(spec.kernel, _name(spec, note), product, spec, needs=features(spec.kernel) + extra)


def _name(spec: Product, note: str = "") -> str:
    tokens = f"{spec.tokens} token{'s' * (spec.tokens > 1)}"
    return f"{spec.kind}, {spec.rows} rows of {spec.cols}, {tokens}{', ' * bool(note)}{note}"


def _each_kind(kind: str) -> list[Case]:
    """Shapes that are multiples of nothing, in f32."""
    kernels = (
        *((kernel, 1) for kernel in MATVECS),
        *(("matmul", tokens) for tokens in (1, 3, 17)),
        *(("matmul_tile", tokens) for tokens in (17, 70)),
    )
    return [
        _plain("", Product(kernel, kind, rows, cols, tokens))
        for rows in (1, 5, 67)
        for cols in columns(kind)
        for kernel, tokens in kernels
    ]


def _each_kind_of_halves(kind: str) -> list[Case]:
    """The kernels that multiply f16; large activations too, which must not overflow."""
    found = []
    for rows, cols in itertools.product((5, 67), columns(kind)):
        for kernel, tokens, size in (
            ("matvec_half", 1, 1.0),
            ("matvec_half", 1, 5000.0),
            ("matmul_tile", 17, 1.0),
            ("matmul_tile", 70, 100.0),
        ):
            cut = {"HALF": 1} if kernel == "matmul_tile" else {}
            spec = Product(kernel, kind, rows, cols, tokens, cut=cut, size=size, half=True)
            extra = (HALVES,) if kernel == "matmul_tile" else ()
            found.append(_plain(f"f16, up to {size:g}", spec, extra))
    return found


def _each_kind_on_units(kind: str) -> list[Case]:
    """Every tile, over rows and tokens that end in its midst; gates too."""
    kernel, found = "matmul_subgroup_matrix", []
    for rows, tokens, tile in ((134, 150, (4, 2)), (70, 130, (2, 2)), (38, 17, (2, 1))):
        cut = {"ROW_TILES": tile[0], "TOKEN_TILES": tile[1]}
        for activation in (0, 1):
            spec = Product(
                kernel,
                kind,
                rows,
                columns(kind)[-1],
                tokens,
                count=tokens - 1,
                out0=4,
                activation=activation,
                cut=cut,
            )
            name = _name(spec, "gated" * activation)
            found.append(case(kernel, name, gates, spec, UNIT_ERROR, needs=features(kernel)))
    return found


def _parts() -> list[Case]:
    """Real tokens that end before the batch, the last one, columns before and after."""
    batch = {"kind": "Q8_0", "rows": 37, "cols": 160, "tokens": 9, "count": 6, "row0": 8, "out0": 5}
    found = [
        _plain("6 of them real", Product("matmul", **batch)),  # type: ignore[arg-type]
        _plain("the last of 6 real ones", Product("matvec", **batch, last=1)),  # type: ignore[arg-type]
        _plain("the last of 6 real ones", Product("matvec_subgroup", **batch, last=1)),  # type: ignore[arg-type]
    ]
    for blocks in itertools.product((1, 2), (1, 2)):
        cut = {"ROW_BLOCKS": blocks[0], "TOKEN_BLOCKS": blocks[1]}
        where, note = {"row0": 8, "out0": 5, "cut": cut}, f"tiles of {blocks[0]} by {blocks[1]}"
        for spec in (
            Product("matmul_tile", "Q6_K", 131, 256, 70, 66, **where),  # type: ignore[arg-type]
            Product("matmul_tile", "F32", 61, 45, 200, 150, **where),  # type: ignore[arg-type]
        ):
            found.append(_plain(f"{spec.real} of them real, {note}", spec))
    return found


def _addends() -> list[Case]:
    tokens = {"matvec": 1, "matvec_workgroup": 3, "matvec_subgroup": 5}
    found = []
    for kernel in (*MATVECS, "matmul", "matmul_tile"):
        count = tokens.get(kernel, 9)
        cut = {"TOKENS": count} if "TOKENS" in CUTS[kernel] else {}
        spec = Product(kernel, "F32", 69, 45, count, row0=8, out0=5, cut=cut)
        name = _name(spec, "addends")
        found.append(case(kernel, name, addends, spec, needs=features(kernel)))
        name = _name(spec, "ups are given")
        found.append(case(kernel, name, ups, spec, needs=features(kernel)))
    return found


def _few_tokens() -> list[Case]:
    found = []
    for kernel in ("matvec_workgroup", "matvec_subgroup", "matvec_half"):
        for kind in ("F16", "Q4_1", "Q6_K", "IQ4_NL", "Q2_K"):
            cut = {"TEAM": 16, "ROWS": 2, "DEPTH": 1, "TOKENS": 8}
            half = kernel == "matvec_half"
            spec = Product(kernel, kind, 67, columns(kind)[-1], 7, out0=4, cut=cut, half=half)
            name = _name(spec, "together and alone")
            found.append(case(kernel, name, together, spec, needs=features(kernel)))
    return found


def _gated() -> list[Case]:
    """Pairs of rows, of which one number comes; tiles end in their midst."""
    specs = (
        Product(kernel, kind, 2 * ffn, 256, tokens, out0=4, activation=2)
        for kind in ("Q4_0", "Q6_K")
        for ffn, tokens in ((5, 3), (67, 17), (130, 70))
        for kernel in ("matmul", "matmul_tile")
    )
    return [case(spec.kernel, _name(spec, "gated"), gates, spec, GATE_ERROR) for spec in specs]


CASES: tuple[Case, ...] = (
    *(found for kind in FORMS for found in _each_kind(kind)),
    *(found for kind in FORMS for found in _each_kind_of_halves(kind)),
    *(found for kind in FORMS for found in _each_kind_on_units(kind)),
    *_parts(),
    *_addends(),
    *_few_tokens(),
    *_gated(),
    # More rows than one dimension of a grid has room for.
    _plain("", Product("matvec_subgroup", "F32", 8 * 65535 + 13, 4)),
    *(found for kernel in MATVECS for found in _folded_of(kernel)),
)
