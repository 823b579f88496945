"""The page's profile -> a line for each kind of dispatch, with its rates."""

from __future__ import annotations

from typing import Any


def lines(timings: list[dict[str, Any]], ceiling: float) -> list[dict[str, Any]]:
    """The longest first; `ceiling`: GB/s that the GPU reads; `share` is of all the time."""
    whole = sum(timing["us"] for timing in timings) or 1.0
    return sorted((_line(timing, whole, ceiling) for timing in timings), key=lambda t: -t["us"])


def _line(timing: dict[str, Any], whole: float, ceiling: float) -> dict[str, Any]:
    seconds = max(timing["us"], 1e-3) / 1e6  # a clock may be too coarse for short dispatches
    gb_s = timing["bytes"] / seconds / 1e9
    return {
        **timing,
        "share": round(timing["us"] / whole, 4),
        "gb_s": round(gb_s, 2),
        "tflop_s": round(timing["flops"] / seconds / 1e12, 4),
        "bandwidth_share": round(gb_s / ceiling, 4),
    }
