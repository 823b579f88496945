"""Browsers that lack something: the page says what, and what to do, and does not die of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, expect

from app_page import WatchedServer, watched
from doppler.command.browser import Browser, launched
from visited import Visited

NO_OPFS = "--disable-blink-features=FileSystemAccessOriginPrivate"
NO_WEBGPU = "delete Object.getPrototypeOf(navigator).gpu;"
NO_ADAPTER = "GPU.prototype.requestAdapter = async () => null;"


@pytest.fixture
def server(tiny_models: Path, tmp_path: Path, visited: Visited) -> Iterator[WatchedServer]:
    with watched(tiny_models, tmp_path, visited.port) as server:
        yield server


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        yield context


def open_page(context: BrowserContext, server: WatchedServer, script: str = "") -> Page:
    """The page, with a script that runs before its own and before its worker's."""
    server.prefixes["/worker.js"] = script
    page = context.new_page()
    page.add_init_script(script)
    page.goto(server.url)
    return page


def try_to_get(page: Page) -> None:
    page.get_by_role("button", name="Get Tiny Chat").click()


def test_no_webgpu(context: BrowserContext, server: WatchedServer) -> None:
    page = open_page(context, server, NO_WEBGPU)
    told = page.get_by_test_id("requirements")
    expect(told).to_contain_text("This browser has no WebGPU")
    expect(told).to_contain_text("Use a current Chrome, Edge or Chromium")
    expect(page.get_by_test_id("engine")).to_contain_text("not usable")
    try_to_get(page)
    problem = page.get_by_test_id("error-banner")
    expect(problem).to_contain_text("The GPU cannot go on")
    expect(problem).to_contain_text("This browser offers no WebGPU here")
    expect(page.get_by_test_id("model-button")).to_contain_text("Choose a model")
    page.close()


def test_a_file_without_a_gpu(
    context: BrowserContext, server: WatchedServer, tiny_models: Path
) -> None:
    """What it is can be told all the same."""
    page = open_page(context, server, NO_ADAPTER)
    page.get_by_test_id("open-file").set_input_files(tiny_models.parent / "tiny-chat.gguf")
    offer = page.get_by_test_id("offer")
    expect(offer.get_by_test_id("verdict")).to_contain_text(
        "It cannot run here. WebGPU found no adapter"
    )
    expect(offer.get_by_test_id("facts")).to_contain_text("llama, 2 layers")
    expect(offer.get_by_role("button", name="Import")).to_be_disabled()
    page.close()


def test_no_adapter(context: BrowserContext, server: WatchedServer) -> None:
    page = open_page(context, server, NO_ADAPTER)
    told = page.get_by_test_id("requirements")
    expect(told).to_contain_text("The GPU cannot be used")
    expect(told).to_contain_text("WebGPU found no adapter. Switch graphics acceleration on")
    expect(page.get_by_test_id("engine")).to_contain_text("not usable")
    page.close()


def test_no_private_file_system(
    playwright: Playwright, browser: Browser, server: WatchedServer
) -> None:
    lacking = replace(browser, flags=(*browser.flags, NO_OPFS))
    with launched(playwright, lacking, None) as context:
        page = open_page(context, server)
        told = page.get_by_test_id("requirements")
        expect(told).to_contain_text("no private file storage (OPFS)")
        expect(page.get_by_test_id("engine")).not_to_contain_text("starting")
        try_to_get(page)
        problem = page.get_by_test_id("error-banner")
        expect(problem).to_contain_text("The browser's storage refused")
        expect(page.get_by_test_id("model-button")).to_contain_text("Choose a model")
