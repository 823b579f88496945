"""From an opened page to the first token of a model that is stored already, by stage.

    .venv/bin/python scripts/measure_load.py [models/gemma-3-270m] [--adapter …] [--runs N]

Each run is a browser of its own over the same profile: nothing is fetched but the page itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from doppler.command.browser import ADAPTERS, find_browser, open_page
from doppler.command.generate import Client
from doppler.command.server import Server
from doppler.command.wheel import ROOT, build_wheel
from doppler.manifest import MANIFEST_FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "models/gemma-3-270m")
    parser.add_argument("--adapter", choices=ADAPTERS, default="auto")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    build_wheel()
    browser = find_browser(adapter=args.adapter)
    with Server(args.model.parent) as server, tempfile.TemporaryDirectory() as profile:
        with open_page(server.url, browser, profile=Path(profile)) as page:
            url = f"models/{args.model.name}/{MANIFEST_FILE}"
            identity = Client(page).call("download", {"url": url})["id"]
        for _ in range(args.runs):
            with open_page(server.url, browser, profile=Path(profile)) as page:
                print(stages(Client(page), identity))


def stages(client: Client, identity: str) -> dict[str, float]:
    """Milliseconds of each stage, and of all of them from the opened page on."""
    start = time.monotonic()
    client.call("storage", {})
    boot = 1000 * (time.monotonic() - start)
    loaded = client.call("load", {"id": identity})
    sampling = {"greedy": True}
    answer = client.call("complete", {"prompt_ids": [2], "max_tokens": 1, "sampling": sampling})
    first = answer["timings"]["ttft_ms"]
    times = {"boot": boot, **loaded["timings"], "first token": first}
    return {name: round(ms) for name, ms in {**times, "all": sum(times.values())}.items()}


if __name__ == "__main__":
    main()
