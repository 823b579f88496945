"""Cases of what runs while a model is loaded: weights into planes, BLAKE3."""

from __future__ import annotations

import numpy as np

from doppler.weights.fused import WIDER
from doppler.weights.placement import FORMS
from doppler.workbench import blake3
from doppler.workbench.case import Case, Expected, Launch, Rng, Trial, inside, named
from doppler.workbench.cases.inputs import case
from doppler.workbench.cases.layer import lookup
from doppler.workbench.cases.weights import Matrix, columns

# Lengths of BLAKE3's official test vectors, whose input counts 0, 1, … 250, 0, 1, … .
OFFICIAL = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049),
    *(3072, 3073, 4096, 4097, 5120, 5121, 6144, 6145, 7168, 7169, 8192, 8193, 16384, 31744, 102400),
)
RANDOM = (*np.random.default_rng(3).integers(1, 1 << 20, 8).tolist(), 300_000, 1 << 20)
CHUNKS = 1024  # of a block


def official_input(length: int) -> bytes:
    """That of the test vectors."""
    return bytes(i % 251 for i in range(length))


def hashed(rng: Rng, data: bytes | int, block: int) -> Trial:
    """Both kernels over `data`, or over that many random bytes, in blocks of `block` chunks."""
    content = data if isinstance(data, bytes) else rng.bytes(data)
    chains = blake3.chains(content, block)
    digests = blake3.digests(chains, block)
    after = b"\xa5" * (16 - len(content) % 16)  # to a whole vec4, with bytes that must not count
    arrays = {
        "data": np.frombuffer(content + after, np.uint32),
        "chains": np.zeros_like(chains),
        "digests": np.zeros_like(digests),
    }
    params = {"length": len(content), "block": block}
    launches = [
        Launch("blake3", {}, params, named(("data", "chains"))),
        Launch("blake3_tree", {}, params, named(("chains", "digests"))),
    ]
    right = {"chains": Expected(chains), "digests": Expected(digests)}
    return Trial(arrays, launches, list(right), lambda _: right)


def planes(rng: Rng, kind: str, rows: int, cols: int, to: str) -> Trial:
    """Blocks into planes of type `to`, of which gather makes the weights again, bit for bit."""
    matrix = Matrix.random(rng, kind, rows, cols)
    filled = {"raw": matrix.raw, **matrix.planes(to=to)}
    tokens = np.append(rng.permutation(rows), 0).astype(np.uint32)  # the last is not real
    launch, arrays = lookup(to, matrix.planes(to=to), rows, cols, tokens)
    values = matrix.values[tokens[:-1]]
    return Trial(
        {**arrays, **filled},
        [matrix.relayout(named(filled), to=to), launch],
        ["out"],
        lambda _: {"out": inside(arrays["out"], np.s_[:-1, :cols], values, 0.0, 1.0)},
    )


def every_scale(rng: Rng) -> Trial:
    """Each exponent of MXFP4 whose weights are all normal float32 or zero, and each number, as
    bits: a GPU may flush smaller ones.
    """
    exponents = np.arange(2, 252, dtype=np.uint8)
    data = np.zeros((1, len(exponents), 17), np.uint8)
    data[..., 0] = exponents
    data[..., 1:] = [0x10 * (15 - i) + i for i in range(16)]
    matrix = Matrix("MXFP4", 1, 32 * len(exponents), data.tobytes())
    filled = {"raw": matrix.raw, **matrix.planes()}
    tokens = np.zeros(2, np.uint32)
    launch, arrays = lookup("MXFP4", matrix.planes(), 1, matrix.cols, tokens)
    out = arrays["out"].view(np.uint32)
    bits = matrix.values.view(np.uint32)
    return Trial(
        {**arrays, **filled, "out": out},
        [matrix.relayout(named(filled)), launch],
        ["out"],
        lambda _: {"out": inside(out, np.s_[:1, : matrix.cols], bits, 0.0, 1.0)},
    )


CASES: tuple[Case, ...] = (
    *(
        case("relayout", f"{kind}, {rows} rows of {cols}", planes, kind, rows, cols, kind)
        for kind in FORMS
        for rows in (1, 5, 67)
        for cols in columns(kind)
    ),
    *(case("relayout", f"{kind} as {to}", planes, kind, 37, 96, to) for kind, to in WIDER.items()),
    case("relayout", "every scale of MXFP4", every_scale),
    *(
        case(
            "blake3", f"{length} bytes of the test vectors", hashed, official_input(length), CHUNKS
        )
        for length in OFFICIAL
    ),
    *(
        case("blake3_tree", f"{length} random bytes", hashed, length, CHUNKS)
        for length in (*RANDOM, (1 << 20) - 1)
    ),
    *(
        case("blake3_tree", f"blocks of {block} chunks", hashed, 5120 * block + 700, block)
        for block in (1, 3, 16)
    ),
)
