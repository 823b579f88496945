"""`doppler adapter`: make one from what PEFT or llama.cpp wrote, make a key, verify, show."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doppler.adapters.make import read_adapter, write_adapter
from doppler.adapters.manifest import AdapterManifest, Terms, check_base
from doppler.adapters.matrix import Delta
from doppler.adapters.signing import check_author, write_new_key
from doppler.adapters.stored import manifest_of, norms_by_layer, verified_deltas
from doppler.command.models import find_model
from doppler.command.output import check_output
from doppler.command.served import manifest_in
from doppler.command.terminal import Terminal
from doppler.convert.convert import model_name
from doppler.errors import RequestError
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage


def make(args: argparse.Namespace, terminal: Terminal) -> None:
    """Writes an adapter's folder, signed where a key is given."""
    base = manifest_in(find_model(args.base))
    if os.path.realpath(args.output) == os.path.realpath(args.source):
        raise RequestError(f"{args.output} holds the adapter to read: give -o another folder")
    check_output(args.output)
    terms = Terms(
        name=args.name or model_name(Path(os.path.realpath(args.output)).name),
        version=args.version,
        note=args.note,
        license=args.license,
    )
    buffers, storage = MemoryBuffers(), FolderStorage(args.output)

    async def run() -> AdapterManifest:
        read = await read_adapter(args.source, base.config, buffers)
        for module in read.left_out:
            terminal.log(f"left out, as it is not of the text model: {module}")
        return await write_adapter(read, terms, base.identity, storage, buffers, args.key)

    manifest = asyncio.run(run())
    text = f"{args.output}: {_summary(manifest)}\n{_signer(manifest)}"
    terminal.result(_data(manifest, args.output), text)


def key(args: argparse.Namespace, terminal: Terminal) -> None:
    """Writes a new private key; tells its public half, by which others know the author."""
    author = write_new_key(args.output)
    text = f"{args.output}: keep it to yourself; others know you by {author}"
    terminal.result({"file": str(args.output), "author": author}, text)


def verify(args: argparse.Namespace, terminal: Terminal) -> None:
    """Hashes every byte, checks the signature, and that base and author are those asked for."""
    manifest, _ = _read(args.adapter)
    if args.key_hex is not None:
        check_author(manifest, args.key_hex, str(args.adapter))
    if args.base is not None:
        check_base(manifest, manifest_in(find_model(args.base)), str(args.adapter))
    text = f"{args.adapter}: {_summary(manifest)}, all sound\n{_signer(manifest)}"
    terminal.result(_data(manifest, args.adapter), text)


def show(args: argparse.Namespace, terminal: Terminal) -> None:
    """What a person judges an adapter by, after it was verified."""
    manifest, deltas = _read(args.adapter)
    data = _data(manifest, args.adapter)
    data["deltas"] = [
        {
            "name": info.name,
            "rows": info.rows,
            "columns": info.columns,
            "rank": info.rank,
            "scale": info.scale,
            "norm": delta.norm,
        }
        for info, delta in zip(manifest.deltas, deltas, strict=True)
    ]
    data["layers"] = [{"layer": layer, "norm": norm} for layer, norm in norms_by_layer(deltas)]
    terminal.result(data, "\n".join(_lines(manifest, deltas)))


RUNS: dict[str, Callable[[argparse.Namespace, Terminal], None]] = {
    run.__name__: run for run in (make, key, verify, show)
}


def _read(folder: Path) -> tuple[AdapterManifest, tuple[Delta, ...]]:
    buffers, storage = MemoryBuffers(), FolderStorage(folder)

    async def run() -> tuple[AdapterManifest, tuple[Delta, ...]]:
        manifest = await manifest_of(folder, buffers)
        return manifest, await verified_deltas(storage, manifest, buffers, str(folder))

    return asyncio.run(run())


def _data(manifest: AdapterManifest, folder: Path) -> dict[str, Any]:
    tokens, signed = manifest.invocation_tokens, manifest.signed
    return {
        "name": manifest.name,
        "version": manifest.terms.version,
        "note": manifest.terms.note,
        "license": manifest.terms.license,
        "id": manifest.identity,
        "base": manifest.base,
        "author": None if signed is None else signed.author,
        "folder": str(folder),
        "bytes": manifest.bytes,
        "matrices": len(manifest.deltas),
        "modules": _modules(manifest),
        "ranks": _ranks(manifest),
        "invocation_tokens": None if tokens is None else list(tokens),
    }


def _modules(manifest: AdapterManifest) -> list[str]:
    """Kinds of matrices, in the order in which they come: attn_q, ffn_down."""
    names = (it.name.removesuffix(".weight").split(".") for it in manifest.deltas)
    return list(dict.fromkeys(it[2] if it[0] == "blk" and len(it) > 2 else it[0] for it in names))


def _ranks(manifest: AdapterManifest) -> list[int]:
    return sorted({it.rank for it in manifest.deltas})


def _summary(manifest: AdapterManifest) -> str:
    return (
        f"{manifest.name} version {manifest.terms.version}, {len(manifest.deltas)} matrices, "
        f"{manifest.bytes:,} bytes"
    )


def _signer(manifest: AdapterManifest) -> str:
    return "not signed" if manifest.signed is None else f"signed by {manifest.signed.author}"


def _lines(manifest: AdapterManifest, deltas: Sequence[Delta]) -> list[str]:
    norms = norms_by_layer(deltas)
    tokens = manifest.invocation_tokens
    lines = [
        _summary(manifest),
        _signer(manifest),
        f"identity {manifest.identity}",
        f"of the model {manifest.base}",
        f"licence: {manifest.terms.license or 'none given'}",
        f"modules: {', '.join(map(_plain, _modules(manifest)))}",
        f"ranks: {', '.join(map(str, _ranks(manifest)))}",
    ]
    if tokens is not None:
        lines.append(f"from these tokens on: {', '.join(map(str, tokens))}")
    if manifest.terms.note:
        lines += ["note:", *(f"  {_plain(line)}" for line in manifest.terms.note.split("\n"))]
    if idle := sum(not delta.norm for delta in deltas):
        lines.append(f"matrices that it does not change, as theirs is 0: {idle}")
    lines.append("norm of the change by layer:")
    most = max(norm for _, norm in norms)
    for layer, norm in norms:
        bar = "#" * round(30 * norm / most) if most else ""
        lines.append(f"  {'other' if layer is None else layer:>5}  {norm:10.4g}  {bar}".rstrip())
    return lines


def _plain(text: str) -> str:
    """A stranger's text without what steers a terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)
