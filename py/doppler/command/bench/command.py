"""The command itself: arguments in, tables or JSON and a plot out."""

from __future__ import annotations

import argparse
from pathlib import Path

from doppler.command.bench.measure import Bench, bench
from doppler.command.bench.plot import svg
from doppler.command.bench.report import tables
from doppler.command.browser import find_browser
from doppler.command.models import find_model, is_model, places
from doppler.command.shapes import SHAPES
from doppler.command.synth import write
from doppler.command.terminal import Terminal
from doppler.command.wheel import ROOT
from doppler.errors import RequestError
from doppler.store.manifest import MANIFEST_FILE

SYNTHETIC = ROOT / ".cache" / "synth"


def run(args: argparse.Namespace, terminal: Terminal) -> None:
    """Measures what `doppler bench` was asked for, and shows it."""
    plot: Path | None = args.plot
    if plot and not plot.absolute().parent.is_dir():
        raise RequestError(f"{plot} cannot be written: there is no {plot.parent}")
    job = Bench(
        model=_folder(args.model, terminal),
        prompts=tuple(args.prompt),
        tokens=args.tokens,
        contexts=tuple(args.contexts),
        context=args.context,
        runs=args.runs,
        kv=args.kv,
        precision=args.precision,
        ple=args.ple,
        gpu_budget=args.gpu_budget,
        host_budget=args.host_budget,
        storage_budget=args.storage_budget,
        profile=args.profile,
    )
    result = bench(job, find_browser(args.browser, args.adapter), terminal)
    if plot:
        plot.write_text(svg(result), encoding="utf-8")
    terminal.result(result, tables(result))


def _folder(model: str, terminal: Terminal) -> Path:
    """The folder of that name, or a synthetic model's, which is made where it is not there yet."""
    if model not in SHAPES or any(map(is_model, places(model))):
        return find_model(model)
    folder = SYNTHETIC / model
    if not (folder / MANIFEST_FILE).exists():
        write(model, folder, terminal)
    return folder
