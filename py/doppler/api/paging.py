"""What paging has cost, and where experts are, as the page is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from doppler.api.messages import Answered, LayerExperts, Paging, Tiers
from doppler.engine.paged_runner import ExpertUse
from doppler.engine.paged_runner import Paging as Counts
from doppler.residency.tiers import TIERS, Tier


class Budgets(NamedTuple):
    """Bytes; of the GPU None: what it has."""

    gpu: int | None
    host: int


def paging_of(before: Counts | None, after: Counts | None, budgets: Budgets) -> Paging | None:
    """What came between two counts of one model; None where all of it is on the GPU.

    budgets: as they were set.
    """
    if before is None or after is None:
        return None
    return _between(before, after, budgets)


def paging_since_load(counts: Counts | None, budgets: Budgets) -> Paging | None:
    """What came since a model was loaded."""
    if counts is None:
        return None
    none = dict.fromkeys(TIERS, 0)
    start = replace(
        counts,
        pairs=0,
        misses=0,
        ahead=0,
        replays=0,
        halted_ms=0.0,
        bytes=none,
        waited_ms=none,
        kv_brought=0,
        kv_read=0,
    )
    return _between(start, counts, budgets)


def answered(
    tokens: tuple[int, int], counts: Sequence[Counts | None], budgets: Budgets
) -> Answered | None:
    """What reading and writing so many tokens took, by the counts before, between and after."""
    before, between, after = counts
    reading, writing = paging_of(before, between, budgets), paging_of(between, after, budgets)
    if reading is None or writing is None:
        return None
    read, written = tokens
    return {"read": read, "written": written, "reading": reading, "writing": writing}


def layers_of(experts: Mapping[int, ExpertUse]) -> list[LayerExperts]:
    """By layer, in order."""
    return [
        {"layer": layer, "uses": list(it.uses), "resident": list(it.resident)}
        for layer, it in sorted(experts.items())
    ]


def _between(before: Counts, after: Counts, budgets: Budgets) -> Paging:
    misses = after.misses - before.misses
    return {
        "gpu_budget": budgets.gpu,
        "host_budget": budgets.host,
        "slots": after.slots,
        "experts": after.experts,
        "hits": after.pairs - before.pairs - misses,
        "misses": misses,
        "ahead": after.ahead - before.ahead,
        "replays": after.replays - before.replays,
        "halted_ms": after.halted_ms - before.halted_ms,
        "layers": after.layers,
        "kv_layers": after.kv_layers,
        "kv_brought": after.kv_brought - before.kv_brought,
        "kv_read": after.kv_read - before.kv_read,
        "bytes": _tiers(before.bytes, after.bytes),
        "waited_ms": _tiers(before.waited_ms, after.waited_ms),
        "host_bytes": after.host_bytes,
    }


def _tiers(before: Mapping[Tier, float], after: Mapping[Tier, float]) -> Tiers:
    return {
        "host": after["host"] - before["host"],
        "storage": after["storage"] - before["storage"],
        "remote": after["remote"] - before["remote"],
    }
