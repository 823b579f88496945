"""Figures as one SVG of bars, for a page about them: those of a bench, and of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 780, 190, 170  # of the picture, of labels, of figures
ROW, BAR, TITLE, MARGIN = 22, 14, 40, 16
MOST_KERNELS = 14
STYLE = "font-family: system-ui, sans-serif; font-size: 12px"
COLOURS = ("#2a6fdb", "#1b9e77", "#d95f02", "#7570b3", "#66a61e", "#a6761d")


@dataclass(frozen=True)
class Bar:
    """From `start` to `end` in the panel's unit, with a label before it and a figure after it."""

    label: str
    start: float
    end: float
    figure: str


@dataclass(frozen=True)
class Panel:
    """Bars below one title, to one scale."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        """Pixels, with the title and the space below."""
        return TITLE + ROW * len(self.bars) + MARGIN


def svg(result: dict[str, Any]) -> str:
    """A picture of what `doppler bench --json` prints."""
    where = " · ".join(filter(None, (result["card"], result["browser"])))
    return picture(result["model"]["title"], where, _panels(result))


def picture(title: str, below: str, panels: Sequence[Panel]) -> str:
    """Panels one below another, under a title and a line about it; empty ones are left out."""
    panels = [panel for panel in panels if panel.bars]
    height = MARGIN + TITLE + sum(panel.height for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" style="{STYLE}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        _text(MARGIN, MARGIN + 8, title, "font-weight: bold; font-size: 15px"),
        _text(MARGIN, MARGIN + 28, below, "fill: #555"),
    ]
    top = MARGIN + TITLE
    for index, panel in enumerate(panels):
        parts += _drawn(panel, top, COLOURS[index % len(COLOURS)])
        top += panel.height
    return "\n".join([*parts, "</svg>", ""])


def _panels(result: dict[str, Any]) -> list[Panel]:
    decode = [
        Bar(f"after {d['context']:,}", 0, d["tok_s"], f"{d['tok_s']:,.1f} ({d['share']:.0%})")
        for d in result["decode"]
    ]
    prefill = [
        Bar(f"{p['tokens']:,} tokens", 0, p["tok_s"], f"{p['tok_s']:,.0f}, {p['ttft_ms']:,.1f} ms")
        for p in result["prefill"]
    ]
    stages = [
        Bar(s["stage"], s["start"], s["end"], f"{s['end'] - s['start']:,} ms")
        for s in result["start"]["timeline"]
    ]
    memory = [
        Bar(kind, 0, result["memory"][kind], f"{result['memory'][kind] / 1e6:,.1f} MB")
        for kind in ("weights", "kv", "activations", "staging")
    ]
    profiles = [
        Panel(f"Kernels of {name}, GPU time", _kernels(profile))
        for name, profile in result.get("profile", {}).items()
    ]
    return [
        Panel("Decode, tokens a second by context (share of the shortest)", decode),
        Panel("Prefill, tokens a second, and time to first token", prefill),
        Panel("Start, from an opened page to the first token", stages),
        Panel(f"GPU memory at a context of {result['memory']['context']:,}", memory),
        *profiles,
    ]


def _kernels(profile: dict[str, Any]) -> list[Bar]:
    def figure(kernel: dict[str, Any]) -> str:
        if profile["batch"] > 1:  # bound by arithmetic, not by what is read
            return f"{kernel['us']:,.0f} µs, {kernel['tflop_s']:,.2f} TFLOP/s"
        return f"{kernel['us']:,.0f} µs, {kernel['bandwidth_share']:.0%} of reads"

    return [Bar(k["label"], 0, k["us"], figure(k)) for k in profile["kernels"][:MOST_KERNELS]]


def _drawn(panel: Panel, top: int, colour: str) -> list[str]:
    scale = (WIDTH - LEFT - RIGHT) / max(*(bar.end for bar in panel.bars), 1e-9)
    parts = [_text(MARGIN, top + TITLE - 16, panel.title, "font-weight: bold")]
    for index, bar in enumerate(panel.bars):
        y = top + TITLE + ROW * index
        x, width = LEFT + scale * bar.start, max(scale * (bar.end - bar.start), 1)
        parts.append(_text(LEFT - 8, y + BAR - 3, bar.label, "text-anchor: end"))
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
        )
        parts.append(_text(x + width + 6, y + BAR - 3, bar.figure, "fill: #333"))
    return parts


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" style="{style}">{escape(text)}</text>'
