"""BLAKE3 in NumPy: the twin of blake3.wgsl and blake3_tree.wgsl, after the BLAKE3 paper (2020)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
CHUNK = 1024  # bytes
BLOCK = 64
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
IV = np.array(
    [
        *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
        *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
    ],
    np.uint32,
)
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def chains(data: bytes, block: int) -> Words:
    """The chaining value [chunks, 8] of each chunk, hashed in blocks of `block` chunks."""
    count = max(-(-len(data) // CHUNK), 1)
    words = np.frombuffer(data.ljust(count * CHUNK, b"\0"), "<u4").reshape(count, 16, 16)
    numbers = np.arange(count)
    counters = numbers % block
    alone = np.minimum(block, count - (numbers - counters)) == 1
    sizes = np.clip(len(data) - CHUNK * numbers, 0, CHUNK)
    last = (np.maximum(sizes, 1) - 1) // BLOCK
    out = np.tile(IV, (count, 1))
    for i in range(CHUNK // BLOCK):
        flags = CHUNK_START * (i == 0) + CHUNK_END * (last == i) + ROOT * ((last == i) & alone)
        lengths = np.clip(sizes - BLOCK * i, 0, BLOCK)
        out = np.where(
            (i <= last)[:, None], compress(out, words[:, i], counters, lengths, flags), out
        )
    return out


def digests(chains: Words, block: int) -> Words:
    """The digest [blocks, 8] of each block, from its chunks' chaining values."""
    return np.array([_root(chains[at : at + block]) for at in range(0, len(chains), block)])


def _root(nodes: Words) -> Words:
    """Level by level, neighbours become one node; an odd last one goes up as it is."""
    while len(nodes) > 1:
        pairs = len(nodes) // 2
        flags = np.full(pairs, PARENT + ROOT * (len(nodes) == 2))
        zeros, lengths = np.zeros(pairs, np.int64), np.full(pairs, BLOCK)
        messages = nodes[: 2 * pairs].reshape(pairs, 16)
        joined = compress(np.tile(IV, (pairs, 1)), messages, zeros, lengths, flags)
        nodes = np.concatenate([joined, nodes[2 * pairs :]])
    root: Words = nodes[0]
    return root


def compress(
    chain: Words,
    message: Words,
    counter: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    flags: npt.NDArray[np.int64],
) -> Words:
    """The compression function of n blocks: chain [n, 8], message [n, 16] -> [n, 8]."""
    n = len(chain)
    low = np.stack([counter, np.zeros(n, np.int64), length, flags], axis=1).astype(np.uint32)
    state = np.concatenate([chain, np.tile(IV[:4], (n, 1)), low], axis=1).T.copy()
    words = message.T
    for _ in range(7):
        for places, pairs in ((COLUMNS, words[:8]), (DIAGONALS, words[8:])):
            for place, x, y in zip(places, pairs[::2], pairs[1::2], strict=True):
                _mix(state, place, x, y)
        words = words[PERMUTATION]
    out: Words = (state[:8] ^ state[8:]).T
    return out


def _mix(state: Words, place: tuple[int, int, int, int], x: Words, y: Words) -> None:
    a, b, c, d = place
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        state[a] += state[b] + word
        state[d] = _rotated(state[d] ^ state[a], first)
        state[c] += state[d]
        state[b] = _rotated(state[b] ^ state[c], second)


def _rotated(words: Words, by: int) -> Words:
    return words >> np.uint32(by) | words << np.uint32(32 - by)
