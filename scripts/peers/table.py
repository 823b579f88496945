"""What was measured of each engine, whether it counts, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Metric -> what the table calls it.
METRICS: Mapping[str, str] = {
    "prefill_tok_s": "prefill, tok/s",
    "ttft_ms": "TTFT, ms",
    "decode_tok_s": "decode, tok/s",
    "gpu_mib": "GPU MiB",
    "load_ms": "load, ms",
}


@dataclass(frozen=True)
class Use:
    """What an engine and its workers asked of WebGPU.

    held: bytes of buffers after the runs; submits: those of the timed runs; adapter: the device's.
    """

    held: int
    submits: int
    adapter: str | None


@dataclass(frozen=True)
class Row:
    """One engine.

    problem: why its figures, if there are any, are not those of the GPU. unmeasured: why one of
    METRICS is not among them, though the others count.
    """

    engine: str
    figures: Mapping[str, float]
    use: Use | None
    problem: str | None
    unmeasured: str | None = None


def fallback(use: Use, weights: int, tokens: int, f16: bool) -> str | None:
    """Why the engine did not run on the GPU, or None where it did.

    An engine that computes on the GPU holds its weights there (`weights`: bytes of its file; half
    of them is enough, as a table of embeddings may stay behind) and submits work for what it
    writes, at least once for 32 tokens. f16: whether the adapter has shader-f16.
    """
    hint = "" if f16 else "; the adapter lacks shader-f16"
    if use.adapter is None:
        return f"ran on the CPU: it made no GPU buffer{hint}"
    if use.held < weights / 2:
        held, whole = round(use.held / 2**20), round(weights / 2**20)
        return f"ran on the CPU in part: {held} MiB of GPU buffers for {whole} MiB of weights{hint}"
    if use.submits * 32 < tokens:
        return f"ran on the CPU: {use.submits} GPU submits for {tokens} tokens{hint}"
    return None


def ratios(ours: Row, peer: Row) -> dict[str, float] | None:
    """Doppler's figure / the peer's for each metric of both; None where one did not count."""
    if ours.problem or peer.problem:
        return None
    both = [name for name in METRICS if name in ours.figures and name in peer.figures]
    return {name: round(ours.figures[name] / peer.figures[name], 3) for name in both}


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures and use by engine, and the ratios; the first row is Doppler's."""
    engines = {
        row.engine: {
            "figures": row.figures,
            "on_gpu": row.problem is None,
            "problem": row.problem,
            "unmeasured": row.unmeasured,
            "gpu": row.use and vars(row.use),
        }
        for row in rows
    }
    return {"engines": engines, "ratios": {row.engine: ratios(rows[0], row) for row in rows[1:]}}


def as_table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each engine, one for each ratio, and what went wrong below."""
    lines = [["engine", *METRICS.values()], ["---"] * (1 + len(METRICS))]
    for row in rows:
        mark = f"{row.engine} (not on the GPU)" if row.problem and row.figures else row.engine
        lines.append([mark, *(told(row.figures.get(name)) for name in METRICS)])
    for row in rows[1:]:
        found = ratios(rows[0], row) or {}
        lines.append([f"Doppler ÷ {row.engine}", *(told(found.get(name), "×") for name in METRICS)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told_of = [(row.engine, it) for row in rows for it in (row.problem, row.unmeasured) if it]
    problems = [f"{engine}: {it}" for engine, it in told_of]
    return "\n".join([table, *([""] if problems else []), *problems])


def told(value: float | None, unit: str = "") -> str:
    """Three digits that count; – where there is nothing."""
    if value is None:
        return "–"
    return (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + unit
