"""`doppler generate`: the real page in a headless browser, asked through `window.doppler`.

Nothing here computes: the page downloads the model from a local server, loads it and answers, just
as it does for a person, and this module prints what comes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doppler.command.browser import Browser
from doppler.command.client import Client, Event, model_folder, open_client
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import RequestError


@dataclass(frozen=True)
class Job:
    """What to generate. `prompt`: text or token ids; what is None of a load is left to the page."""

    model: Path
    prompt: str | list[int]
    chat: bool = False
    max_tokens: int = 128
    sampling: dict[str, Any] = field(default_factory=dict)
    context: int | None = None
    batch: int | None = None
    kv: str | None = None
    precision: str | None = None
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


def generate(job: Job, browser: Browser, terminal: Terminal) -> dict[str, Any]:
    """Runs the job; text goes to the terminal as it comes. Returns what --json prints."""
    folder = model_folder(job.model)
    if job.max_tokens < (0 if job.logits else 1):
        raise RequestError(f"{job.max_tokens} tokens cannot be generated: give 1 or more")
    if job.logits and not job.logits.parent.is_dir():
        raise RequestError(f"{job.logits} cannot be written: there is no {job.logits.parent}")
    stages: dict[str, float] = {}
    with Server(folder.parent) as server:
        start = time.monotonic()
        with open_client(server, browser, terminal) as client:
            client.device()
            stages["boot_ms"], start = _since(start), time.monotonic()
            identity = client.fetch(folder, terminal)
            stages["download_ms"], start = _since(start), time.monotonic()
            names = ("context", "batch", "kv", "precision")
            room = {name: getattr(job, name) for name in names}
            loaded = client.load(identity, terminal, **room)
            stages["load_ms"] = _since(start)
            result: dict[str, Any] = {"prompt_ids": [], "generated_ids": [], "text": ""}
            if job.logits:
                saved = client.save_logits(job.prompt_args(), job.logits)
                result |= {"prompt_ids": saved["prompt_ids"], "logits": str(job.logits)}
                result["finish_reason"] = "length"
            if job.max_tokens > 0:
                result |= _answer(client, job, terminal)
            result["timeline"] = client.timeline()
    return _report(result, loaded, stages)


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
