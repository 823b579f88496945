"""What the tests share: one browser program, one Playwright, the two shipped models, one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, expect, sync_playwright

from app_page import PATIENCE_MS, make_models
from doppler.cli import main
from doppler.command.arguments import MODELS
from doppler.command.browser import ADAPTERS, Browser, find_browser, launched, resolve_adapter
from doppler.command.client import Client
from doppler.command.server import Server
from doppler.command.wheel import build_wheel
from gpu_page import GpuPage
from schema_watch import WRONG, watch
from visited import Visited


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--browser", metavar="PATH", help="else DOPPLER_BROWSER, PATH, Chrome")
    parser.addoption("--adapter", choices=ADAPTERS, default="auto")


LONGEST = ("kernels", "models")  # folders of tests that take long: two processes begin with these


def needs(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


def turn(item: pytest.Item) -> tuple[bool, bool]:
    """What tests are sorted by: those of CPython, then the longest of browsers, then the others."""
    return needs(item, "playwright"), item.path.parent.name not in LONGEST


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks for groups before it asks this file
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of pages go last: Playwright's loop runs in this thread then; asyncio.run refuses.

    Those of one file share pages and models, or what a command gave, those of kernels/ one page:
    they stay in one process.
    """
    items.sort(key=turn)
    for item in items:
        if needs(item, "browser"):
            group = "kernels" if needs(item, "gpu_page") else item.path.name
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def watched_clients() -> Iterator[None]:
    """Pages of Clients, of those too that commands make, tell of their calls as Apps do."""
    make = Client.__init__

    def make_watched(client: Client, page: Page) -> None:
        make(client, page)
        watch(page)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "__init__", make_watched)
        yield


@pytest.fixture(autouse=True)
def said_as_the_types_say() -> Iterator[None]:
    """What pages said in this test is of the types of py/doppler/api."""
    yield
    told, WRONG[:] = [*WRONG], []
    assert told == []


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder with gemma-3-270m and smollm2-135m-instruct, fetched where they are not there yet."""
    assert main(["pull", "gemma-3-270m", "smollm2-135m-instruct"]) == 0
    return MODELS


@pytest.fixture(scope="session")
def site(models: Path) -> Iterator[Server]:
    """The page and the shipped models."""
    build_wheel()
    with Server(models) as server:
        yield server


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """The browser to launch, with an adapter that gives a device on this machine."""
    found = find_browser(
        request.config.getoption("--browser"), request.config.getoption("--adapter")
    )
    with Server(tmp_path_factory.mktemp("no-models")) as server:
        return resolve_adapter(found, server.url)


@pytest.fixture(scope="session")
def playwright(browser: Browser) -> Iterator[Playwright]:
    """The one Playwright of this process: a second one in the same thread is an error.

    Launch with `doppler.command.browser.launched(playwright, browser, profile)`.
    """
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        yield playwright


@pytest.fixture(scope="session")
def visited(
    playwright: Playwright, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Visited:
    """A port, and browsers that have been there: what tests of pages open, unless the first visit
    is what they are about.
    """
    return Visited(playwright, browser, tmp_path_factory.mktemp("visited"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tiny-chat and tiny-base; beside it lie the .gguf files that they came from."""
    return make_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain_page(
    playwright: Playwright, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """A page of the server that starts no engine: for modules of web/app that need none."""
    with (
        Server(tmp_path_factory.mktemp("none")) as server,
        launched(playwright, browser, None) as context,
    ):
        page = context.pages[0]
        page.goto(f"{server.url}models.json")
        yield page


@pytest.fixture(scope="session")
def gpu_page(
    playwright: Playwright, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GpuPage]:
    """Pyodide with py/doppler/gpu, a device and every kernel."""
    with (
        Server(tmp_path_factory.mktemp("none")) as server,
        launched(playwright, browser, None) as context,
    ):
        yield GpuPage(context.pages[0], server.url)
