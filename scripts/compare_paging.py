"""Tokens a second of a mixture in budgets, beside what the model of cost predicts for the same run.

    .venv/bin/python scripts/compare_paging.py MODEL --budgets 8GB 6GB [--tokens 64]

The model is loaded with all of its experts first, which must fit; then in each budget, in the same
page. Predicted is what residency/cost.py makes of the speed when all is there, of what an answer
brought by tier, and of the rates at which it came; a share below 80 % is more than that explains.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from doppler.command.arguments import add_page_options, byte_count, positive
from doppler.command.browser import find_browser, resolve_adapter
from doppler.command.client import Client, open_client
from doppler.command.models import find_model
from doppler.command.server import Server
from doppler.command.terminal import Terminal
from doppler.errors import DopplerError
from doppler.residency.cost import DEFAULT_RATES, Demand, Rates, token_time
from doppler.residency.tiers import TIERS

LEAST = 0.8  # of what is predicted
PROMPT = list(range(1, 33))


@dataclass(frozen=True)
class Run:
    """An answer: its speed, and what it asked of paging, for a token."""

    speed: float
    hit_rate: float
    demand: Demand
    rates: Rates

    @classmethod
    def of(cls, client: Client, tokens: int) -> Run:
        """The second of two answers: the first brings what the text uses."""
        args = {"max_tokens": tokens, "ignore_eos": True, "speculate": "off"}
        args |= {"sampling": {"seed": 1}}
        for ids in ([*PROMPT, 1], PROMPT):
            answer = client.call("complete", {**args, "prompt_ids": ids})
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
        demand = Demand(
            halts=paging["replays"] / tokens,
            missed={tier: moved[tier] / tokens for tier in TIERS},
        )
        uses = paging["hits"] + paging["misses"]
        return cls(speed, paging["hits"] / uses, demand, Rates(**rates))

    def line(self, name: str, resident: float) -> str:
        """For people: what was measured, what was predicted, and the one over the other."""
        time = token_time(resident, self.demand, self.rates)
        return (
            f"{name:>10}  {self.speed:8.2f} tok/s  hits {100 * self.hit_rate:5.1f} %  "
            f"{self.demand.halts:6.1f} halts and {self.demand.moved / 1e6:8.2f} MB a token  "
            f"predicted {time.tokens_a_second:8.2f} tok/s  "
            f"{100 * self.speed / time.tokens_a_second:4.0f} %"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--budgets", type=byte_count, nargs="+", required=True)
    parser.add_argument("--tokens", type=positive, default=64)
    add_page_options(parser)
    args = parser.parse_args()
    folder, terminal = find_model(args.model), Terminal(as_json=True)
    worst = 1.0
    with Server(folder.parent) as server:
        browser = resolve_adapter(find_browser(args.browser, args.adapter), server.url)
        with open_client(server, browser, terminal) as client:
            identity = client.fetch(folder, terminal)
            room = {"context": args.context, "kv": args.kv, "host_budget": args.host_budget}
            client.load(identity, terminal, **room)
            whole = Run.of(client, args.tokens)
            print(whole.line("all", whole.speed))
            for budget in args.budgets:
                client.load(identity, terminal, gpu_budget=budget, **room)
                run = Run.of(client, args.tokens)
                print(run.line(f"{budget / 1e6:,.0f} MB", whole.speed))
                predicted = token_time(whole.speed, run.demand, run.rates).tokens_a_second
                worst = min(worst, run.speed / predicted)
    return 0 if worst >= LEAST else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DopplerError as error:
        sys.exit(f"compare_paging: {error}")
