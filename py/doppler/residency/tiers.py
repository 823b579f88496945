"""Where weights lie that are not on the GPU."""

from __future__ import annotations

from typing import Literal, TypeAlias

# The host's memory, the browser's storage (OPFS), and an address or peers.
Tier: TypeAlias = Literal["host", "storage", "remote"]
TIERS: tuple[Tier, ...] = ("host", "storage", "remote")  # nearest first
