"""Tokens a second of a model in budgets, beside what the model of cost predicts for the same run.

    .venv/bin/python scripts/compare_paging.py MODEL --budgets 8GB 6GB [--prompt 32] [--tokens 64]

The model is loaded with all of it on the GPU first, which must fit; then in each budget, in the
same page, once the host's memory has been filled. Predicted is what residency/cost.py makes of the
speed when all is there, of what an answer brought by tier, and of the rates at which it came; a
share below 80 % is more than that explains. Routers of random weights choose nearly the same
experts for every token: --profile makes them choose as a text's do, by the simulator's figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

from doppler.command.arguments import add_page_options, byte_count, positive
from doppler.command.browser import find_browser, resolve_adapter
from doppler.command.client import Client, open_client
from doppler.command.models import find_model
from doppler.command.served import manifest_in
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.command.wheel import ROOT, build_wheel
from doppler.errors import DopplerError
from doppler.residency.cost import DEFAULT_RATES, Demand, Rates, token_time
from doppler.residency.synthetic import PROFILES
from doppler.residency.tiers import TIERS
from synthetic_router import router_source

ROUTE = ROOT / "web" / "kernels" / "moe" / "route.wgsl"
LEAST = 0.8  # of what is predicted


@dataclass(frozen=True)
class Run:
    """An answer: its speed, and what it asked of paging, for a token."""

    speed: float
    hit_rate: float
    demand: Demand
    rates: Rates
    halt_ms: float = 0.0  # on the host, with what was waited for

    @classmethod
    def of(cls, client: Client, prompt: int, tokens: int) -> Run:
        """The second of two answers to `prompt` tokens: the first brings what the text uses."""
        args = {"max_tokens": tokens, "ignore_eos": True, "speculate": "off"}
        args |= {"sampling": {"seed": 1}}
        ids = [1 + index % 1000 for index in range(prompt)]
        for asked in ([*ids, 1], ids):
            answer = client.call("complete", {**args, "prompt_ids": asked})
        return cls._of(answer, tokens)

    @classmethod
    def _of(cls, answer: dict[str, Any], tokens: int) -> Run:
        speed, paging = answer["timings"]["decode_tok_s"], answer["paging"]
        if paging is None:
            return cls(speed, 1.0, Demand(), DEFAULT_RATES)
        moved, waited = paging["bytes"], paging["waited_ms"]
        rates = {
            rate: 1000 * moved[tier] / waited[tier]
            for rate, tier in (("upload", "host"), ("storage", "storage"))
            if moved[tier] and waited[tier]
        }
        missed = {tier: moved[tier] / tokens for tier in TIERS}
        demand = Demand(
            halts=paging["replays"] / tokens,
            missed={**missed, "host": missed["host"] + paging["kv_brought"] / tokens},
        )
        uses = paging["hits"] + paging["misses"]
        hit_rate = paging["hits"] / uses if uses else 0.0  # of a dense model
        halted = paging["halted_ms"] / paging["replays"] if paging["replays"] else 0.0
        return cls(speed, hit_rate, demand, Rates(**rates), halted)

    def line(self, name: str, resident: float) -> str:
        """For people: what was measured, what was predicted, and the one over the other."""
        predicted = token_time(resident, self.demand, self.rates).tokens_a_second
        return (
            f"{name:>10}  {self.speed:8.2f} tok/s  hits {100 * self.hit_rate:5.1f} %  "
            f"{self.demand.halts:6.1f} halts of {self.halt_ms:5.1f} ms and "
            f"{self.demand.moved / 1e6:8.2f} MB a token  "
            f"predicted {predicted:8.2f} tok/s  {100 * self.speed / predicted:4.0f} %"
        )


def fill_host(client: Client) -> None:
    """Returns when nothing more comes into the host's memory."""
    before = -1
    while (held := client.call("residency", {})["host_bytes"]) != before:
        before = held
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--budgets", type=byte_count, nargs="+", required=True)
    parser.add_argument("--prompt", type=positive, default=32)
    parser.add_argument("--tokens", type=positive, default=64)
    parser.add_argument("--profile", choices=sorted(PROFILES))
    add_page_options(parser)
    args = parser.parse_args()
    folder, terminal = find_model(args.model), Terminal(as_json=True)
    worst = 1.0
    build_wheel()
    with Server(folder.parent) as server:
        browser = resolve_adapter(find_browser(args.browser, args.adapter), server.url)
        with open_client(server, browser, terminal) as client:
            identity = client.fetch(folder, terminal)
            room = {"context": args.context, "kv": args.kv, "host_budget": args.host_budget}
            client.load(identity, terminal, **room)
            whole = Run.of(client, args.prompt, args.tokens)
            print(whole.line("all", whole.speed))
            if args.profile:
                config = manifest_in(folder).config
                layers = sum(config.mixture(it) is not None for it in range(len(config.layers)))
                source = router_source(ROUTE.read_text(), layers, PROFILES[args.profile])
                client.call("replace_kernel", {"kernel": "route", "source": source})
            for budget in args.budgets:
                client.load(identity, terminal, gpu_budget=budget, **room)
                fill_host(client)
                run = Run.of(client, args.prompt, args.tokens)
                print(run.line(f"{budget / 1e6:,.0f} MB", whole.speed))
                predicted = token_time(whole.speed, run.demand, run.rates).tokens_a_second
                worst = min(worst, run.speed / predicted)
    return 0 if worst >= LEAST else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DopplerError as error:
        sys.exit(f"compare_paging: {error}")
