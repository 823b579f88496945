"""`doppler generate`: the real page in a headless browser, asked through `window.doppler`.

Nothing here computes: the page downloads the model from a local server, loads it and answers, just
as it does for a person, and this module prints what comes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doppler.api.messages import LoadedModel
from doppler.command.browser import Browser
from doppler.command.client import Client, Event, open_client
from doppler.command.models import find_model
from doppler.command.served import manifest_in
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import RequestError, SourceError
from doppler.residency.trace import Trace, write
from doppler.sampling import Sampling
from doppler.store.manifest import Manifest
from doppler.text.tools import check_tools


@dataclass(frozen=True)
class Job:
    """What to generate. `model` is its folder, `prompt` text or token ids.

    What is None of a load is left to the page.
    """

    model: Path
    prompt: str | list[int]
    chat: bool = False
    max_tokens: int = 128
    sampling: dict[str, Any] = field(default_factory=dict)
    context: int | None = None
    batch: int | None = None
    kv: str | None = None
    precision: str | None = None
    ple: str | None = None
    gpu_budget: int | None = None
    host_budget: int | None = None
    ignore_eos: bool = False
    speculate: str = "auto"
    logits: Path | None = None
    trace: Path | None = None
    tools: list[dict[str, Any]] | None = None

    def prompt_args(self) -> dict[str, Any]:
        """The prompt as the page's methods take it."""
        if self.chat:
            tools = {"tools": self.tools} if self.tools else {}
            return {"messages": [{"role": "user", "content": self.prompt}], **tools}
        return (
            {"prompt": self.prompt} if isinstance(self.prompt, str) else {"prompt_ids": self.prompt}
        )


