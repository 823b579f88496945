"""Doppler, wllama and transformers.js on the same weights, in the same browser, in turn.

    .venv/bin/python scripts/bench_peers --prepare    # fetches and makes all that a run needs
    .venv/bin/python scripts/bench_peers [--json] [--runs N] [--gguf FILE] [--onnx DIR]

Every engine is timed from its page, by the same clock, through its public way in: greedy, past end
tokens, with another random prompt each time so that nothing can be reused. TTFT is the whole time
of a prompt of --prompt tokens and one token; prefill is those tokens by that time. Decode compares
--tokens tokens after a prompt of --after with one token after it, run by run; where these differ by
less than runs do, it is not told. Load is from an opened page until a prompt can be taken, of a
model that the browser has stored. All are medians. GPU MiB are the
buffers that the page and its workers hold after the runs, and say whether the GPU was used at all.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from aiohttp import web
from playwright.sync_api import BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from doppler import __version__
from doppler.command.browser import ADAPTERS, find_browser, launched, resolve_adapter
from doppler.command.served import MIME, file_under
from doppler.command.server import WEB, Handler, Server
from doppler.command.terminal import Terminal
from doppler.command.wheel import build_wheel
from doppler.errors import DopplerError, SourceError
from peers.prepare import GGUF, ONNX, PACKAGES, PEERS, prepare
from peers.table import Row, Use, as_json, as_table, fallback

HERE = Path(__file__).parent
COUNT = HERE / "count.js"
VERSIONS = {
    "doppler": __version__,
    "wllama": PACKAGES["wllama"].version,
    "transformers": PACKAGES["transformers"].version,
}
NAMES = {"doppler": "Doppler", "wllama": "wllama", "transformers": "transformers.js"}
SETTLE_MS = 2000  # after a model was stored: caches are written when the page has time
NOISE = "decode is lost in the noise: {tokens} tokens took {more:.1f} ms more than one; try more"
CONTEXT = 1024  # tokens that every engine makes room for, or as many as a run needs
CALL = """async ([seconds, step, ...args]) => {
  const engines = await import("/peers/engines.js");
  const error = new Error(`${step} took more than ${seconds} seconds`);
  const late = (_, reject) => setTimeout(reject, 1000 * seconds, error);
  return Promise.race([engines[step](...args), new Promise(late)]);
}"""
ADAPTER = """async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  const { vendor, architecture, description } = adapter?.info ?? {};
  return { vendor, architecture, description, f16: !!adapter?.features.has("shader-f16") };
}"""


class PeerServer(Server):
    """Doppler's page, the GGUF under /models/, and under /peers/ what other engines load.

    Their page, /peers/page, is empty and has no content security policy: peers run as they ship.
    """

    def __init__(self, gguf: Path, onnx: Path | None) -> None:
        super().__init__(gguf.parent)
        self._roots = {"packages": PEERS / "packages"} | ({"onnx": onnx.parent} if onnx else {})
        self._app.middlewares.append(self._more)

    @web.middleware
    async def _more(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/worker.js":  # the one worker that is not made from a blob
            text = COUNT.read_text("utf-8") + (WEB / "worker.js").read_text("utf-8")
            return web.Response(text=text, content_type="text/javascript")
        if request.path == "/peers/page":
            empty = {"Content-Security-Policy": ""}
            return web.Response(text="<!doctype html>", content_type="text/html", headers=empty)
        if request.path.startswith("/peers/"):
            return self._peer(request.path.removeprefix("/peers/"))
        return await handler(request)

    def _peer(self, path: str) -> web.StreamResponse:
        kind, _, rest = path.partition("/")
        root, path = (self._roots[kind], rest) if kind in self._roots else (HERE, path)
        file = file_under(root, path)
        if file is None:
            raise web.HTTPNotFound(text=f"there is no {path} here\n")
        kind = MIME.get(file.suffix, "application/octet-stream")
        return web.FileResponse(file, headers={"Content-Type": kind})


@dataclass(frozen=True)
class Plan:
    """What each engine does; lengths in tokens.

    limit: seconds for each step; site: what engines.js takes; weights: bytes of the engine's file.
    """

    prompt: int
    after: int
    tokens: int
    runs: int
    limit: int
    f16: bool
    site: Mapping[str, Any]
    weights: Mapping[str, int]


def prompt_ids(number: int, length: int) -> list[int]:
    """Random ids, of any vocabulary, behind Gemma's first token; another number, another prompt."""
    draw = random.Random(number)
    return [2, *(draw.randrange(10, 250) for _ in range(length - 1))]


