"""Finding a Chromium and opening a page in it, headless, with a WebGPU adapter."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urljoin

from playwright.sync_api import BrowserContext, Page, Playwright, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from doppler.errors import DeviceError, SourceError

Adapter = Literal["auto", "default", "swiftshader"]
ADAPTERS: tuple[Adapter, ...] = ("auto", "default", "swiftshader")
NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
PLACES = {  # where installers put it on systems that keep programs off PATH
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    "win32": (
        r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
        r"%LocalAppData%\Google\Chrome\Application\chrome.exe",
        r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
    ),
}
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--enable-unsafe-webgpu",  # on Linux, WebGPU and its shader-f16 stand behind it
    "--no-first-run",
)
ADAPTER_FLAGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "swiftshader": (
        "--use-webgpu-adapter=swiftshader",
        # Workgroup memory is zeroed by a loop then. Asked for it, SwiftShader compiles a store a
        # word: kernels with much of it took three times as long.
        "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
    ),
}
# What the adapter is, where it gives a device.
PROBE = """async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  return (adapter && (await adapter.requestDevice()) && adapter.info.architecture) ?? null;
}"""


@dataclass(frozen=True)
class Browser:
    """How to start a browser. `executable` None means Playwright's own "chrome" channel.

    adapter: "default" is what the browser picks by itself, "swiftshader" the CPU's with the flags
    for it, "auto" the first of the two that gives a device, or the second where the first is the
    CPU's, too. flags: more of them, from DOPPLER_BROWSER_FLAGS.
    """

    executable: str | None
    adapter: Adapter = "auto"
    flags: tuple[str, ...] = ()


def find_browser(option: str | None = None, adapter: Adapter = "auto") -> Browser:
    """The browser of the option, of DOPPLER_BROWSER, on PATH, or Playwright's channel.

    Raises SourceError where a named one does not exist, or where there is none at all.
    """
    flags = tuple(shlex.split(os.environ.get("DOPPLER_BROWSER_FLAGS", "")))
    named = option or os.environ.get("DOPPLER_BROWSER")
    if named:
        path = shutil.which(named)
        if path is None:
            raise SourceError(
                f"browser {named}: there is no such program; "
                "name another with --browser or DOPPLER_BROWSER"
            )
        return Browser(path, adapter, flags)
    path = _on_this_machine()
    if path is None:
        _check_channel()
    return Browser(path, adapter, flags)


def open_window(url: str) -> subprocess.Popen[bytes] | None:
    """Show the url to the person at this machine; the process, if it is a Chromium of its own.

    Does nothing where there is no screen: the address has been printed.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return None
    program = os.environ.get("DOPPLER_BROWSER") or _on_this_machine(NAMES[1:])
    if program is None:
        webbrowser.open(url)
        return None
    quiet = subprocess.DEVNULL
    return subprocess.Popen([program, url], stdout=quiet, stderr=quiet, start_new_session=True)


def _on_this_machine(names: tuple[str, ...] = NAMES) -> str | None:
    for name in names:
        if path := shutil.which(name):
            return path
    for place in PLACES.get(sys.platform, ()):
        program = Path(os.path.expandvars(place)).expanduser()
        if program.exists():
            return str(program)
    return None


def _check_channel() -> None:
    with sync_playwright() as playwright:
        try:
            playwright.chromium.launch(channel="chrome").close()
        except PlaywrightError as error:
            raise SourceError(
                "no Chrome or Chromium was found on PATH or where installers put it; install one, "
                "or name it with --browser or the environment variable DOPPLER_BROWSER"
            ) from error


def resolve_adapter(browser: Browser, url: str) -> Browser:
    """With "auto", the same browser with the adapter that gives a device here.

    url: any page of the server; browsers offer WebGPU to secure origins only.
    Raises DeviceError where neither does.
    """
    if browser.adapter != "auto":
        return browser
    for adapter in ADAPTERS[1:]:
        candidate = replace(browser, adapter=adapter)
        with sync_playwright() as playwright, launched(playwright, candidate, None) as context:
            page = context.pages[0]
            page.goto(urljoin(url, "/models.json"))  # a light page: no worker is started
            found = page.evaluate(PROBE)
        if found == "swiftshader":
            return replace(browser, adapter="swiftshader")
        if found is not None:
            return candidate
    raise DeviceError(
        f"{browser.executable or 'chrome'} gives no WebGPU device, neither a GPU's nor "
        "SwiftShader's; try another browser with --browser or more flags in DOPPLER_BROWSER_FLAGS"
    )


@contextmanager
def open_page(url: str, browser: Browser, *, profile: Path | None = None) -> Iterator[Page]:
    """A page at the url in a headless browser of its own, closed at the end.

    profile: folder that keeps what the page stores; None takes one that is removed at the end.
    """
    browser = resolve_adapter(browser, url)
    with sync_playwright() as playwright, launched(playwright, browser, profile) as context:
        page = context.pages[0]
        page.goto(url)
        yield page


@contextmanager
def launched(
    playwright: Playwright, browser: Browser, profile: Path | None
) -> Iterator[BrowserContext]:
    """The browser with one empty page, over a Playwright that the caller holds.

    A thread can hold one Playwright only: tests share theirs, commands use `open_page`.
    """
    # A persistent context: in others, which are incognito, OPFS lives in memory.
    with tempfile.TemporaryDirectory(prefix="doppler-", ignore_cleanup_errors=True) as folder:
        arguments = launch_arguments(browser)
        try:
            context = playwright.chromium.launch_persistent_context(
                str(profile or folder), **arguments
            )
        except PlaywrightError as error:
            raise SourceError(
                f"{browser.executable or 'chrome'} does not start: {error.message.splitlines()[0]}"
            ) from error
        try:
            yield context
        finally:
            context.close()


def launch_arguments(browser: Browser) -> dict[str, Any]:
    """Keyword arguments for Playwright's `launch` and `launch_persistent_context`."""
    adapter = cast(str, "default" if browser.adapter == "auto" else browser.adapter)
    flags = [*FLAGS, *ADAPTER_FLAGS[adapter], *browser.flags]
    if browser.executable is None:
        return {"channel": "chrome", "args": flags}
    arguments: dict[str, Any] = {"executable_path": browser.executable, "args": flags}
    if Path(browser.executable).stem.lower() in NAMES[1:]:
        # A browser with windows: its headless mode is the same browser, unlike the headless shell.
        flags.append("--headless=new")
        arguments["ignore_default_args"] = ["--headless", "--hide-scrollbars", "--mute-audio"]
    return arguments
