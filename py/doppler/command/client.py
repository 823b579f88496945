"""`window.doppler` of a page in a headless browser: what generate and bench drive.

Nothing here computes: the page fetches the model from a local server, loads it and answers, just
as it does for a person.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

from doppler import errors
from doppler.api.messages import DeviceReport, LoadedModel, Stage
from doppler.command.browser import Browser, open_page
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import DeviceError, DopplerError, SourceError
from doppler.store.manifest import MANIFEST_FILE

# Errors come back as data: Playwright would fold their name and message into one text.
CALL = """async ([target, args, listens]) => {
  try {
    const onEvent = listens ? (event) => window.dopplerEvent(event) : null;
    const value =
      target === "saveLogits"
        ? await window.doppler.saveLogits(args)
        : await window.doppler.call(target, args, onEvent);
    return { value };
  } catch (error) {
    return { error: { name: error?.name ?? "Error", message: error?.message ?? String(error) } };
  }
}"""
Event = dict[str, Any]


class Client:
    """`window.doppler` of an open page; `on_event` gets the events of the call that runs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._on_event: Callable[[Event], None] | None = None
        page.expose_function("dopplerEvent", self._event)

    def call(
        self, method: str, args: dict[str, Any], on_event: Callable[[Event], None] | None = None
    ) -> Any:
        """Runs one method of the page's protocol (api/messages.py).

        Raises the DopplerError that the page raised, DeviceError where the page itself dies.
        """
        self._on_event = on_event
        try:
            answer = self.page.evaluate(CALL, [method, args, on_event is not None])
        except PlaywrightError as error:
            raise DeviceError(
                f"the page ended during {method} ({error.message.splitlines()[0]}); "
                "the browser may have run out of memory: try a smaller --context"
            ) from error
        if "error" in answer:
            raise error_named(**answer["error"])
        return answer["value"]

    def device(self) -> DeviceReport:
        """What the page says of its GPU. Raises DeviceError where it has none."""
        device: DeviceReport = self.call("device", {})
        if not device["ok"]:
            raise DeviceError(str(device["problem"]))
        return device

    def fetch(self, folder: Path, terminal: Terminal, budget: int | None = None) -> str:
        """Stores a model of the server's folder in the page, or what may be of it; its id."""
        args: dict[str, Any] = {"url": f"models/{quote(folder.name)}/{MANIFEST_FILE}"}
        if budget is not None:
            args["storage_budget"] = budget
        with terminal.bar("download") as report:
            model = self.call("download", args, lambda e: report(e["done"], e["total"]))
        identity: str = model["id"]
        return identity

    def load(self, identity: str, terminal: Terminal, **room: Any) -> LoadedModel:
        """Loads a stored model; `room`: its RoomArgs, None for the page's own."""
        given = {name: value for name, value in room.items() if value is not None}
        with terminal.bar("load") as report:

            def on_event(event: Event) -> None:
                if event.get("stage") == "verify":  # the one stage that counts bytes
                    report(event["done"], event["total"])

            loaded: LoadedModel = self.call("load", {"id": identity, **given}, on_event)
        return loaded

    def timeline(self) -> list[Stage]:
        """Stages of the start, with `start` and `end` in milliseconds since the page opened."""
        stages: list[Stage] = self.page.evaluate("window.doppler.timeline")
        return stages

    def save_logits(self, args: dict[str, Any], target: Path) -> dict[str, Any]:
        """Writes float32 [tokens of the prompt, vocabulary] as .npy; -> prompt_ids, rows, vocab."""
        with self.page.expect_download(timeout=0) as waiting:
            answer: dict[str, Any] = self.call("saveLogits", args)
        with waiting.value.path().open("rb") as raw:
            write_npy(target, raw, (answer["rows"], answer["vocab"]))
        return answer

    def _event(self, event: Event) -> None:
        if self._on_event:
            self._on_event(event)


@contextmanager
def open_client(
    server: Server, browser: Browser, terminal: Terminal, *, profile: Path | None = None
) -> Iterator[Client]:
    """The page in a browser of its own; what goes wrong in the page itself is logged."""
    with open_page(server.url, browser, profile=profile) as page:
        page.on("pageerror", lambda error: terminal.log(f"page: {error}"))
        yield Client(page)


def error_named(name: str, message: str) -> DopplerError:
    """The exception that the page's error stands for."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DopplerError):
        return kind(message)
    return DopplerError(f"an error inside the page, {name}: {message}")


def write_npy(target: Path, raw: IO[bytes], shape: tuple[int, int]) -> None:
    """A .npy of little-endian float32 rows, copied through: logits of long prompts are large."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with target.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        start = out.tell()
        shutil.copyfileobj(raw, out, 1 << 20)
        have = out.tell() - start
    if have != 4 * shape[0] * shape[1]:
        raise SourceError(f"{target}: the page sent {have} bytes of logits for {shape} float32")
