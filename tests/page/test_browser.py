"""Finding a browser, in the promised order, and opening a page in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Playwright

from doppler.command import browser as module
from doppler.command.browser import (
    Browser,
    find_browser,
    launch_arguments,
    launched,
    open_window,
    resolve_adapter,
)
from doppler.command.server import Server
from doppler.errors import DeviceError, SourceError


def program(folder: Path, name: str, script: str = "") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_order_is_option_environment_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path = program(tmp_path, "chromium")
    named, optional = program(tmp_path, "named"), program(tmp_path, "optional")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOPPLER_BROWSER", named)
    monkeypatch.setenv("DOPPLER_BROWSER_FLAGS", "--one '--two=a b'")
    assert find_browser(optional).executable == optional
    assert find_browser() == Browser(named, "auto", ("--one", "--two=a b"))
    monkeypatch.delenv("DOPPLER_BROWSER")
    assert find_browser().executable == on_path


def test_none_at_all_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOPPLER_BROWSER", raising=False)
    with pytest.raises(SourceError, match="there is no such program"):
        find_browser("no-such-browser")


def test_full_browsers_run_in_their_new_headless_mode() -> None:
    full = launch_arguments(Browser("/usr/bin/chromium", "swiftshader", ("--more",)))
    assert "--headless=new" in full["args"]
    assert "--use-webgpu-adapter=swiftshader" in full["args"]
    assert "--more" in full["args"]
    assert "--headless" in full["ignore_default_args"]
    shell = launch_arguments(Browser("/usr/bin/chromium-headless-shell", "default"))
    assert "ignore_default_args" not in shell
    assert launch_arguments(Browser(None))["channel"] == "chrome"


def test_the_page_gets_a_device_and_isolation(
    playwright: Playwright, browser: Browser, tmp_path: Path
) -> None:
    with Server(tmp_path) as server, launched(playwright, browser, None) as context:
        page = context.pages[0]
        page.goto(server.url + "models.json")
        assert page.evaluate("crossOriginIsolated") is True
        assert page.evaluate(module.PROBE) is not None


def test_a_browser_that_does_not_start_is_told(playwright: Playwright, tmp_path: Path) -> None:
    broken = Browser(program(tmp_path, "broken", "exit 3"), "default")
    with pytest.raises(SourceError, match="does not start"), launched(playwright, broken, None):
        pass


def test_a_window_opens_where_there_is_a_screen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("DOPPLER_BROWSER", program(tmp_path, "stand-in", f'echo "$1" > "{seen}"'))
    monkeypatch.setenv("DISPLAY", ":9")
    process = open_window("http://127.0.0.1/")
    assert process is not None
    assert process.wait(10) == 0
    assert seen.read_text() == "http://127.0.0.1/\n"


@pytest.mark.parametrize(
    ("found", "adapter"),
    [
        ({"default": "hopper"}, "default"),
        ({"default": ""}, "default"),  # a GPU of which the browser tells nothing
        ({"default": "swiftshader"}, "swiftshader"),  # the CPU's, with the flags for it
        ({"default": None, "swiftshader": "swiftshader"}, "swiftshader"),
        ({"default": None, "swiftshader": None}, None),
    ],
)
def test_auto_is_what_gives_a_device(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str | None], adapter: str | None
) -> None:
    def launch(
        playwright: object, browser: Browser, profile: object
    ) -> AbstractContextManager[Any]:
        page = SimpleNamespace(goto=lambda url: None, evaluate=lambda code: found[browser.adapter])
        return nullcontext(SimpleNamespace(pages=[page]))

    monkeypatch.setattr(module, "sync_playwright", nullcontext)
    monkeypatch.setattr(module, "launched", launch)
    given = Browser("/usr/bin/chromium", "auto", ("--more",))
    if adapter is None:
        with pytest.raises(DeviceError, match="gives no WebGPU device"):
            resolve_adapter(given, "http://127.0.0.1/")
    else:
        assert resolve_adapter(given, "http://127.0.0.1/") == replace(given, adapter=adapter)
