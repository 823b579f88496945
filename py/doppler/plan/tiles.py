"""How attention_flash.wgsl cuts its work: tiles that fit an adapter's workgroup memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MOST_THREADS = 256


@dataclass(frozen=True)
class Tile:
    """The constants of attention_flash.wgsl, by its own names in small letters."""

    head_dim: int
    rows: int
    keys: int
    chunk: int
    values: int
    keep_q: int

    @property
    def threads(self) -> int:
        """Of a workgroup."""
        return max(self.rows // 4 * (self.keys // 4), self.rows // 8 * -(-self.head_dim // 8))

    @property
    def bytes(self) -> int:
        """Of workgroup memory."""
        row_fours, key_fours = self.rows // 4, self.keys // 4
        queries = (self.head_dim if self.keep_q else self.chunk) * (row_fours + 1)
        staged = max(self.chunk * (key_fours + 1), self.values * self.head_dim // 4)
        shares = self.keys * row_fours + key_fours * row_fours
        return 16 * (queries + staged + shares + 2 * row_fours)

    def constants(self) -> dict[str, int]:
        """The kernel's overrides."""
        return {name.upper(): value for name, value in asdict(self).items()}


# The quickest on an H100 at 512 to 8,192 tokens of context (docs/experiments.md).
MEASURED = (Tile(256, 32, 64, 64, 16, 0), Tile(128, 64, 32, 64, 32, 0))


def tile_of(head_dim: int, workgroup_bytes: int) -> Tile:
    """The tile for an adapter: a measured one, or as many rows and then keys as fit.

    16 KiB, which every adapter has, are enough for 32 rows.
    """
    measured = [tile for tile in MEASURED if tile.head_dim == head_dim]
    fits = [tile for tile in measured if tile.bytes <= workgroup_bytes] + [
        tile
        for rows in (64, 32, 16)
        for keys in (32, 16)
        for chunk in divisors(head_dim)
        for keep_q in (1, 0)
        for tile in [Tile(head_dim, rows, keys, chunk, _values(head_dim, keys, chunk), keep_q)]
        if tile.threads <= MOST_THREADS and tile.bytes <= workgroup_bytes
    ]
    return fits[0]


def _values(head_dim: int, keys: int, chunk: int) -> int:
    """Values staged at once: as many as fit where a chunk of the keys lay, or a few more."""
    room = chunk * (keys // 4 + 1) // (head_dim // 4)
    least = 8 if head_dim <= 256 else 4
    return max(n for n in (4, 8, 16, 32) if n <= min(keys, max(room, least)))


def divisors(head_dim: int) -> list[int]:
    """Numbers of dimensions that can be staged at once, the largest first: multiples of four."""
    return [n for n in range(head_dim, 0, -4) if head_dim % n == 0 and n % 4 == 0]
