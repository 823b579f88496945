"""What a bench measures, in order: the start, then prefill, decode and what a token takes.

Everything is asked of the real page through `window.doppler`, as a person's browser would be. A
GPU at rest runs at a fraction of its clock, so each figure comes after a second of the same work.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from doppler.api.messages import LoadedModel
from doppler.command.bench.card import Card, watched_card
from doppler.command.bench.counters import Counters, per_token
from doppler.command.bench.kernel_times import lines
from doppler.command.browser import Browser, resolve_adapter
from doppler.command.client import Client, open_client
from doppler.command.served import manifest_in
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import RequestError
from doppler.store.manifest import Manifest

MEMORY_CONTEXT = 4096  # tokens of context for which memory is told
WARM_SECONDS = 1.0
SETTLE_MS = 2000  # after the first visit: the browser keeps compiled code when it has time
PROFILE_BATCH = 512
# No drafts: what is measured is a token, not what a text of random ids repeats. Nor a penalty that
# a model's files may ask for: figures are compared.
GREEDY = {
    "sampling": {"greedy": True, "repetition_penalty": 1},
    "ignore_eos": True,
    "speculate": "off",
}


@dataclass(frozen=True)
class Bench:
    """What to measure. `model` is its folder, lengths are tokens.

    `context` None is as long as the rest needs.
    """

    model: Path
    prompts: tuple[int, ...] = (128, 512, 2048)
    tokens: int = 200
    contexts: tuple[int, ...] = (128, 2048, 8192)
    context: int | None = None
    runs: int = 5
    kv: str | None = None
    precision: str | None = None
    ple: str | None = None
    gpu_budget: int | None = None
    host_budget: int | None = None
    profile: bool = False

    def check(self) -> None:
        """Raises RequestError for what cannot be measured."""
        for name, values in (("--prompt", self.prompts), ("--contexts", self.contexts)):
            if min(values) < 1:
                raise RequestError(f"{name} is {min(values)}: give 1 token or more")
        if self.tokens < 2:
            raise RequestError(f"--tokens is {self.tokens}: a rate takes 2 or more")
        if self.runs < 1:
            raise RequestError(f"--runs is {self.runs}: give 1 or more")

    def needed(self, most: int) -> int:
        """The context to load with, of `most` that the model allows."""
        longest = max(max(self.prompts) + 1, max(self.contexts) + self.tokens)
        return self.context or min(longest, most)


def bench(job: Bench, browser: Browser, terminal: Terminal) -> dict[str, Any]:
    """Measures; lines of progress go to the terminal. Returns what --json prints."""
    job.check()
    folder = job.model
    manifest = manifest_in(folder)
    with (
        Server(folder.parent) as server,
        tempfile.TemporaryDirectory(prefix="doppler-bench-", ignore_cleanup_errors=True) as profile,
        watched_card() as card,
    ):
        browser = resolve_adapter(browser, server.url)

        def visit() -> AbstractContextManager[Client]:
            return open_client(server, browser, terminal, profile=Path(profile))

        result = {"model": _described(manifest)}
        with visit() as client:
            result |= _environment(client, card)
            identity = client.fetch(folder, terminal)
            context = min(MEMORY_CONTEXT, manifest.config.context)
            room = {"context": context, "kv": job.kv, "precision": job.precision, "ple": job.ple}
            room |= {"gpu_budget": job.gpu_budget, "host_budget": job.host_budget}
            bandwidth = client.call("bandwidth", {})  # for which a budget would have no room
            terminal.log(f"memory reads: {bandwidth['gb_s']:,.1f} GB/s")
            client.load(identity, terminal, **room)
            client.call("tune", {})
            client.page.wait_for_timeout(SETTLE_MS)
        started = []
        for left in reversed(range(job.runs)):
            with visit() as client:
                started.append(_start(client, identity, terminal, room))
                if left:
                    continue
                result |= _started(started, context, terminal)
                room["context"] = job.needed(manifest.config.context)
                loaded = client.load(identity, terminal, **room)
                result |= Measuring(job, client, loaded, bandwidth, card, terminal).all()
        return result | {"load": _load(result)}


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "title": manifest.title,
        "id": manifest.identity,
        "architecture": manifest.config.architecture,
        "quantization": manifest.quantization,
        "parameters": manifest.parameters,
        "bytes": manifest.bytes,
    }


def _environment(client: Client, card: Card | None) -> dict[str, Any]:
    device, session = client.device(), client.page.context.new_cdp_session(client.page)
    return {
        "browser": session.send("Browser.getVersion")["product"],
        "adapter": device["adapter"],
        "features": device["features"],
        "card": card.name if card else None,
    }


def _start(
    client: Client, identity: str, terminal: Terminal, room: dict[str, Any]
) -> dict[str, Any]:
    """From an opened page to the first token of a stored model, asked for at once."""
    client.load(identity, terminal, **room)
    answer = client.call("complete", {"prompt_ids": [1], "max_tokens": 1, **GREEDY})
    timeline = client.timeline()
    total = max(stage["end"] for stage in timeline)
    return {"total_ms": total, "timeline": timeline, "memory": answer["memory"]}


def _started(starts: list[dict[str, Any]], context: int, terminal: Terminal) -> dict[str, Any]:
    """The start that took the median time, and the memory after it."""
    starts = sorted(starts, key=lambda start: start["total_ms"])
    typical, totals = starts[len(starts) // 2], [start["total_ms"] for start in starts]
    memory = typical["memory"]
    ratio = memory["total"] / (memory["weights"] + memory["kv"])
    terminal.log(f"start: {typical['total_ms']:,} ms, {memory['total'] / 1e6:,.0f} MB")
    return {
        "start": {
            **_spread("total_ms", totals),
            "timeline": typical["timeline"],
        },
        "memory": {"context": context, **memory, "ratio": round(ratio, 4)},
    }


def _load(result: dict[str, Any]) -> dict[str, Any]:
    """The rate at which the typical start brought the weights, beside that of storage alone."""
    stage = next(s for s in result["start"]["timeline"] if s["stage"] == "weights")
    gb_s = result["model"]["bytes"] / (stage["end"] - stage["start"]) / 1e6
    return {"gb_s": round(gb_s, 3), "storage_share": round(gb_s / result["storage"]["gb_s"], 4)}


class Measuring:
    """One loaded model, measured."""

    def __init__(
        self,
        job: Bench,
        client: Client,
        loaded: LoadedModel,
        bandwidth: dict[str, Any],
        card: Card | None,
        terminal: Terminal,
    ) -> None:
        self._job, self._client, self._loaded = job, client, loaded
        self._bandwidth, self._card, self._terminal = bandwidth, card, terminal
        self._random = random.Random(0)

    def all(self) -> dict[str, Any]:
        """Every figure that needs the loaded model."""
        room, job = self._loaded["context"], self._job
        bandwidth = self._bandwidth
        storage = self._client.call("storage_rate", {})
        self._terminal.log(f"storage reads: {storage['gb_s']:,.2f} GB/s")
        result: dict[str, Any] = {
            "context": room,
            "batch": self._loaded["batch"],
            "kv": self._loaded["kv"],
            "precision": self._loaded["precision"],
            "ple": self._loaded["ple"],
            "runs": job.runs,
            "tokens": job.tokens,
            "bandwidth": bandwidth,
            "storage": storage,
            "prefill": [self._prefill(n) for n in self._fitting(job.prompts, room - 1)],
            "decode": [],
        }
        fitting = self._fitting(job.contexts, room - job.tokens)
        for context in fitting:
            result["decode"].append(self._decode(context, bandwidth["gb_s"]))
        for entry in result["decode"]:
            entry["share"] = round(entry["tok_s"] / result["decode"][0]["tok_s"], 4)
        if fitting:
            result["per_token"] = self._per_token(fitting[0])
        if job.profile:
            result["profile"] = self._profile(bandwidth["gb_s"])
        return result

    def _fitting(self, lengths: Iterable[int], most: int) -> list[int]:
        for length in lengths:
            if length > most:
                self._terminal.log(f"{length} tokens are left out: there is room for {most}")
        return sorted(length for length in lengths if length <= most)

    def _prompt(self, tokens: int) -> list[int]:
        """Token ids that the KV cache has not seen."""
        return [self._random.randrange(self._loaded["config"]["vocab"]) for _ in range(tokens)]

    def _prefill(self, tokens: int) -> dict[str, Any]:
        answers, clock = self._runs(lambda: self._complete(self._prompt(tokens), 1))
        entry = {
            "tokens": tokens,
            **_timing(answers, "prefill_tok_s", "tok_s"),
            **_timing(answers, "ttft_ms", "ttft_ms"),
            "sm_clock_mhz": clock,
        }
        self._terminal.log(
            f"prefill {tokens}: {entry['tok_s']:,.0f} tok/s, {entry['ttft_ms']:,.1f} ms"
        )
        return entry

    def _decode(self, context: int, ceiling: float) -> dict[str, Any]:
        prompt, tokens = self._prompt(context), self._job.tokens
        answers, clock = self._runs(lambda: self._complete(prompt, tokens))
        entry = {"context": context, **_timing(answers, "decode_tok_s", "tok_s")}
        # Bytes of the token in the middle: the cache grows as tokens are written.
        entry |= _bytes(self._client.call("plan", {"tokens": context + tokens // 2}))
        gb_s = (entry["weight_bytes"] + entry["kv_bytes"]) * entry["tok_s"] / 1e9
        entry |= {"gb_s": round(gb_s, 3), "bandwidth_share": round(gb_s / ceiling, 4)}
        self._terminal.log(f"decode at {context}: {entry['tok_s']:,.1f} tok/s")
        return {**entry, "sm_clock_mhz": clock}

    def _per_token(self, context: int) -> dict[str, Any]:
        """Counted while tokens are decoded; those of the prompt are taken off."""
        counters, prompt, tokens = Counters(self._client.page), self._prompt(context), 0
        counts = []
        # The first fills the cache, the second records what runs a prompt's last token alone.
        for tokens in (1, 1, 1, self._job.tokens):
            before = counters.now()
            self._complete(prompt, tokens)
            counts.append({name: n - before[name] for name, n in counters.now().items()})
        plan = self._client.call("plan", {"tokens": context})
        return {"context": context, **per_token(counts[-2], counts[-1], tokens - 1), **_bytes(plan)}

    def _profile(self, ceiling: float) -> dict[str, Any]:
        job, room = self._job, self._loaded["context"]
        seen = min(min(job.contexts), room - 1)
        batch = min(PROFILE_BATCH, self._loaded["batch"])
        tables = {}
        for name, args in (
            ("decode", {"tokens": seen, "batch": 1}),
            ("prefill", {"tokens": 0, "batch": batch}),
        ):
            self._terminal.log(f"kernel times of {name}")
            tables[name] = {**args, "kernels": lines(self._client.call("profile", args), ceiling)}
        return tables

    def _complete(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        args = {"prompt_ids": prompt, "max_tokens": tokens, **GREEDY}
        answer: dict[str, Any] = self._client.call("complete", args)
        return answer

    def _runs(self, run: Callable[[], dict[str, Any]]) -> tuple[list[dict[str, Any]], int | None]:
        """The answers of as many runs as asked for, and the card's clock meanwhile."""
        warm = time.monotonic() + WARM_SECONDS
        run()
        while time.monotonic() < warm:
            run()
        start = time.monotonic()
        answers = [run() for _ in range(self._job.runs)]
        return answers, self._card.clock_since(start) if self._card else None


def _timing(answers: list[dict[str, Any]], timing: str, name: str) -> dict[str, float]:
    return _spread(name, [answer["timings"][timing] for answer in answers])


def _spread(name: str, values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    figures = {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    return {key: round(value, 3) for key, value in figures.items()}


def _bytes(plan: list[dict[str, Any]]) -> dict[str, int]:
    """What a plan's dispatches read: weights, and keys and values."""
    kv = sum(work["bytes"] for work in plan if work["kernel"].startswith("attention"))
    return {"weight_bytes": sum(work["bytes"] for work in plan) - kv, "kv_bytes": kv}
