"""`doppler generate`: the real page in a headless browser, asked through `window.doppler`.

Nothing here computes: the page downloads the model from a local server, loads it and answers, just
as it does for a person, and this module prints what comes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

from doppler import errors
from doppler.command.browser import Browser, open_page
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import DeviceError, DopplerError, RequestError, SourceError
from doppler.manifest import MANIFEST_FILE

# Errors come back as data: Playwright would fold their name and message into one text.
CALL = """async ([target, args]) => {
  try {
    await window.doppler.ready;
    const onEvent = (event) => window.dopplerEvent(event);
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


@dataclass(frozen=True)
class Job:
    """What to generate. `prompt`: text or token ids; `context`, `batch`, `kv` None: the page's."""

    model: Path
    prompt: str | list[int]
    chat: bool = False
    max_tokens: int = 128
    sampling: dict[str, Any] = field(default_factory=dict)
    context: int | None = None
    batch: int | None = None
    kv: str | None = None
    ignore_eos: bool = False
    speculate: str = "auto"
    logits: Path | None = None

    def prompt_args(self) -> dict[str, Any]:
        """The prompt as the page's methods take it."""
        if self.chat:
            return {"messages": [{"role": "user", "content": self.prompt}]}
        return (
            {"prompt": self.prompt} if isinstance(self.prompt, str) else {"prompt_ids": self.prompt}
        )


class Client:
    """`window.doppler` of an open page; `on_event` gets the events of the call that runs."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._on_event: Callable[[Event], None] | None = None
        page.expose_function("dopplerEvent", self._event)

    def call(
        self, method: str, args: dict[str, Any], on_event: Callable[[Event], None] | None = None
    ) -> Any:
        """Runs one method of the page's protocol (web/runtime/messages.d.ts).

        Raises the DopplerError that the page raised, DeviceError where the page itself dies.
        """
        self._on_event = on_event
        try:
            answer = self._page.evaluate(CALL, [method, args])
        except PlaywrightError as error:
            raise DeviceError(
                f"the page ended during {method} ({error.message.splitlines()[0]}); "
                "the browser may have run out of memory: try a smaller --context"
            ) from error
        if "error" in answer:
            raise error_named(**answer["error"])
        return answer["value"]

    def timeline(self) -> list[dict[str, Any]]:
        """Stages of the start, with `start` and `end` in milliseconds since the page opened."""
        stages: list[dict[str, Any]] = self._page.evaluate("window.doppler.timeline")
        return stages

    def save_logits(self, args: dict[str, Any], target: Path) -> dict[str, Any]:
        """Writes float32 [tokens of the prompt, vocabulary] as .npy; -> prompt_ids, rows, vocab."""
        with self._page.expect_download(timeout=0) as waiting:
            answer: dict[str, Any] = self.call("saveLogits", args)
        with waiting.value.path().open("rb") as raw:
            write_npy(target, raw, (answer["rows"], answer["vocab"]))
        return answer

    def _event(self, event: Event) -> None:
        if self._on_event:
            self._on_event(event)


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


def generate(job: Job, browser: Browser, terminal: Terminal) -> dict[str, Any]:
    """Runs the job; text goes to the terminal as it comes. Returns what --json prints."""
    folder = job.model.resolve()
    if not (folder / MANIFEST_FILE).is_file():
        raise SourceError(
            f"{job.model} has no {MANIFEST_FILE}; give a folder made by doppler convert or pull"
        )
    if job.max_tokens < (0 if job.logits else 1):
        raise RequestError(f"{job.max_tokens} tokens cannot be generated: give 1 or more")
    if job.logits and not job.logits.parent.is_dir():
        raise RequestError(f"{job.logits} cannot be written: there is no {job.logits.parent}")
    stages: dict[str, float] = {}
    with Server(folder.parent) as server:
        start = time.monotonic()
        with open_page(server.url, browser) as page:
            page.on("pageerror", lambda error: terminal.log(f"page: {error}"))
            client = Client(page)
            device = client.call("device", {})
            if not device["ok"]:
                raise DeviceError(device["problem"])
            stages["boot_ms"] = _since(start)
            loaded = _load(
                client, f"models/{quote(folder.name)}/{MANIFEST_FILE}", job, terminal, stages
            )
            result: dict[str, Any] = {"prompt_ids": [], "generated_ids": [], "text": ""}
            if job.logits:
                saved = client.save_logits(job.prompt_args(), job.logits)
                result |= {"prompt_ids": saved["prompt_ids"], "logits": str(job.logits)}
                result["finish_reason"] = "length"
            if job.max_tokens > 0:
                result |= _answer(client, job, terminal)
            result["timeline"] = client.timeline()
    return _report(result, loaded, stages)


def _load(
    client: Client, url: str, job: Job, terminal: Terminal, stages: dict[str, float]
) -> dict[str, Any]:
    start = time.monotonic()
    with terminal.bar("download") as report:
        model = client.call("download", {"url": url}, lambda e: report(e["done"], e["total"]))
    stages["download_ms"] = _since(start)
    start = time.monotonic()
    args = {"id": model["id"], "context": job.context, "batch": job.batch, "kv": job.kv}
    with terminal.bar("load") as report:

        def on_event(event: Event) -> None:
            if event.get("stage") == "verify":  # the one stage that counts bytes
                report(event["done"], event["total"])

        loaded: dict[str, Any] = client.call("load", args, on_event)
    stages["load_ms"] = _since(start)
    return loaded


def _answer(client: Client, job: Job, terminal: Terminal) -> dict[str, Any]:
    def on_event(event: Event) -> None:
        if event["type"] == "token":
            terminal.write(event["text"])

    args = job.prompt_args() | {
        "sampling": job.sampling,
        "max_tokens": job.max_tokens,
        "ignore_eos": job.ignore_eos,
        "speculate": job.speculate,
    }
    answer: dict[str, Any] = client.call("chat" if job.chat else "complete", args, on_event)
    return answer


def _report(
    result: dict[str, Any], loaded: dict[str, Any], stages: dict[str, float]
) -> dict[str, Any]:
    """The fields that DESIGN names; `stages_ms` and `timeline` say where time went before."""
    timings = result.get("timings", {})
    report = {key: result[key] for key in ("prompt_ids", "generated_ids", "text", "finish_reason")}
    report["timings"] = {"load_ms": stages["load_ms"], **timings}
    if "drafts" in result:
        report["drafts"] = result["drafts"]
    report["stages_ms"] = {**stages, "load": loaded["timings"]}
    report["timeline"] = result["timeline"]
    report["memory"] = {"gpu_bytes": result.get("memory", loaded["memory"])}
    if "logits" in result:
        report["logits"] = result["logits"]
    return report


def _since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