def job_of(args: argparse.Namespace) -> Job:
    """What the arguments ask for. Raises DopplerError before anything is loaded."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    sampling = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    _check(args, sampling)
    if args.greedy:
        sampling["greedy"] = True
    Sampling.from_json(sampling)
    folder = find_model(args.model)
    _check_prompt(args, manifest_in(folder))
    return Job(
        model=folder,
        prompt=args.prompt if args.prompt_ids is None else args.prompt_ids,
        chat=args.chat,
        max_tokens=args.max_tokens,
        sampling=sampling,
        context=args.context,
        batch=args.batch,
        kv=args.kv,
        precision=args.precision,
        ple=args.ple,
        gpu_budget=args.gpu_budget,
        host_budget=args.host_budget,
        ignore_eos=args.ignore_eos,
        speculate=args.speculate,
        logits=args.logits,
        trace=args.trace,
        tools=None if args.tools is None else _tools(args.tools),
    )


def _tools(file: Path) -> list[dict[str, Any]] | None:
    """The tools that a file lists. Raises DopplerError where it cannot be read, or lists others."""
    try:
        text = file.read_text(encoding="utf-8")
        return check_tools(json.loads(text))
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is no JSON: {error}") from error
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error


def _check(args: argparse.Namespace, sampling: dict[str, Any]) -> None:
    """Raises RequestError for options that say nothing, or the opposite of each other."""
    if args.chat and args.prompt_ids is not None:
        raise RequestError("--chat takes --prompt: it puts a template around the text")
    if args.tools is not None and not args.chat:
        raise RequestError("--tools goes with --chat: a template tells the model of them")
    if args.prompt == "" or (args.chat and not args.prompt.strip()):
        raise RequestError("--prompt is empty: give it some text")
    random = sampling.keys() & {"temperature", "top_k", "top_p", "min_p"}
    if args.greedy and random:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(random))
        raise RequestError(f"--greedy leaves nothing to {names}: give one or the other")
    if args.max_tokens < (0 if args.logits else 1):
        raise RequestError(f"{args.max_tokens} tokens cannot be generated: give 1 or more")
    for file in filter(None, (args.logits, args.trace)):
        if not file.parent.is_dir():
            raise RequestError(f"{file} cannot be written: there is no {file.parent}")
        if file.is_dir():
            raise RequestError(f"{file} cannot be written: it is a folder; name a file in it")


def _check_prompt(args: argparse.Namespace, manifest: Manifest) -> None:
    """Raises RequestError for a prompt that this model cannot take."""
    info, vocab = manifest.tokenizer, manifest.config.vocab
    if args.trace is not None and manifest.config.experts is None:
        raise RequestError(f"{manifest.title} has no experts: there is nothing to --trace")
    if args.prompt_ids is not None:
        if max(args.prompt_ids) >= vocab:
            raise RequestError(
                f"--prompt-ids has {max(args.prompt_ids)}: {manifest.title} has {vocab} tokens, "
                f"0 to {vocab - 1}"
            )
    elif info is None:
        raise RequestError(f"{manifest.title} has no tokenizer: give --prompt-ids, not --prompt")
    elif args.chat and info.chat_template is None:
        raise RequestError(
            f"{manifest.title} has no chat template: leave out --chat, and it continues the text"
        )


def generate(job: Job, browser: Browser, terminal: Terminal) -> dict[str, Any]:
    """Runs the job; text goes to the terminal as it comes. Returns what --json prints."""
    folder = job.model
    stages: dict[str, float] = {}
    with Server(folder.parent) as server:
        start = time.monotonic()
        with open_client(server, browser, terminal) as client:
            client.device()
            stages["boot_ms"], start = _since(start), time.monotonic()
            identity = client.fetch(folder, terminal)
            stages["download_ms"], start = _since(start), time.monotonic()
            names = ("context", "batch", "kv", "precision", "ple", "gpu_budget", "host_budget")
            room = {name: getattr(job, name) for name in names}
            loaded = client.load(identity, terminal, **room)
            stages["load_ms"] = _since(start)
            result: dict[str, Any] = {"prompt_ids": [], "generated_ids": [], "text": ""}
            result |= {"reasoning_content": None, "tool_calls": [], "notes": []}
            if job.logits:
                saved = client.save_logits(job.prompt_args(), job.logits)
                result |= {"prompt_ids": saved["prompt_ids"], "logits": str(job.logits)}
                result["finish_reason"] = "length"
            if job.max_tokens > 0:
                result |= _answer(client, job, terminal)
            result["timeline"] = client.timeline()
            if job.trace:
                save_trace(client, job.trace, result, manifest_in(folder))
                result["trace"] = str(job.trace)
    return _report(result, loaded, stages)


def save_trace(client: Client, file: Path, result: dict[str, Any], manifest: Manifest) -> None:
    """Writes which experts were used by the prompt and the answer, but for its last id, which was
    not run. Raises SourceError where the file cannot be written.
    """
    config, experts = manifest.config, manifest.config.experts
    assert experts is not None, "who asks for a trace has experts"
    ids = [*result["prompt_ids"], *result["generated_ids"][:-1]]
    routing = client.call("routes", {"prompt_ids": ids})
    tokens = tuple(tuple(map(tuple, layers)) for layers in routing["tokens"])
    sizes = {it.layer: it.bytes for it in manifest.experts}
    units = tuple(sizes.get(layer, 0) for layer in range(len(config.layers))) if sizes else ()
    counts = len(config.layers), experts.count, experts.used
    write(Trace(manifest.name, *counts, tokens, units=units), file)


def _answer(client: Client, job: Job, terminal: Terminal) -> dict[str, Any]:
    args = job.prompt_args() | {
        "sampling": job.sampling,
        "max_tokens": job.max_tokens,
        "ignore_eos": job.ignore_eos,
        "speculate": job.speculate,
    }
    shown = _Shown(terminal)
    answer: dict[str, Any] = client.call("chat" if job.chat else "complete", args, shown.event)
    for note in answer["notes"]:
        terminal.log(f"\n{note}")
    return answer


class _Shown:
    """An answer on the terminal as it comes: what was thought beside it, calls a line each."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._thinking = False
        self._line = False  # whether one has begun

    def event(self, event: Event) -> None:
        """Shows what an event tells."""
        if event["type"] == "tool_call":
            called = event["call"]["function"]
            given = json.dumps(called["arguments"], ensure_ascii=False)
            begins = "\n" if self._line else ""
            self._write(f"{begins}tool call: {called['name']} {given}\n")
        elif event["type"] == "token" and event["part"] == "reasoning":
            self._thinking = True
            self._terminal.aside(event["text"])
        elif event["type"] == "token" and event["part"] == "answer":
            self._write(event["text"])  # of a call nothing is shown until it is one

    def _write(self, text: str) -> None:
        if self._thinking:
            self._terminal.aside("\n\n")
        self._thinking = False
        self._terminal.write(text)
        self._line = not text.endswith("\n") if text else self._line


def _report(
    result: dict[str, Any], loaded: LoadedModel, stages: dict[str, float]
) -> dict[str, Any]:
    """The fields that DESIGN names; `stages_ms` and `timeline` say where time went before."""
    timings = result.get("timings", {})
    said = ("text", "reasoning_content", "tool_calls", "notes")
    told = ("prompt_ids", "generated_ids", *said, "finish_reason")
    report = {key: result[key] for key in told}
    report["timings"] = {"load_ms": stages["load_ms"], **timings}
    if "drafts" in result:
        report["drafts"] = result["drafts"]
    report["stages_ms"] = {**stages, "load": loaded["timings"]}
    report["timeline"] = result["timeline"]
    report["paging"] = result.get("paging")
    report["memory"] = {"gpu_bytes": result.get("memory", loaded["memory"])}
    report |= {key: result[key] for key in ("logits", "trace") if key in result}
    return report


def _since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
