"""What tests of whole models share: one browser, and pages on tiny and on shipped models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_page import (
    BROKEN,
    FIXTURES,
    PADDED,
    broken,
    mixtral_ggufs,
    open_client,
    padded,
)
from playwright.sync_api import BrowserContext

from app_page import RUN, convert_all
from doppler.command.client import Client
from doppler.command.server import Server
from fixture_sets import FAMILIES, LONG, RECURRENT, TINY
from visited import Visited

# Blocks are hashed on the GPU from now on, or here: which one is quicker is measured otherwise.
HASHES = """
from doppler.weights import upload

async def fixed(*_):
    return {here}

upload.is_quicker_on_gpu = fixed
"""


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        yield context


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoints, converted; one of them from GGUF files too, and one that is broken."""
    folder = tmp_path_factory.mktemp("tiny")
    sources = {name: FIXTURES / name for name in (*TINY, *FAMILIES, *RECURRENT, LONG)}
    sources[BROKEN] = broken(FIXTURES / "qwen2-like", folder / "checkpoint of no numbers")
    sources[PADDED] = padded(folder / f"{PADDED}.gguf")
    return convert_all(sources | mixtral_ggufs(folder), folder)


@pytest.fixture(scope="module")
def tiny(context: BrowserContext, visited: Visited, tiny_folder: Path) -> Iterator[Client]:
    """The page on a server with the tiny models."""
    with Server(tiny_folder, visited.port) as server:
        yield open_client(context, server.url)


@pytest.fixture(scope="module")
def shipped(context: BrowserContext, site: Server) -> Client:
    """The page on a server with the two shipped models."""
    return open_client(context, site.url)


@pytest.fixture
def hashing(tiny: Client, adapter: dict[str, Any]) -> Iterator[None]:
    """Blocks are hashed on the GPU where the kernels are those of GPUs, and here otherwise."""
    tiny.page.evaluate(RUN, HASHES.format(here=bool(adapter)))
    yield
    tiny.page.evaluate(RUN, HASHES.format(here=False))
