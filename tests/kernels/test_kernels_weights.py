"""Kernels that read weights, in the browser, for every block type: planes, embedding, products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize

from doppler import references
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.weights.fused import WIDER
from doppler.weights.placement import FORMS, plane_sizes
from gpu_page import Case, GpuPage

Array = npt.NDArray[Any]
# Byte offsets of the f16 scales in a block: d, and m or dmin.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
}
# Sums of thousands of f32 products in another order than NumPy's: relative to the sum of their
# magnitudes, a few units of 2^-24 remain. A wrong weight is off by 1e-2 or more.
SUM_ERROR = 2e-6
HALF_ERROR = 1.5e-3  # of f16: activations, and sums of 4 or 8 products, are rounded to 11 bits


def blocks(kind: str, rows: int, cols: int, rng: np.random.Generator) -> bytes:
    """Random bytes as `rows` rows of blocks; scales are small numbers, some subnormal in f16."""
    if kind == "F32":
        return rng.standard_normal((rows, cols), np.float32).tobytes()
    if kind in ("F16", "BF16"):
        values = rng.standard_normal((rows, cols)) * 10.0 ** rng.integers(-7, 1, (rows, cols))
        if kind == "F16":
            return values.astype(np.float16).tobytes()
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    block = BLOCK_TYPES[kind]
    data = rng.integers(0, 256, (rows, cols // block.elements, block.bytes), np.uint8)
    if kind == "MXFP4":
        data[..., 0] = rng.integers(107, 123, data.shape[:2])  # 2^-20 .. 2^-5
    for at in SCALES.get(kind, ()):
        sizes = rng.standard_normal(data.shape[:2]) * 10.0 ** rng.integers(-6, -1, data.shape[:2])
        data[..., at : at + 2] = sizes.astype("<f2")[..., None].view(np.uint8)
    return data.tobytes()


def dequantized(kind: str, data: bytes, rows: int, cols: int) -> Array:
    """float32 [rows, cols], by the gguf package."""
    values = dequantize(np.frombuffer(data, np.uint8), gguf.GGMLQuantizationType[kind])
    return values.reshape(rows, cols).astype(np.float32)


def relayout(
    kind: str,
    data: bytes,
    rows: int,
    cols: int,
    row0: int = 0,
    total: int = 0,
    to: str | None = None,
) -> Case:
    """Planes of `total` rows (default: rows), of which this fills those from row0 on.

    to: the type that the weights take there; default: their own.
    """
    sizes = plane_sizes(FORMS[to or kind], cols)
    count = total or rows
    lengths = {"codes": sizes.codes, "scales": sizes.scales}
    planes = {
        name: np.zeros(-(-length * count // 4), np.uint32)
        for name, length in lengths.items()
        if length
    }
    raw = np.frombuffer(data + bytes(-len(data) % 4), np.uint32)
    params = {"rows": rows, "cols": cols, "row_bytes": len(data) // rows, "row0": row0}
    constants = {"FORM": FORMS[kind], "TO": FORMS[to or kind]}
    return Case("relayout", constants, {"raw": raw, **planes}, params, list(planes))


def columns(kind: str) -> tuple[int, ...]:
    """Widths that are multiples of nothing but what the block type asks for."""
    elements = BLOCK_TYPES[kind].elements
    return {1: (1, 36, 45, 131), 32: (32, 96, 160), 256: (256, 768)}[elements]


def state(count: int, position: int = 0) -> Array:
    return np.array([position, count, 0, 0, 0], np.uint32)


def gather_case(
    kind: str, planes: Mapping[str, Array], rows: int, cols: int, tokens: Array, row0: int = 0
) -> Case:
    stride = -(-cols // 4) * 4 + 4
    arrays = {
        **planes,
        "tokens": tokens,
        "state": state(len(tokens) - 1),  # the last of the batch is not real
        "out": np.zeros((len(tokens), stride), np.float32),
    }
    params = {"rows": rows, "cols": cols, "row0": row0, "stride": stride, "scale": 1.0}
    return Case("gather", {"FORM": FORMS[kind]}, arrays, params, ["out"], len(tokens))


def product_case(
    kernel: str,
    kind: str,
    planes: Mapping[str, Array],
    matrix: Array,
    x: Array,
    addend: Array | None = None,
    **more: int,
) -> Case:
    """A product with matrix rows cut off before row0, for which `addend` has numbers too; x
    [tokens, stride].
    """
    rows, cols = matrix.shape
    tokens = x.shape[0]
    row0, out0, count = more.get("row0", 0), more.get("out0", 0), more.get("count", tokens)
    stride = row0 + out0 + rows + 3
    params: dict[str, int | float] = {
        "rows": rows,
        "row0": row0,
        "x_stride": x.shape[1],
        "out0": out0,
        "out_stride": stride,
        "experts": 0,
        "used": 0,
        "addend0": more.get("addend0", 0),
        "addend_stride": more.get("addend_stride", 0),
    }
    constants = {"FORM": FORMS[kind], "ACTIVATION": more.get("activation", 0)}
    constants |= {"ADDEND": int(addend is not None), "EXPERTS": 0}
    if kernel.startswith("matmul"):
        params["cols"] = cols
    else:
        params |= {"last": more.get("last", 0), "eps": 0.0, "offset": 0.0, "heads": 0}
        constants |= {"COLS": cols, "PROLOGUE": 0, "SPLITS": 0, "STAGE": int(tokens == 1)}
    if kernel.startswith("matvec_"):
        cut = {"TEAM": 32, "ROWS": 4, "DEPTH": 2, "TOKENS": 1}
        constants |= {name: more.get(name, value) for name, value in cut.items()}
    if kernel == "matmul_tile":
        constants |= {name: more.get(name, 1) for name in ("ROW_BLOCKS", "TOKEN_BLOCKS")}
        constants["HALF"] = more.get("half", 0)
    if kernel == "matmul_subgroup_matrix":
        constants |= {name: more[name] for name in ("ROW_TILES", "TOKEN_TILES")}
    arrays = {
        **planes,
        "x": x,
        "state": state(count),
        "out": np.full((tokens, stride), 7.0, np.float32),
    }
    if addend is not None:
        arrays["addend"] = addend
    return Case(kernel, constants, arrays, params, ["out"], tokens)


def assert_product(out: Array, matrix: Array, x: Array, half: bool = False) -> None:
    """out [n, rows] against float64, relative to the sum of the products' magnitudes.

    With f16, sums that are small beside the largest may be off by more: its smallest numbers are
    a millionth of those that activations reach.
    """
    exact = matrix.astype(np.float64), x.astype(np.float64)[:, : matrix.shape[1]]
    scale = references.matmul(np.abs(exact[0]), np.abs(exact[1]))
    floor = scale.max() if half else 1e-30
    error = np.abs(out - references.matmul(*exact)) / np.maximum(scale, floor)
    assert error.max() < (HALF_ERROR if half else SUM_ERROR)


def activations(tokens: int, cols: int, rng: np.random.Generator) -> Array:
    """[tokens, cols rounded up to a vec4] with zeros beyond cols."""
    x = np.zeros((tokens, -(-cols // 4) * 4), np.float32)
    x[:, :cols] = rng.standard_normal((tokens, cols))
    return x


@pytest.mark.parametrize("kind", FORMS)
def test_planes_hold_the_weights_bit_for_bit(gpu_page: GpuPage, kind: str) -> None:
    """relayout then gather gives what the gguf package dequantises, subnormal scales too."""
    rng = np.random.default_rng(FORMS[kind])
    shapes = [(rows, cols) for rows in (1, 5, 67) for cols in columns(kind)]
    raw = [blocks(kind, rows, cols, rng) for rows, cols in shapes]
    planes = gpu_page.run([relayout(kind, d, *shape) for d, shape in zip(raw, shapes, strict=True)])
    cases, expected = [], []
    for data, made, (rows, cols) in zip(raw, planes, shapes, strict=True):
        tokens = np.append(rng.permutation(rows), 0).astype(np.uint32)
        cases.append(gather_case(kind, made, rows, cols, tokens))
        expected.append(dequantized(kind, data, rows, cols)[tokens])
    for result, right in zip(gpu_page.run(cases), expected, strict=True):
        out, cols = result["out"], right.shape[1]
        np.testing.assert_array_equal(out[:-1, :cols], right[:-1])
        assert not out[-1].any()
        assert not out[:, cols:].any()


def test_every_scale_of_mxfp4(gpu_page: GpuPage) -> None:
    """Each exponent whose weights are all normal float32 or zero: a GPU may flush smaller ones."""
    exponents = np.arange(2, 252, dtype=np.uint8)
    data = np.zeros((1, len(exponents), 17), np.uint8)
    data[..., 0] = exponents
    data[..., 1:] = [0x10 * (15 - i) + i for i in range(16)]
    cols = 32 * len(exponents)
    (planes,) = gpu_page.run([relayout("MXFP4", data.tobytes(), 1, cols)])
    (out,) = gpu_page.run([gather_case("MXFP4", planes, 1, cols, np.zeros(2, np.uint32))])
    right = dequantized("MXFP4", data.tobytes(), 1, cols)[0]
    np.testing.assert_array_equal(out["out"][0, :cols].view(np.uint32), right.view(np.uint32))


@pytest.mark.parametrize("kind", WIDER)
def test_planes_of_a_wider_type_hold_the_same_weights(gpu_page: GpuPage, kind: str) -> None:
    rng = np.random.default_rng(5)
    rows, cols = 37, 96
    data = blocks(kind, rows, cols, rng)
    (planes,) = gpu_page.run([relayout(kind, data, rows, cols, to=WIDER[kind])])
    tokens = np.append(np.arange(rows), 0).astype(np.uint32)
    (result,) = gpu_page.run([gather_case(WIDER[kind], planes, rows, cols, tokens)])
    np.testing.assert_array_equal(result["out"][:-1, :cols], dequantized(kind, data, rows, cols))


def test_gather_of_slices_and_pieces(gpu_page: GpuPage) -> None:
    """Two slices of a matrix, the second relaid out in two pieces, fill each other's gaps."""
    rng = np.random.default_rng(1)
    kind, rows, cols, cut, piece = "Q5_0", 67, 96, 24, 20
    data = blocks(kind, rows, cols, rng)
    size = len(data) // rows
    first = relayout(kind, data[: cut * size], cut, cols)
    start = relayout(kind, data[cut * size : (cut + piece) * size], piece, cols, 0, rows - cut)
    low, begun = gpu_page.run([first, start])
    rest = relayout(kind, data[(cut + piece) * size :], rows - cut - piece, cols, piece, rows - cut)
    arrays = {**begun, "raw": rest.arrays["raw"]}
    done = gpu_page.run([Case("relayout", rest.constants, arrays, rest.params, rest.outputs)])[0]
    tokens = np.array([66, 0, 23, 24, 43, 44, 3], np.uint32)
    right = references.gather(dequantized(kind, data, rows, cols), list(tokens[:-1]), 1.0)
    outs = gpu_page.run(
        [
            gather_case(kind, low, cut, cols, tokens),
            gather_case(kind, done, rows - cut, cols, tokens, row0=cut),
        ]
    )
    np.testing.assert_array_equal((outs[0]["out"] + outs[1]["out"])[:-1, :cols], right)
    for token, out in zip(tokens[:-1], outs[0]["out"], strict=False):
        assert out.any() == (token < cut)


