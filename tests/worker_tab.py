"""A tab of which only the worker runs: Python in the page, and nothing of the app."""

from __future__ import annotations

import textwrap
from typing import Any

from playwright.sync_api import Page

START = """async () => {
  const comlink = await import("/vendor/comlink.js");
  const { workerURL } = await import("/runtime/trusted.js");
  window.worker = comlink.wrap(new Worker(workerURL("../worker.js"), { type: "module" }));
  await worker.boot();
}"""
RUN = """async (code) => {
  try {
    return { value: await worker.run(code) };
  } catch (error) {
    return { error: error.message };
  }
}"""
PRELUDE = """
import asyncio, js
from doppler.page.buffers import PageBuffers
from doppler.store.manifest import Manifest
from doppler.store.shards import ShardStore
from doppler.page.http import BlobSource, HttpShards, HttpSource, fetch_text
from doppler.page.opfs import OpfsRoot, reserve

root, buffers = OpfsRoot(), PageBuffers()

async def opened(url):
    manifest = Manifest.from_json(await fetch_text(url + "manifest.json", "manifest.json"), url)
    storage = await root.make(manifest.identity)
    source = HttpShards(url + "manifest.json", manifest)
    return storage, ShardStore(manifest, storage, [source], buffers)

def quiet(done, total): pass
"""


class Tab:
    """A tab whose worker has booted. Python that it runs may use the names of PRELUDE."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.load()

    def load(self) -> None:
        """Opens the page, or reloads it."""
        self.page.goto(self.url)
        self.page.evaluate(START)
        self.run(PRELUDE)

    def _evaluate(self, code: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.page.evaluate(RUN, textwrap.dedent(code))
        return answer

    def run(self, code: str) -> Any:
        """The value of the last expression."""
        answer = self._evaluate(code)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def fails(self, code: str) -> str:
        """The last error of a traceback: "doppler.errors.CorruptError: …"."""
        answer = self._evaluate(code)
        assert "error" in answer, f"nothing was raised: {answer['value']}"
        return "doppler.errors." + answer["error"].rsplit("doppler.errors.", 1)[-1]
