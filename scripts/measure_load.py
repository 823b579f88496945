"""From an opened page to the first token of a model that is stored already, by stage.

    .venv/bin/python scripts/measure_load.py [models/gemma-3-270m] [--adapter …] [--runs N]

Each run is a browser of its own over the same profile: nothing is fetched but the page itself. The
model is asked for as soon as the page can be; stages overlap, and are told by beginning and end, in
milliseconds since the page was opened.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from doppler.command.browser import ADAPTERS, find_browser, open_page, resolve_adapter
from doppler.command.generate import Client
from doppler.command.server import Server
from doppler.command.wheel import ROOT, build_wheel
from doppler.manifest import MANIFEST_FILE

START = """async ([id, tokens]) => {
  const prompt_ids = Array(tokens).fill(2);
  await doppler.call("load", { id });
  await doppler.call("complete", { prompt_ids, max_tokens: 1, sampling: { greedy: true } });
  return doppler.timeline;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models/gemma-3-270m")
    parser.add_argument("--adapter", choices=ADAPTERS, default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=1, help="tokens")
    args = parser.parse_args()
    build_wheel()
    with Server(args.model.parent) as server, tempfile.TemporaryDirectory() as profile:
        browser = resolve_adapter(find_browser(adapter=args.adapter), server.url)
        with open_page(server.url, browser, profile=Path(profile)) as page:
            client = Client(page)
            identity = client.call(
                "download", {"url": f"models/{args.model.name}/{MANIFEST_FILE}"}
            )["id"]
            load = client.call("load", {"id": identity})  # the browser keeps what it compiled
            print(json.dumps({"first visit": load["timings"]}))
            page.wait_for_timeout(2000)  # caches are written when the page has time
        for _ in range(args.runs):
            with open_page(server.url, browser, profile=Path(profile)) as page:
                print(told(page.evaluate(START, [identity, args.prompt])), flush=True)


def told(timeline: list[dict[str, Any]]) -> str:
    """One line of JSON: each stage's beginning and end, and the end of the last."""
    stages = {stage["stage"]: [stage["start"], stage["end"]] for stage in timeline}
    return json.dumps({**stages, "all": max(end for _, end in stages.values())})


if __name__ == "__main__":
    main()
