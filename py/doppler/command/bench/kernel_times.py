"""The page's profile, dispatch by dispatch -> a line for each kind of dispatch."""

from __future__ import annotations

import re
from typing import Any


def grouped(timings: list[dict[str, Any]], ceiling: float) -> list[dict[str, Any]]:
    """Timings summed over the layers, the longest first; `ceiling`: GB/s that the GPU reads.

    `us`, `bytes` and `flops` are sums of `count` dispatches; `share` is of all the time.
    """
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for timing in timings:
        label = re.sub(r"^blk\.\d+\.", "", timing["label"])
        kinds.setdefault((label, timing["kernel"]), []).append(timing)
    whole = sum(timing["us"] for timing in timings) or 1.0
    lines = [_line(*kind, members, whole, ceiling) for kind, members in kinds.items()]
    return sorted(lines, key=lambda line: -line["us"])


def _line(
    label: str, kernel: str, members: list[dict[str, Any]], whole: float, ceiling: float
) -> dict[str, Any]:
    us, size, flops = (sum(m[name] for m in members) for name in ("us", "bytes", "flops"))
    seconds = max(us, 1e-3) / 1e6  # a clock may be too coarse for short dispatches
    gb_s = size / seconds / 1e9
    return {
        "label": label,
        "kernel": kernel,
        "count": len(members),
        "us": round(us, 2),
        "share": round(us / whole, 4),
        "bytes": size,
        "flops": flops,
        "gb_s": round(gb_s, 2),
        "tflop_s": round(flops / seconds / 1e12, 4),
        "bandwidth_share": round(gb_s / ceiling, 4),
    }
