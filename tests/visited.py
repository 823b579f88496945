"""A browser that has been at a server before, so that Python starts there from its image.

A first visit makes the image, for which a CPU needs three times as long: most tests are about what
comes after it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import BrowserContext, Playwright

from app_page import PATIENCE_MS
from doppler.command.browser import Browser, launched
from doppler.command.client import Client
from doppler.command.server import Server
from doppler.command.wheel import build_wheel

PORTS = 20_000, 30_000  # below those that systems give to connections
# Waits for the image, and leaves nothing else of the visit.
KEEP_IMAGE = """async () => {
  const kept = async () => (await (await caches.open("doppler-python")).keys()).length;
  while (!(await kept())) await new Promise((resolve) => setTimeout(resolve, 50));
  const workers = await navigator.serviceWorker.getRegistrations();
  await Promise.all(workers.map((worker) => worker.unregister()));
  const others = (await caches.keys()).filter((name) => name !== "doppler-python");
  await Promise.all(others.map((name) => caches.delete(name)));
}"""


class Visited:
    """A port for the server of a test, one at a time, and browsers that have been there."""

    def __init__(self, playwright: Playwright, browser: Browser, folder: Path) -> None:
        self._playwright, self._browser, self._profile = playwright, browser, folder / "profile"
        first, end = PORTS
        self.port = first + os.getpid() % (end - first)  # another process has another
        (folder / "none").mkdir()
        build_wheel()
        with (
            Server(folder / "none", self.port) as server,
            launched(playwright, browser, self._profile) as context,
        ):
            page = context.pages[0]
            page.goto(server.url)
            Client(page).call("models", {})
            page.evaluate(KEEP_IMAGE)

    @contextmanager
    def opened(self, flags: Sequence[str] = ()) -> Iterator[BrowserContext]:
        """Such a browser, with these flags besides, whose profile is removed at the end."""
        browser = replace(self._browser, flags=(*self._browser.flags, *flags))
        with tempfile.TemporaryDirectory(prefix="doppler-", ignore_cleanup_errors=True) as folder:
            profile = Path(folder) / "profile"
            shutil.copytree(self._profile, profile)
            with launched(self._playwright, browser, profile) as context:
                context.set_default_timeout(PATIENCE_MS)
                yield context