@pytest.mark.parametrize("kind", FORMS)
def test_products(gpu_page: GpuPage, kind: str) -> None:
    """Matvecs and matmuls over shapes that are multiples of nothing."""
    rng = np.random.default_rng(100 + FORMS[kind])
    shapes = [(rows, cols) for rows in (1, 5, 67) for cols in columns(kind)]
    raw = [blocks(kind, rows, cols, rng) for rows, cols in shapes]
    planes = gpu_page.run([relayout(kind, d, *shape) for d, shape in zip(raw, shapes, strict=True)])
    cases: list[Case] = []
    matrices: list[Array] = []
    for data, made, (rows, cols) in zip(raw, planes, shapes, strict=True):
        matrix = dequantized(kind, data, rows, cols)
        for kernel, tokens in (
            ("matvec", 1),
            ("matvec_workgroup", 1),
            ("matvec_subgroup", 1),
            ("matmul", 1),
            ("matmul", 3),
            ("matmul", 17),
            ("matmul_tile", 17),
            ("matmul_tile", 70),
        ):
            x = activations(tokens, cols, rng)
            cases.append(product_case(kernel, kind, made, matrix, x))
            matrices.append(matrix)
    for case, result, matrix in zip(cases, gpu_page.run(cases), matrices, strict=True):
        assert_product(result["out"][:, : matrix.shape[0]], matrix, case.arrays["x"])
        assert np.all(result["out"][:, matrix.shape[0] :] == 7.0)


