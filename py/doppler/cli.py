"""The command line: serve, pull, convert, verify and generate.

Results go to standard output, progress and logs to standard error; with --json a command prints one
object. Exit codes: 0 done, 1 damaged or failed, 2 asked wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from doppler import __version__
from doppler.command.arguments import add_page_options, byte_count, count, port_number, token_ids
from doppler.command.terminal import Terminal
from doppler.command.wheel import ROOT
from doppler.errors import DopplerError, RequestError

MODELS = ROOT / "models"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    terminal = Terminal(args.json)
    try:
        args.run(args, terminal)
    except DopplerError as error:
        print(f"doppler: {error}", file=sys.stderr)
        if args.json:
            terminal.result({"error": {"kind": type(error).__name__, "message": str(error)}}, "")
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="doppler", description="Language models in a browser page.")
    top.add_argument("--version", action="version", version=f"doppler {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_pull(commands)
    _add_convert(commands)
    _add_verify(commands)
    _add_generate(commands)
    _add_bench(commands)
    _add_synth(commands)
    return top


def _command(commands: Any, name: str, run: Any, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=run)
    return command


def _add_serve(commands: Any) -> None:
    from doppler.command.server import PORT

    command = _command(commands, "serve", serve, "Serve the page and the models of a folder.")
    command.add_argument("--port", type=port_number, default=PORT, help=f"0: any free one ({PORT})")
    command.add_argument("--models", type=Path, default=MODELS, metavar="DIR")
    command.add_argument("--open", action="store_true", help="open the page in the browser")


def _add_pull(commands: Any) -> None:
    command = _command(commands, "pull", pull, "Fetch a model of the catalogue and convert it.")
    command.add_argument("name", metavar="NAME", nargs="+")
    command.add_argument("--models", type=Path, default=MODELS, metavar="DIR")


def _add_convert(commands: Any) -> None:
    from doppler.formats.blocks import QUANTS

    command = _command(
        commands,
        "convert",
        convert,
        "Convert a .gguf, whole or any of its parts, or a folder with a model.",
    )
    command.add_argument("source", type=Path, metavar="FILE_OR_DIR")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--quant", choices=QUANTS, default="none", help="of a safetensors folder's matrices (none)"
    )
    command.add_argument("--text", type=Path, metavar="FILE", help="to measure the quality on")
    command.add_argument(
        "--quality-tokens", type=count, default=256, metavar="N", help="0: do not measure (256)"
    )
    command.add_argument(
        "--shard-size", type=byte_count, metavar="N", help="bytes, or 4M: a multiple of 1M (16M)"
    )


def _add_verify(commands: Any) -> None:
    command = _command(commands, "verify", verify, "Check every byte of a converted model.")
    command.add_argument("model", type=Path, metavar="DIR")


def _add_generate(commands: Any) -> None:
    from doppler.speculate import MODES

    command = _command(
        commands, "generate", generate, "Generate text with the real page in a headless browser."
    )
    command.add_argument("model", type=Path, metavar="DIR")
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--prompt-ids", type=token_ids, metavar="2,818,…")
    command.add_argument("--max-tokens", type=int, default=128, metavar="N", help="128")
    command.add_argument("--chat", action="store_true", help="the prompt is a user's message")
    command.add_argument("--logits", type=Path, metavar="OUT.npy", help="of the prompt's tokens")
    command.add_argument("--batch", type=int, metavar="N", help="tokens prefilled at once, at most")
    command.add_argument("--greedy", action="store_true", help="always the likeliest token")
    command.add_argument("--ignore-eos", action="store_true", help="go on after end tokens")
    command.add_argument(
        "--speculate", choices=MODES, default="auto", help="drafts from what was said (auto)"
    )
    for name in ("temperature", "top-p", "min-p", "repetition-penalty"):
        command.add_argument(f"--{name}", type=float, metavar="X")
    for name in ("top-k", "seed"):
        command.add_argument(f"--{name}", type=int, metavar="N")
    add_page_options(command)


def _add_bench(commands: Any) -> None:
    command = _command(commands, "bench", bench, "Measure a model in the page: speed and memory.")
    command.add_argument("model", metavar="DIR|SPEC", help="a model's folder, or a name for synth")
    lengths: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    command.add_argument("--prompt", default=[128, 512, 2048], help="128 512 2048", **lengths)
    command.add_argument("--contexts", default=[128, 2048, 8192], help="128 2048 8192", **lengths)
    command.add_argument("--tokens", type=int, default=200, metavar="N", help="to decode (200)")
    command.add_argument("--runs", type=int, default=5, metavar="N", help="of each figure (5)")
    command.add_argument("--profile", action="store_true", help="time every kernel, too")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the figures")
    add_page_options(command)


def _add_synth(commands: Any) -> None:
    command = _command(
        commands, "synth", synth, "Write a model of a true shape with random weights."
    )
    command.add_argument("shape", metavar="NAME", help="gemma-3-1b, gemma-3-4b, llama-3.2-1b, ...")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    command.add_argument("--layers", type=int, metavar="N", help="the first N (all)")


def serve(args: argparse.Namespace, terminal: Terminal) -> None:
    """Serve until interrupted."""
    from doppler.command.browser import open_window
    from doppler.command.server import Server, models_in
    from doppler.command.wheel import build_wheel

    if build_wheel():
        terminal.log("built the page's wheel from py/")
    with Server(args.models, args.port) as server:
        found = models_in(args.models)
        names = ", ".join(model["name"] for model in found) or "no models yet: doppler pull NAME"
        terminal.result({"url": server.url, "models": found}, f"{server.url}  ({names})")
        if args.open:
            open_window(server.url)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
        Event().wait()


def pull(args: argparse.Namespace, terminal: Terminal) -> None:
    """Fetch and convert what is not there yet."""
    from doppler.command import catalogue
    from doppler.command.server import describe
    from doppler.convert import convert_path
    from doppler.manifest import MANIFEST_FILE

    wanted = [catalogue.find(name) for name in args.name]
    for entry in wanted:
        folder = args.models / entry.name
        if (folder / MANIFEST_FILE).exists():
            terminal.log(f"{entry.title} is in {folder}")
            continue
        with terminal.bar(f"{entry.title}: fetch") as report:
            source = catalogue.fetch(entry, report)
        with terminal.bar(f"{entry.title}: convert") as report:
            storage, buffers = _folder(folder)
            manifest = asyncio.run(
                convert_path(source, storage, buffers, name=entry.name, progress=report)
            )
        # Title and license lie beside the identity; GGUF files often have poor ones or none.
        manifest = replace(manifest, title=entry.title, license=entry.license)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        source.unlink()  # the shards hold every byte of it that counts
    result = [describe(args.models / entry.name) for entry in wanted]
    terminal.result({"models": result, "folder": str(args.models)}, "")


def convert(args: argparse.Namespace, terminal: Terminal) -> None:
    """Convert one model; tell what quantising it cost, where it was quantised."""
    from doppler.command.convert import run

    manifest, report = run(args, terminal)
    _summarise(manifest, args.output, terminal, report)


def synth(args: argparse.Namespace, terminal: Terminal) -> None:
    """Write one model; its name is that of the output folder."""
    from doppler.command.synth import write

    manifest = write(args.shape, args.output, terminal, layers=args.layers)
    _summarise(manifest, args.output, terminal)


def verify(args: argparse.Namespace, terminal: Terminal) -> None:
    """Raises CorruptError that names the damaged block."""
    from doppler.errors import SourceError
    from doppler.manifest import MANIFEST_FILE, Manifest
    from doppler.verify import verify as verify_model

    path = args.model / MANIFEST_FILE
    try:
        text = path.read_bytes().decode("utf-8", "replace")  # damage shows as no manifest
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; is it a model?") from error
    manifest = Manifest.from_json(text, str(path))
    storage, buffers = _folder(args.model)
    with terminal.bar(f"verify {manifest.title}") as report:
        asyncio.run(verify_model(storage, manifest, buffers, report))
    _summarise(manifest, args.model, terminal)


def generate(args: argparse.Namespace, terminal: Terminal) -> None:
    """Stream the answer, or print all about it as JSON."""
    from doppler.command.browser import find_browser
    from doppler.command.generate import Job
    from doppler.command.generate import generate as run
    from doppler.command.wheel import build_wheel

    if args.chat and args.prompt_ids is not None:
        raise RequestError("--chat takes --prompt: it puts a template around the text")
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    sampling = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    job = Job(
        model=args.model,
        prompt=args.prompt if args.prompt_ids is None else args.prompt_ids,
        chat=args.chat,
        max_tokens=args.max_tokens,
        sampling=sampling | ({"greedy": True} if args.greedy else {}),
        context=args.context,
        batch=args.batch,
        kv=args.kv,
        precision=args.precision,
        ignore_eos=args.ignore_eos,
        speculate=args.speculate,
        logits=args.logits,
    )
    build_wheel()
    result = run(job, find_browser(args.browser, args.adapter), terminal)
    terminal.write("\n")  # ends the line that was streamed
    terminal.result(result, "")


def bench(args: argparse.Namespace, terminal: Terminal) -> None:
    """Print the figures as tables, or as JSON; draw them where asked to."""
    from doppler.command.bench.command import run
    from doppler.command.wheel import build_wheel

    build_wheel()
    run(args, terminal)


def _folder(path: Path) -> tuple[Any, Any]:
    from doppler.buffers import MemoryBuffers
    from doppler.storage.folder import FolderStorage

    return FolderStorage(path), MemoryBuffers()


def _summarise(manifest: Any, folder: Path, terminal: Terminal, quality: Any = None) -> None:
    data = {
        "name": manifest.name,
        "id": manifest.identity,
        "folder": str(folder),
        "architecture": manifest.config.architecture,
        "quantization": manifest.quantization,
        "parameters": manifest.parameters,
        "bytes": manifest.bytes,
        "blocks": len(manifest.blocks),
        "shards": len(manifest.shards),
        "tokenizer": manifest.tokenizer is not None,
    }
    text = f"{folder}: {len(manifest.shards)} shards, {len(manifest.blocks)} blocks, all sound"
    if quality is not None:
        data["quality"] = quality.described()
        text = f"{text}\n{quality}".rstrip()
    terminal.result(data, text)


if __name__ == "__main__":
    sys.exit(main())
