"""BLAKE3 in NumPy, for a manifest's identity: the same code on CPython and in the page.

Weights are hashed by native or wasm code (`Buffers.blake3`); a description of some 100 KB takes
some 25 ms here, since all chunks (and all pairs of a tree level) are compressed side by side.
Source: the BLAKE3 paper, sections 2.1 to 2.5 (unkeyed hash, 32 bytes of output).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint32]

_CHUNK = 1024
_START, _END, _PARENT, _ROOT = 1, 2, 4, 8  # flags
_IV = np.array(
    [
        0x6A09E667,
        0xBB67AE85,
        0x3C6EF372,
        0xA54FF53A,
        0x510E527F,
        0x9B05688C,
        0x1F83D9AB,
        0x5BE0CD19,
    ],
    np.uint32,
)
_PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]


def blake3_hex(data: bytes) -> str:
    """The 64 hexadecimal digits of BLAKE3."""
    values = _chunks(data)
    while values.shape[1] > 1:
        values = _parents(values)
    return values[:, 0].astype("<u4").tobytes().hex()


def _chunks(data: bytes) -> Words:
    """Chaining values [8, chunks]; of an only chunk, the root's."""
    count = max(1, -(-len(data) // _CHUNK))
    padded = np.zeros(count * _CHUNK, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    words = padded.view("<u4").astype(np.uint32).reshape(count, 16, 16)  # chunk, block, word
    lengths = np.full(count, _CHUNK)
    lengths[-1] = len(data) - (count - 1) * _CHUNK
    last = np.maximum(lengths - 1, 0) // 64  # each chunk's last block
    values = np.repeat(_IV[:, None], count, axis=1)
    for block in range(16):
        flags = (_START if block == 0 else 0) | np.where(last == block, _END, 0)
        if count == 1:
            flags |= np.where(last == block, _ROOT, 0)
        length = np.clip(lengths - 64 * block, 0, 64)
        mixed = _compress(values, words[:, block].T, np.arange(count), length, flags)
        values = np.where(block <= last, mixed, values)
    return values


def _parents(values: Words) -> Words:
    """One level of the tree: neighbours are joined, an odd last one goes up as it is."""
    count = values.shape[1]
    pairs = count // 2
    left, right = values[:, 0 : 2 * pairs : 2], values[:, 1 : 2 * pairs : 2]
    flags = np.full(pairs, _PARENT | (_ROOT if count == 2 else 0))
    key = np.repeat(_IV[:, None], pairs, axis=1)
    zeros = np.zeros(pairs, np.int64)
    joined = _compress(key, np.concatenate([left, right]), zeros, np.full(pairs, 64), flags)
    return np.concatenate([joined, values[:, 2 * pairs :]], axis=1)


def _compress(
    values: Words,
    message: Words,
    counter: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    flags: npt.NDArray[np.int64],
) -> Words:
    """The compression function on columns: values [8, n], message [16, n] -> values [8, n]."""
    state = [row.copy() for row in values]
    state += [np.full_like(values[0], word) for word in _IV[:4]]
    high = (counter >> 32).astype(np.uint32)
    state += [counter.astype(np.uint32), high, length.astype(np.uint32), flags.astype(np.uint32)]
    order = list(range(16))
    for _ in range(7):
        m = [message[i] for i in order]
        for i in range(4):  # columns, then diagonals
            _mix(state, i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1])
        for i in range(4):
            b, c, d = 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4
            _mix(state, i, b, c, d, m[8 + 2 * i], m[9 + 2 * i])
        order = [order[i] for i in _PERMUTATION]
    return np.stack([state[i] ^ state[i + 8] for i in range(8)])


def _mix(s: list[Words], a: int, b: int, c: int, d: int, x: Words, y: Words) -> None:
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        s[a] = s[a] + s[b] + word
        s[d] = _rotate(s[d] ^ s[a], first)
        s[c] = s[c] + s[d]
        s[b] = _rotate(s[b] ^ s[c], second)


def _rotate(words: Words, bits: int) -> Words:
    return words >> np.uint32(bits) | words << np.uint32(32 - bits)
