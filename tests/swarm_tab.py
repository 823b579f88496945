"""A tab with the page's transport and the real worker, and no page around them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from playwright.sync_api import Error, Page

GREEDY = {"max_tokens": 8, "ignore_eos": True, "sampling": {"greedy": True}}
START = """async () => {
  const comlink = await import("/vendor/comlink.js");
  const { workerURL } = await import("/runtime/trusted.js");
  const { Swarm } = await import("/swarm/swarm.js");
  window.worker = comlink.wrap(new Worker(workerURL("../worker.js"), { type: "module" }));
  const { port1, port2 } = new MessageChannel();
  await worker.connectPeers(comlink.transfer(port2, [port2]));
  window.swarm = new Swarm(port1);
  await worker.boot();
}"""
CALL = "([method, args]) => worker.call(method, args)"
# The blocks of a model that are not stored; none also where its manifest is not.
MISSING = """
import json
from doppler.page.bridge import api

store = await api._library._peers.find("{identity}")
lacking = [] if store is None else await store.blocks.missing(range(len(store.manifest.blocks)))
json.dumps([*lacking])
"""


class Tab:
    """A tab with worker and transport, in a profile of its own. `asked`: what it got over HTTP."""

    def __init__(self, page: Page) -> None:
        self.page, self.asked = page, list[str]()
        page.on("request", lambda request: self.asked.append(request.url))
        page.evaluate(START)

    def reload(self) -> None:
        self.page.reload()
        self.page.evaluate(START)

    def kill(self) -> None:
        """Its process ends at once: it cannot say goodbye."""
        with suppress(Error):  # there is nobody left to answer
            self.page.goto("chrome://crash", timeout=5000)

    def call(self, method: str, **args: Any) -> Any:
        return self.page.evaluate(CALL, [method, args])

    def run(self, code: str) -> Any:
        return self.page.evaluate("(code) => worker.run(code)", code)

    def join(self, identity: str) -> None:
        self.page.evaluate("(identity) => swarm.join(identity)", identity)

    def missing(self, identity: str) -> list[int]:
        """Blocks of the model that are not stored."""
        self.call("models")
        missing: list[int] = json.loads(self.run(MISSING.format(identity=identity)))
        return missing

    @property
    def given(self) -> int:
        """Bytes that peers got from it."""
        given: int = self.page.evaluate("swarm.facts().given")
        return given

    def answer(self, ids: list[int]) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("complete", **GREEDY, prompt_ids=ids)
        return answer