@pytest.mark.parametrize("kind", FORMS)
def test_products_of_halves(gpu_page: GpuPage, kind: str) -> None:
    """The kernels that multiply f16; large activations too, which must not overflow."""
    if not gpu_page.has("shader-f16"):
        pytest.skip("this adapter has no f16")
    rng = np.random.default_rng(200 + FORMS[kind])
    cases, matrices = [], []
    for rows, cols in [(rows, cols) for rows in (5, 67) for cols in columns(kind)]:
        data = blocks(kind, rows, cols, rng)
        made = gpu_page.run([relayout(kind, data, rows, cols)])[0]
        for kernel, tokens, scale in (
            ("matvec_half", 1, 1.0),
            ("matvec_half", 1, 5000.0),
            ("matmul_tile", 17, 1.0),
            ("matmul_tile", 70, 100.0),
        ):
            x = (activations(tokens, cols, rng) * scale).astype(np.float32)
            matrix = dequantized(kind, data, rows, cols)
            cases.append(product_case(kernel, kind, made, matrix, x, half=1))
            matrices.append(matrix)
    for case, result, matrix in zip(cases, gpu_page.run(cases), matrices, strict=True):
        assert_product(result["out"][:, : len(matrix)], matrix, case.arrays["x"], half=True)
        assert np.all(result["out"][:, len(matrix) :] == 7.0)


