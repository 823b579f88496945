"""The figures of a bench as tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 110
KINDS = ("weights", "kv", "activations", "staging", "total")


def tables(result: dict[str, Any]) -> str:
    """Everything, in the order in which it was measured."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    model, adapter = result["model"], " ".join(filter(None, result["adapter"].values()))
    console.print(f"{model['title']} ({model['quantization']})", markup=False)
    where = [result["card"], adapter, result["browser"]]
    console.print(" · ".join(filter(None, where)), markup=False)
    bandwidth, per_token = result["bandwidth"], result.get("per_token")
    console.print(f"reads {bandwidth['gb_s']:,.1f} GB/s of memory (by {bandwidth['by']})")
    console.print(
        f"loads {result['load']['gb_s']:,.2f} GB/s, {result['load']['storage_share']:.0%} of the "
        f"{result['storage']['gb_s']:,.2f} at which storage alone is read"
    )
    if per_token:
        console.print(_told(per_token))
    profiles = result.get("profile", {}).items()
    for table in (
        *(_start(result), _memory(result), _prefill(result), _decode(result)),
        *(_kernels(name, profile) for name, profile in profiles),
    ):
        console.print(f"\n{table.title}", markup=False)
        table.title = None  # rich would break it to the table's width
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def _told(per_token: dict[str, Any]) -> str:
    return (
        f"a token after {per_token['context']}: {per_token['dispatches']:g} dispatches, "
        f"{per_token['submits']:g} submits, {per_token['weight_bytes'] / 1e6:,.1f} MB of weights, "
        f"{per_token['kv_bytes'] / 1e6:,.2f} MB of keys and values"
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _start(result: dict[str, Any]) -> Table:
    stages = result["start"]["timeline"]
    rows = [[s["stage"], f"{s['start']:,}", f"{s['end']:,}"] for s in stages]
    title = f"From an opened page to the first token: {_range(result['start'], 'total_ms', 0)} ms"
    return _table(title, ["stage", "from, ms", "to, ms"], rows)


def _memory(result: dict[str, Any]) -> Table:
    memory = result["memory"]
    rows = [[kind, f"{memory[kind] / 1e6:,.1f}"] for kind in KINDS]
    rows.append(["of weights + kv", f"{memory['ratio']:.1%}"])
    return _table(f"GPU memory at a context of {memory['context']}", ["kind", "MB"], rows)


def _prefill(result: dict[str, Any]) -> Table:
    rows = [
        [f"{p['tokens']:,}", _range(p, "tok_s", 0), _range(p, "ttft_ms", 1), _clock(p)]
        for p in result["prefill"]
    ]
    columns = ["prompt", "tok/s", "first token, ms", "clock, MHz"]
    return _table("Prefill, median (least – most)", columns, rows)


def _decode(result: dict[str, Any]) -> Table:
    rows = [
        [
            f"{d['context']:,}",
            _range(d, "tok_s", 1),
            f"{d['share']:.1%}",
            f"{(d['weight_bytes'] + d['kv_bytes']) / 1e6:,.1f}",
            f"{d['gb_s']:,.1f}",
            f"{d['bandwidth_share']:.1%}",
            _clock(d),
        ]
        for d in result["decode"]
    ]
    columns = ["context", "tok/s", "kept", "MB a token", "GB/s", "of reads", "clock, MHz"]
    return _table("Decode, median (least – most)", columns, rows)


def _kernels(name: str, profile: dict[str, Any]) -> Table:
    rows = [
        [
            f"{k['label']}: {k['kernel']}",
            str(k["count"]),
            f"{k['us']:,.1f}",
            f"{k['share']:.1%}",
            f"{k['bytes'] / 1e6:,.2f}",
            f"{k['flops'] / 1e9:,.3f}",
            f"{k['gb_s']:,.1f}",
            f"{k['tflop_s']:,.3f}",
            f"{k['bandwidth_share']:.1%}",
        ]
        for k in profile["kernels"]
    ]
    whole = sum(k["us"] for k in profile["kernels"])
    title = f"Kernels of {name} ({profile['batch']} after {profile['tokens']}): {whole:,.0f} µs"
    columns = ["", "n", "µs", "share", "MB", "GFLOP", "GB/s", "TFLOP/s", "of reads"]
    return _table(title, columns, rows)


def _range(entry: dict[str, Any], name: str, digits: int) -> str:
    middle, least, most = (f"{entry[name + end]:,.{digits}f}" for end in ("", "_min", "_max"))
    return middle if least == most else f"{middle} ({least} – {most})"


def _clock(entry: dict[str, Any]) -> str:
    return "" if entry["sm_clock_mhz"] is None else f"{entry['sm_clock_mhz']:,}"
