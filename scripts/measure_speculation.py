"""Decoding without and with drafts, side by side: tokens a second, and tokens a batch.

    .venv/bin/python scripts/measure_speculation.py [models/smollm2-135m-instruct] [--tokens N]

Three texts, from one that repeats itself to one that does not; a line for each, in JSON. Each mode
is run `--runs` times in turn, and the median is told. `cpu_ms_a_step` is the CPU time of the
browser's GPU process, which on a CPU that plays a GPU tells more than the clock if other programs
run (Linux only). `by_longest` and `by_drafts` say what batches would bring if another number of ids
were looked up, or of drafts taken.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from doppler.command.browser import ADAPTERS, find_browser, open_page, resolve_adapter
from doppler.command.generate import Client
from doppler.command.server import Server
from doppler.command.wheel import ROOT, build_wheel
from doppler.engine.speculate import DRAFTS, LONGEST, MODES
from doppler.references import draft
from doppler.store.manifest import MANIFEST_FILE

LINES = """1. The river rises in the hills above the town.
2. It runs past the old mill and the church.
3. Below the bridge it is joined by a smaller stream.
4. It meets the sea near the lighthouse, between two sandy beaches.
"""
CODE = """def total(prices):
    result = 0
    for price in prices:
        result = result + price
    return result


def longest(words):
    result = ""
    for word in words:
        if len(word) > len(result):
            result = word
    return result


"""
TEXTS = {
    "a copy": f"{LINES}\nThe same lines again:\n\n1. The river",
    "code": f"{CODE}def shortest(words):\n",
    "a story": "Once upon a time there was a fox who lived in the woods",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "models/smollm2-135m-instruct"
    parser.add_argument("model", type=Path, nargs="?", default=default)
    parser.add_argument("--adapter", choices=ADAPTERS, default="auto")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    build_wheel()
    with Server(args.model.resolve().parent) as server:
        browser = resolve_adapter(find_browser(adapter=args.adapter), server.url)
        with open_page(server.url, browser) as page:
            client = Client(page)
            url = f"models/{args.model.name}/{MANIFEST_FILE}"
            client.call("load", {"id": client.call("download", {"url": url})["id"]})
            answer(client, TEXTS["a copy"], "on", 16)  # compiles what batches need
            for name, text in TEXTS.items():
                answer(client, text, "off", 1)  # its keys and values are there from now on
                runs = [
                    {mode: answer(client, text, mode, args.tokens) for mode in MODES}
                    for _ in range(args.runs)
                ]
                print(json.dumps({"text": name, **told(runs)}), flush=True)


def answer(client: Client, text: str, mode: str, tokens: int) -> dict[str, Any]:
    before = gpu_seconds()
    found: dict[str, Any] = client.call(
        "complete",
        {
            "prompt": text,
            "max_tokens": tokens,
            "ignore_eos": True,
            "sampling": {"greedy": True},
            "speculate": mode,
        },
    )
    steps = found["drafts"]["batches"] or tokens - 1
    found["cpu_ms"] = 1000 * (gpu_seconds() - before) / (1 + steps)  # one for the prompt's last
    return found


def gpu_seconds() -> float:
    """CPU time that the GPU process of our browser has taken so far; 0 where /proc is not."""
    commands, stats = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stats[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()
            commands[folder.name] = (folder / "cmdline").read_text()
        except OSError:
            continue  # it has ended
    for name, command in commands.items():
        if "--type=gpu-process" in command and str(os.getpid()) in ancestors(name, stats):
            user, system = stats[name][11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def ancestors(name: str, stats: dict[str, list[str]]) -> list[str]:
    """Ids of a process's parent, its parent, and so on."""
    found = []
    while name in stats:
        name = stats[name][1]
        found.append(name)
    return found


def told(runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Median tokens a second of each mode, and what drafts brought."""
    speeds = {mode: median(run[mode]["timings"]["decode_tok_s"] for run in runs) for mode in MODES}
    drafts = {mode: runs[0][mode]["drafts"] for mode in ("on", "auto")}
    same = all(
        run[mode]["generated_ids"] == run["off"]["generated_ids"] for run in runs for mode in MODES
    )
    return {
        "tok_s": {mode: round(speed, 2) for mode, speed in speeds.items()},
        "cpu_ms_a_step": {
            mode: round(median(run[mode]["cpu_ms"] for run in runs)) for mode in ("off", "on")
        },
        "tokens_a_batch": round(drafts["on"]["tokens"] / max(drafts["on"]["batches"], 1), 2),
        "auto": drafts["auto"],
        "same_ids": same,
        "by_longest": {n: brought(runs[0]["off"], n, DRAFTS) for n in (1, 2, 3, 4)},
        "by_drafts": {n: brought(runs[0]["off"], LONGEST, n) for n in (3, 7, 15)},
    }


def brought(answer: dict[str, Any], longest: int, most: int) -> float:
    """Tokens a batch, had it been made of up to `most` drafts for up to `longest` last ids."""
    prompt, out = answer["prompt_ids"], answer["generated_ids"]
    batches, done = 0, 1
    while done < len(out):
        drafts = draft([*prompt, *out[:done]], longest, most)
        pairs = enumerate(zip(drafts, out[done:], strict=False))
        right = next((n for n, (drafted, token) in pairs if drafted != token), len(drafts))
        batches, done = batches + 1, done + right + 1
    return round((len(out) - 1) / batches, 2)


if __name__ == "__main__":
    main()
