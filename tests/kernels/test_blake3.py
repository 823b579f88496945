"""BLAKE3 on the GPU: the official test vectors, random lengths and blocks, against the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from gpu_page import Case, GpuPage

# Lengths of the official test_vectors.json, whose input counts 0, 1, … 250, 0, 1, … .
OFFICIAL = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049),
    *(3072, 3073, 4096, 4097, 5120, 5121, 6144, 6145, 7168, 7169, 8192, 8193, 16384, 31744, 102400),
)
# Of that file, the first 32 bytes of the digests of some of them: the package is not all we trust.
KNOWN = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
}
CHUNK = 1024
Words = npt.NDArray[np.uint32]


def official_input(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


def words(data: bytes) -> Words:
    """The data in whole vec4s, with bytes after its end that must not count."""
    return np.frombuffer(data + b"\xa5" * (16 - len(data) % 16), np.uint32)


def digests_on_gpu(page: GpuPage, inputs: Sequence[bytes], block: int) -> list[list[str]]:
    """Per input, the digest of each of its blocks of `block` chunks."""
    chunks = [max(-(-len(data) // CHUNK), 1) for data in inputs]
    params = [{"length": len(data), "block": block} for data in inputs]
    leaves = page.run(
        [
            Case(
                "blake3",
                {},
                {"data": words(data), "chains": np.zeros(8 * count, np.uint32)},
                given,
                ["chains"],
            )
            for data, count, given in zip(inputs, chunks, params, strict=True)
        ]
    )
    roots = page.run(
        [
            Case(
                "blake3_tree",
                {},
                {
                    "chains": leaf["chains"],
                    "digests": np.zeros((-(-count // block), 8), np.uint32),
                },
                given,
                ["digests"],
            )
            for leaf, count, given in zip(leaves, chunks, params, strict=True)
        ]
    )
    return [[row.tobytes().hex() for row in root["digests"]] for root in roots]


def test_official_vectors(gpu_page: GpuPage) -> None:
    found = digests_on_gpu(gpu_page, [official_input(length) for length in OFFICIAL], 1024)
    for length, (digest,) in zip(OFFICIAL, found, strict=True):
        assert digest == blake3(official_input(length)).hexdigest(), length
        assert digest == KNOWN.get(length, digest)


def test_random_lengths(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(3)
    lengths = [*rng.integers(1, 1 << 20, 8), 1 << 20, (1 << 20) - 1]
    inputs = [rng.bytes(int(length)) for length in lengths]
    for data, (digest,) in zip(inputs, digests_on_gpu(gpu_page, inputs, 1024), strict=True):
        assert digest == blake3(data).hexdigest(), len(data)


def test_blocks_are_hashed_each_by_itself(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(4)
    for block in (1, 3, 16):
        data = rng.bytes(5 * block * CHUNK + 700)
        (found,) = digests_on_gpu(gpu_page, [data], block)
        size = block * CHUNK
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert found == [blake3(part).hexdigest() for part in parts]


def test_a_flipped_bit_is_another_digest(gpu_page: GpuPage) -> None:
    data = bytearray(np.random.default_rng(5).bytes(300_000))
    data[123_456] ^= 16
    (found,) = digests_on_gpu(gpu_page, [bytes(data)], 1024)
    data[123_456] ^= 16
    assert found != [blake3(data).hexdigest()]
