"""`doppler quality`: what keys and values in fewer bits cost, in the page as it runs.

The page loads a model once for each type and gives the logits of a text. Those with f32 are what
the others are compared with; all else is the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np

from doppler.command.browser import find_browser
from doppler.command.client import Client, open_client
from doppler.command.models import find_model
from doppler.command.quality import random_ids, read_text, token_ids
from doppler.command.sample_text import TEXT
from doppler.command.served import manifest_in
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.convert.quality import Quality, compare
from doppler.errors import RequestError
from doppler.plan.cache import CacheType
from doppler.store.manifest import Manifest

EXACT: CacheType = "f32"
TYPES: tuple[CacheType, ...] = get_args(CacheType)


@dataclass(frozen=True)
class Cost:
    """Bytes of keys and values of one type, and what it does to predictions (None: of f32)."""

    kind: CacheType
    bytes: int
    quality: Quality | None

    def described(self) -> dict[str, Any]:
        """As plain data."""
        quality = {} if self.quality is None else self.quality.described()
        return {"kv": self.kind, "bytes": self.bytes, **quality}

    def __str__(self) -> str:
        size = f"{self.kind}: {self.bytes / 1e6:.1f} MB"
        if (it := self.quality) is None:
            return size
        return (
            f"{size}, KL divergence {it.kl_mean:.2g} nats (median {it.kl_median:.2g}, 99th "
            f"percentile {it.kl_p99:.2g}), top-1 agreement {100 * it.agreement:.1f} %, perplexity "
            f"{it.perplexity_before:.2f} -> {it.perplexity:.2f}"
        )


def run(args: argparse.Namespace, terminal: Terminal) -> None:
    """Measures what was asked for, and shows it."""
    if args.kv == EXACT:
        raise RequestError(f"--kv {EXACT} is what others are compared with: give another, or none")
    folder = find_model(args.model)
    ids, about = _ids(args, manifest_in(folder), folder)
    kinds = [kind for kind in TYPES if kind == EXACT or args.kv in (None, kind)]
    room = {name: getattr(args, name) for name in ("context", "precision", "ple")}
    browser = find_browser(args.browser, args.adapter)
    with (
        TemporaryDirectory() as temporary,
        Server(folder.parent) as server,
        open_client(server, browser, terminal) as client,
    ):
        client.device()
        identity = client.fetch(folder, terminal)
        measured = _Measured(client, identity, room, ids, Path(temporary), terminal)
        costs = [measured.cost(kind) for kind in kinds]
    told = {"model": folder.name, "text": about, "tokens": len(ids) - 1, **measured.loaded}
    head = (
        f"keys and values of {folder.name} at a context of {told['context']:,}, {told['tokens']} "
        f"tokens ({about}), against {EXACT}:"
    )
    result = told | {"types": [cost.described() for cost in costs]}
    terminal.result(result, "\n".join([head, *map(str, costs)]))


def _ids(args: argparse.Namespace, manifest: Manifest, folder: Path) -> tuple[list[int], str]:
    """The tokens of a text, and what text that is."""
    text = TEXT if args.text is None else read_text(args.text)
    most = min(args.tokens, args.context or args.tokens)
    ids = token_ids(manifest, folder, text, most)
    if ids is None:
        return random_ids(manifest.config, most), "random ids: the model has no tokenizer"
    return ids, "built-in text" if args.text is None else args.text.name


@dataclass
class _Measured:
    """A stored model in an open page, and the logits of `ids` with f32 once they are there."""

    client: Client
    identity: str
    room: dict[str, Any]
    ids: Sequence[int]
    folder: Path
    terminal: Terminal

    def __post_init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def cost(self, kind: CacheType) -> Cost:
        """Of one type; f32 comes first. Logits lie on the disk: they may be large."""
        loaded = self.client.load(self.identity, self.terminal, kv=kind, **self.room)
        self.loaded = {"context": loaded["context"], "precision": loaded["precision"]}
        target = self.folder / f"{kind}.npy"
        self.terminal.log(f"reading the text with keys and values in {kind}")
        self.client.save_logits({"prompt_ids": list(self.ids[:-1])}, target)
        quality = None
        if kind != EXACT:
            exact, rows = (np.load(self.folder / f"{it}.npy", "r") for it in (EXACT, kind))
            quality = compare(exact, rows, self.ids[1:])
        return Cost(kind, loaded["memory"]["kv"], quality)