@pytest.mark.parametrize("kind", FORMS)
def test_products_on_matrix_units(gpu_page: GpuPage, kind: str) -> None:
    """Every tile, over rows and tokens that end in its midst; gates too."""
    if not gpu_page.run_python("gpu.has_matrix_units"):
        pytest.skip("this adapter has no matrix units")
    rng = np.random.default_rng(300 + FORMS[kind])
    cases, exact = [], []
    for rows, tokens, tile in ((134, 150, (4, 2)), (70, 130, (2, 2)), (38, 17, (2, 1))):
        cols = columns(kind)[-1]
        data = blocks(kind, rows, cols, rng)
        made = gpu_page.run([relayout(kind, data, rows, cols)])[0]
        matrix, x = dequantized(kind, data, rows, cols), activations(tokens, cols, rng)
        both = references.matmul(matrix.astype(np.float64), x[:, :cols].astype(np.float64))
        more = {"ROW_TILES": tile[0], "TOKEN_TILES": tile[1], "count": tokens - 1, "out0": 4}
        for activation in (0, 1):
            more["activation"] = activation
            cases.append(product_case("matmul_subgroup_matrix", kind, made, matrix, x, **more))
            pairs = both[:, : rows // 2], both[:, rows // 2 :]
            exact.append(references.gate(*pairs, "silu") if activation else both)
    for right, result in zip(exact, gpu_page.run(cases), strict=True):
        written = result["out"][: len(right) - 1, 4 : 4 + right.shape[1]]
        assert np.abs(written - right[:-1]).max() < 2e-3 * np.abs(right).max()
        written[:] = 7.0
        assert np.all(result["out"] == 7.0)


def test_products_of_part_of_a_batch(gpu_page: GpuPage) -> None:
    """count below the batch, the last token, columns of the output before and after."""
    rng = np.random.default_rng(2)
    kind, rows, cols, tokens, count = "Q8_0", 37, 160, 9, 6
    data = blocks(kind, rows, cols, rng)
    planes = gpu_page.run([relayout(kind, data, rows, cols)])[0]
    matrix, x = dequantized(kind, data, rows, cols), activations(tokens, cols, rng)
    where = {"row0": 8, "out0": 5, "count": count}
    kernels = ("matmul", "matvec", "matvec_subgroup")
    cases = [product_case(k, kind, planes, matrix, x, **where, last=1) for k in kernels]
    for kernel, result in zip(kernels, gpu_page.run(cases), strict=True):
        out = result["out"]
        used = slice(0, count) if kernel == "matmul" else slice(count - 1, count)
        written = out[used if kernel == "matmul" else slice(0, 1), 13 : 13 + rows]
        assert_product(written, matrix, x[used])
        written[:] = 7.0
        assert np.all(out == 7.0)


@pytest.mark.parametrize("blocks_of", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_tiles_of_part_of_a_batch(gpu_page: GpuPage, blocks_of: tuple[int, int]) -> None:
    """Rows and tokens that end inside the first tile or a later one, real tokens or not."""
    rng = np.random.default_rng(4)
    shape = {"ROW_BLOCKS": blocks_of[0], "TOKEN_BLOCKS": blocks_of[1]}
    cases, matrices = [], []
    for kind, rows, cols, tokens, count in (("Q6_K", 131, 256, 70, 66), ("F32", 61, 45, 200, 150)):
        data = blocks(kind, rows, cols, rng)
        planes = gpu_page.run([relayout(kind, data, rows, cols)])[0]
        matrix, x = dequantized(kind, data, rows, cols), activations(tokens, cols, rng)
        where = {"row0": 8, "out0": 5, "count": count, **shape}
        cases.append(product_case("matmul_tile", kind, planes, matrix, x, **where))
        matrices.append((matrix, count))
    for case, result, (matrix, count) in zip(cases, gpu_page.run(cases), matrices, strict=True):
        out = result["out"]
        written = out[:count, 13 : 13 + len(matrix)]
        assert_product(written, matrix, case.arrays["x"][:count])
        written[:] = 7.0
        assert np.all(out == 7.0)


@pytest.mark.parametrize(
    "kernel", ["matvec", "matvec_workgroup", "matvec_subgroup", "matmul", "matmul_tile"]
)
def test_addends(gpu_page: GpuPage, kernel: str) -> None:
    """A slice's rows get what belongs to them in the whole matrix: a bias, or a token's own."""
    rng = np.random.default_rng(7)
    rows, cols = 69, 45
    tokens = {"matvec": 1, "matvec_workgroup": 3, "matvec_subgroup": 5}.get(kernel, 9)
    data = blocks("F32", rows, cols, rng)
    planes = gpu_page.run([relayout("F32", data, rows, cols)])[0]
    matrix, x = dequantized("F32", data, rows, cols), activations(tokens, cols, rng)
    bias, own = (rng.standard_normal(shape).astype(np.float32) for shape in (77, (tokens, 83)))
    where = {"row0": 8, "out0": 5, "TOKENS": tokens}
    cases = [
        product_case(kernel, "F32", planes, matrix, x, **where),
        product_case(kernel, "F32", planes, matrix, x, bias, **where),
        product_case(kernel, "F32", planes, matrix, x, own, addend0=4, addend_stride=83, **where),
    ]
    plain, biased, out = (result["out"][:, 13 : 13 + rows] for result in gpu_page.run(cases))
    np.testing.assert_array_equal(biased, plain + bias[8:])
    np.testing.assert_array_equal(out, plain + own[:, 12 : 12 + rows])
    assert_product(plain, matrix, x)


@pytest.mark.parametrize("kind", ["F16", "Q4_1", "Q6_K", "IQ4_NL", "Q2_K"])
@pytest.mark.parametrize("kernel", ["matvec_workgroup", "matvec_subgroup", "matvec_half"])
def test_matvecs_of_a_few_tokens(gpu_page: GpuPage, kernel: str, kind: str) -> None:
    """What each token gets is what it would get alone: bit for bit in f32, while drivers may leave
    out a rounding to f16, as that of an H100 does.
    """
    if kernel == "matvec_half" and not gpu_page.has("shader-f16"):
        pytest.skip("this adapter has no f16")
    rng = np.random.default_rng(6)
    rows, cols, tokens = 67, columns(kind)[-1], 7
    data = blocks(kind, rows, cols, rng)
    planes = gpu_page.run([relayout(kind, data, rows, cols)])[0]
    matrix, x = dequantized(kind, data, rows, cols), activations(tokens, cols, rng)
    more = {"TEAM": 16, "ROWS": 2, "DEPTH": 1, "out0": 4}
    together = product_case(kernel, kind, planes, matrix, x, **more, TOKENS=8, count=tokens)
    alone = [product_case(kernel, kind, planes, matrix, x[[t]], **more) for t in range(tokens)]
    (all_of_them, *each) = (result["out"] for result in gpu_page.run([together, *alone]))
    if kernel != "matvec_half":
        np.testing.assert_array_equal(all_of_them, np.concatenate(each))
    assert_product(all_of_them[:, 4 : 4 + rows], matrix, x, half=kernel == "matvec_half")


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_gates_of_a_batch(gpu_page: GpuPage, kind: str) -> None:
    """Pairs of rows, of which one number comes; tiles end in their midst."""
    rng = np.random.default_rng(5)
    cases, exact = [], []
    for ffn, tokens in ((5, 3), (67, 17), (130, 70)):
        data = blocks(kind, 2 * ffn, 256, rng)
        planes = gpu_page.run([relayout(kind, data, 2 * ffn, 256)])[0]
        matrix, x = dequantized(kind, data, 2 * ffn, 256), activations(tokens, 256, rng)
        both = references.matmul(matrix.astype(np.float64), x.astype(np.float64))
        for kernel in ("matmul", "matmul_tile"):
            cases.append(product_case(kernel, kind, planes, matrix, x, out0=4, activation=2))
            exact.append(references.gate(both[:, :ffn], both[:, ffn:], "gelu_tanh"))
    for right, result in zip(exact, gpu_page.run(cases), strict=True):
        out = result["out"]
        close = np.abs(out[:, 4 : 4 + right.shape[1]] - right)
        assert close.max() < 1e-4 * np.abs(right).max()
        out[:, 4 : 4 + right.shape[1]] = 7.0
        assert np.all(out == 7.0)


def test_grids_beyond_65535_workgroups(gpu_page: GpuPage) -> None:
    """More rows than one dimension of a grid has room for: x and y together number them."""
    rng = np.random.default_rng(3)
    rows, cols = 8 * 65535 + 13, 4
    data = blocks("F32", rows, cols, rng)
    made = relayout("F32", data, rows, cols)
    planes = gpu_page.run([made])[0]
    matrix, x = dequantized("F32", data, rows, cols), activations(1, cols, rng)
    out = gpu_page.run([product_case("matvec_subgroup", "F32", planes, matrix, x)])[0]["out"]
    assert_product(out[:, :rows], matrix, x)