def measure(context: BrowserContext, url: str, engine: str, plan: Plan) -> Row:
    """One engine, from storing its model to its figures."""
    name = f"{NAMES[engine]} {VERSIONS[engine]}"
    if engine not in plan.weights:
        return Row(name, {}, None, "not run: no ONNX files of these weights; give --onnx DIR")
    try:
        page = opened(context, url, engine)
        page.evaluate(CALL, [plan.limit, "store", engine, plan.site])
        page.wait_for_timeout(SETTLE_MS)
        page.close()
        page = opened(context, url, engine)
        load = page.evaluate(CALL, [plan.limit, "load", engine, plan.site])
        figures, use, unmeasured = timed(page, engine, plan)
        page.close()
    except PlaywrightError as error:
        reason = error.message.splitlines()[0].removeprefix("Page.evaluate: ")
        return Row(name, {}, None, f"failed: {reason.removeprefix('Error: ')}")
    tokens = plan.runs * (plan.tokens + 2)
    problem = fallback(use, plan.weights[engine], tokens, plan.f16)
    return Row(name, {**figures, "load_ms": load}, use, problem, unmeasured)


def opened(context: BrowserContext, url: str, engine: str) -> Page:
    page = context.new_page()
    page.goto(url if engine == "doppler" else f"{url}peers/page")
    return page


def beyond_noise(one: Sequence[float], whole: Sequence[float]) -> tuple[float, bool]:
    """By how much the runs of `whole` took longer than those of `one` beside them: the median, and
    whether it is more than such differences stray from it.
    """
    more = [b - a for a, b in zip(one, whole, strict=True)]
    typical = median(more)
    return typical, typical > median(abs(it - typical) for it in more)


def timed(page: Page, engine: str, plan: Plan) -> tuple[dict[str, float], Use, str | None]:
    """Medians of the runs, after one that is not counted; and what they do not tell."""
    kinds = {"first": (plan.prompt, 1), "one": (plan.after, 1), "all": (plan.after, plan.tokens)}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    submits = 0
    for run in range(plan.runs + 1):
        if run == 1:  # all before was the warm-up
            submits = page.evaluate("gpuCounts()")["submits"]
            times = {kind: [] for kind in kinds}
        for place, (kind, (length, tokens)) in enumerate(kinds.items()):
            ids = prompt_ids(run * len(kinds) + place, length)
            times[kind].append(page.evaluate(CALL, [plan.limit, "time", engine, ids, tokens]))
    counts = page.evaluate("gpuCounts()")
    ttft = median(times["first"])
    figures = {
        "ttft_ms": ttft,
        "prefill_tok_s": 1000 * plan.prompt / ttft,
        "gpu_mib": counts["bytes"] / 2**20,
    }
    more, is_told = beyond_noise(times["one"], times["all"])
    if is_told:
        figures["decode_tok_s"] = 1000 * (plan.tokens - 1) / more
    use = Use(counts["bytes"], counts["submits"] - submits, counts["adapter"])
    return figures, use, None if is_told else NOISE.format(tokens=plan.tokens, more=more)


def run(args: argparse.Namespace, terminal: Terminal) -> None:
    """All engines in one browser; prints the table or the object."""
    gguf = (args.gguf or GGUF).resolve()
    onnx = args.onnx.resolve() if args.onnx else ONNX if args.gguf is None else None
    for path in filter(None, (gguf, onnx, PEERS / "packages")):
        if not path.exists():
            raise SourceError(f"{path} is not there: run bench_peers --prepare first")
    build_wheel()
    with PeerServer(gguf, onnx) as server:
        browser = resolve_adapter(find_browser(args.browser, args.adapter), server.url)
        with sync_playwright() as playwright, launched(playwright, browser, None) as context:
            context.add_init_script(path=COUNT)
            adapter = adapter_of(context, server.url)
            plan = planned(args, gguf, onnx, adapter["f16"])
            rows = []
            for engine in NAMES:
                terminal.log(f"{NAMES[engine]} …")
                rows.append(measure(context, server.url, engine, plan))
                terminal.log(f"  {rows[-1].problem or 'ran on the GPU'}: {dict(rows[-1].figures)}")
            version = context.browser.version if context.browser else "?"
    what = {"model": gguf.name, "browser": version, "adapter": adapter}
    what |= {name: getattr(args, name) for name in ("prompt", "after", "tokens", "runs")}
    heading = (
        f"{gguf.name}, Chromium {version}, {adapter['vendor']} {adapter['architecture']} "
        f"{'with' if adapter['f16'] else 'without'} shader-f16; prefill of {args.prompt}, "
        f"decode of {args.tokens} after {args.after}, medians of {args.runs}"
    )
    terminal.result({**what, **as_json(rows)}, f"{heading}\n\n{as_table(rows)}")


def adapter_of(context: BrowserContext, url: str) -> dict[str, Any]:
    page = context.pages[0]
    page.goto(f"{url}peers/page")
    adapter: dict[str, Any] = page.evaluate(ADAPTER)
    return adapter


def planned(args: argparse.Namespace, gguf: Path, onnx: Path | None, f16: bool) -> Plan:
    kind = "q4f16" if f16 else "q4"
    weights = dict.fromkeys(("doppler", "wllama"), gguf.stat().st_size)
    site: dict[str, Any] = {"gguf": f"/models/{gguf.name}"}
    if onnx:
        weights["transformers"] = (onnx / "onnx" / f"model_{kind}.onnx").stat().st_size
        site |= {"onnx": f"/peers/onnx/{onnx.name}", "dtype": kind}
    site["context"] = max(CONTEXT, args.prompt + 1, args.after + args.tokens)
    return Plan(args.prompt, args.after, args.tokens, args.runs, args.limit, f16, site, weights)


def main() -> int:
    """Exit code 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="bench_peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prepare", action="store_true", help="make .cache/peers and end")
    parser.add_argument("--synth", action="store_true", help="and a Gemma 3 1B of random weights")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--gguf", type=Path, help="another model, for Doppler and wllama")
    parser.add_argument("--onnx", type=Path, help="folder with its ONNX files for transformers.js")
    parser.add_argument("--browser", metavar="PATH", help="else DOPPLER_BROWSER, PATH, Chrome")
    parser.add_argument("--adapter", choices=ADAPTERS, default="auto")
    parser.add_argument("--prompt", type=int, default=512, help="tokens to prefill")
    parser.add_argument("--after", type=int, default=128, help="tokens before the decoded ones")
    parser.add_argument("--tokens", type=int, default=128, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=300, help="seconds for each step of an engine")
    args = parser.parse_args()
    terminal = Terminal(args.json)
    try:
        if args.prepare:
            sizes = prepare(terminal, args.synth)
            text = "\n".join(f"{size:>12,} {name}" for name, size in sizes.items())
            terminal.result({"files": sizes}, text)
        else:
            run(args, terminal)
    except DopplerError as error:
        print(f"bench_peers: {error}", file=sys.stderr)
        return 1
    return 0
