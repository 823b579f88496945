"""Replays traces of experts over policies and budgets: hits, bytes a token, tokens a second.

    .venv/bin/python scripts/replay_traces.py [TRACE.jsonl ...] [--plot docs/paging.svg]
    .venv/bin/python scripts/replay_traces.py --table fit | ageing | predictions | large

Without traces, synthetic ones of three shapes are replayed. `doppler generate --trace` writes those
of models that run. One that is none of these shapes gets budgets for a half and for a quarter of
its experts, whose sizes the trace has, and is taken to make --resident tokens a second if it fits.
Of the tables, `fit` says how close the synthetic router is to what was published, `ageing` how fast
LFU should forget, `predictions` how good these must be, and `large` what 100 GB would do on 16 GB.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from doppler.command.bench.plot import Bar, Panel, picture
from doppler.command.shapes import SHAPES
from doppler.command.synth import type_of
from doppler.errors import RequestError
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.residency.belady import Belady
from doppler.residency.cost import DEFAULT_RATES, Rates, token_time
from doppler.residency.foresight import foresee
from doppler.residency.locality import any_repeated, of_layer, repeated_within, share_of_busiest
from doppler.residency.mixture import Mixture, slots
from doppler.residency.policy import LFU, LRU, POLICIES, LeastStale, Policy, policy
from doppler.residency.simulate import Replay, replay
from doppler.residency.synthetic import PROFILES, foretell, joined, synthesize
from doppler.residency.trace import Trace, read

GB = 10**9
BESIDE = GB // 2  # of a budget: keys, values, activations, staging
WARM = 64  # tokens that fill the slots and are not counted
SUBJECTS, TOKENS = 3, 192  # texts of a synthetic conversation, and tokens of each
RECALL, PRECISION = 0.9, 0.9  # of predictions
EXPERT = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down)\.\d+\.")
# Tokens a second when all fits: docs/benchmarks.md, H100; that of Gemma 4 26B-A4B is assumed.
RESIDENT = {"gemma-4-26b-a4b": 200.0, "gpt-oss-20b": 390.0, "mixtral-8x7b": 179.0}
BUDGETS = {"gemma-4-26b-a4b": (8.0, 6.0), "gpt-oss-20b": (7.5, 5.0), "mixtral-8x7b": (12.0, 8.1)}
ASSUMED = 100.0  # of any other model
KINDS = {
    "gemma-4-26b-a4b": ("local", "flat"),
    "gpt-oss-20b": ("local", "flat"),
    "mixtral-8x7b": ("mixtral",),
}


@dataclass(frozen=True)
class Case:
    """A mixture, its speed when all fits, and budgets for its experts: what to call each, bytes."""

    mixture: Mixture
    resident: float
    budgets: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Row:
    """One policy on one trace in one budget."""

    policy: str
    result: Replay
    speed: float

    @property
    def cells(self) -> str:
        demand = self.result.demand
        return (
            f"{self.result.hit_rate:.1%} | {demand.halts:.1f} | {demand.moved / 1e6:,.0f} | "
            f"{self.speed:.1f}"
        )


def mixture_of(shape: str) -> tuple[Mixture, int]:
    """A shape's experts, and the bytes of all else, in the block types that files have."""
    config = SHAPES[shape]
    if config.experts is None:
        raise RequestError(f"{shape} has no experts")
    count, used = config.experts.count, config.experts.used
    sums, beside = [0] * len(config.layers), 0
    for name, extents in config.tensor_shapes().items():
        block = BLOCK_TYPES[type_of(config, name, extents)]
        size = prod(extents) // block.elements * block.bytes
        found = EXPERT.match(name)
        if found:
            sums[int(found[1])] += size
        else:
            beside += size
    return Mixture(count, used, tuple(size // count for size in sums)), beside


def conversation(shape: str, kind: str) -> Trace:
    """A synthetic trace: a conversation of three subjects, each with popular experts of its own."""
    mixture, _ = mixture_of(shape)
    texts = [
        synthesize(
            shape,
            mixture.layers,
            mixture.experts,
            mixture.used,
            profile=PROFILES[kind],
            tokens=TOKENS,
            seed=seed,
        )
        for seed in range(SUBJECTS)
    ]
    return joined(texts)


def case_of(trace: Trace, resident: float) -> Case:
    """What a trace is replayed in. Raises RequestError where its experts' sizes are not known."""
    if trace.model in BUDGETS:
        mixture, beside = mixture_of(trace.model)
        budgets = [(f"{it:g} GB", int(it * GB) - beside - BESIDE) for it in BUDGETS[trace.model]]
        return Case(mixture, RESIDENT[trace.model], budgets)
    if not trace.units:
        raise RequestError(
            f"{trace.model!r} is none of {', '.join(BUDGETS)}, and its trace does not say how many "
            "bytes its experts have; write it with `doppler generate --trace`"
        )
    mixture = Mixture(trace.experts, trace.used, trace.units)
    shares = {"a half of the experts": 2, "a quarter of the experts": 4}
    sizes = [(name, max(mixture.size // part, mixture.least)) for name, part in shares.items()]
    return Case(mixture, resident, sizes)


def rows(trace: Trace, case: Case, counts: Sequence[int], rates: Rates) -> Iterator[Row]:
    """Every policy without predictions, then the one for predictions with them, then the bound."""
    ahead = trace if trace.predicted else foretell(trace, RECALL, PRECISION)
    blind, warm = replace(trace, predicted=()), min(WARM, len(trace.tokens) // 2)
    plans: list[tuple[str, Trace, Policy]] = [
        (name, blind, policy(name, trace.layers, trace.experts))
        for name in POLICIES
        if name != "predicted"
    ]
    plans.append(("predicted", ahead, policy("predicted", trace.layers, trace.experts)))
    plans.append(("Belady's bound", blind, Belady(trace)))
    for name, shown, chosen in plans:
        result = replay(shown, case.mixture, chosen, counts, warm=warm, at_halts=True)
        speed = token_time(case.resident, result.demand, rates).tokens_a_second
        yield Row(name, result, speed)


def compare(traces: Sequence[tuple[str, Trace]], rates: Rates, resident: float) -> Iterator[Panel]:
    """Prints a table for each trace and budget, and gives what draws it."""
    for kind, trace in traces:
        case = case_of(trace, resident)
        for budget, size in case.budgets:
            counts = slots(case.mixture, size)
            held = sorted({count for count in counts if count})
            each = " or ".join(map(str, held))
            title = f"{trace.model}, {kind}, {budget}: {each} of {trace.experts} slots a layer"
            print(f"\n**{title}**\n\n| policy | hits | halts a token | MB a token | tok/s |")
            print("|---|---|---|---|---|")
            bars = []
            for row in rows(trace, case, counts, rates):
                print(f"| {row.policy} | {row.cells} |")
                figure = f"{row.speed:.1f} tok/s, hits {row.result.hit_rate:.1%}"
                bars.append(Bar(row.policy, 0, row.speed, figure))
            yield Panel(f"{title}; tokens a second", bars)


def lru(trace: Trace, count: int, warm: int = 0) -> float:
    """Hit rate of LRU with so many slots a layer."""
    mixture = Mixture(trace.experts, trace.used, (1,) * trace.layers)
    chosen = LRU(trace.layers, trace.experts)
    return replay(trace, mixture, chosen, [count] * trace.layers, warm=warm).hit_rate


def fit() -> Iterator[tuple[str, str, float, float]]:
    """What was published, and what synthetic traces have: (profile, figure, published, ours)."""
    local = synthesize("local", 4, 128, 8, profile=PROFILES["local"], tokens=512)
    uses = [of_layer(local, layer) for layer in range(4)]
    yield "local", "used by the token before", 0.45, sum(repeated_within(u, 1) for u in uses) / 4
    yield "local", "used within 8 tokens", 0.80, sum(repeated_within(u, 8) for u in uses) / 4
    yield "local", "LRU, 51 of 128 slots, warm", 0.933, lru(local, 51, WARM)
    short = replace(local, tokens=local.tokens[:256])
    for count, published in ((8, 0.366), (24, 0.741), (49, 0.894), (81, 0.962)):
        yield "local", f"LRU, {count} of 128 slots, cold", published, lru(short, count)
    flat = synthesize("flat", 3, 512, 10, profile=PROFILES["flat"], tokens=300)
    for count, published in ((93, 0.435), (186, 0.62), (279, 0.72), (372, 0.789), (512, 0.85)):
        yield "flat", f"LRU, {count} of 512 slots, cold", published, lru(flat, count)
    busiest = share_of_busiest(of_layer(flat, 0), 64)
    yield "flat", "uses of the 64 busiest of 512", 0.41, busiest
    olmoe = synthesize("flat", 4, 64, 8, profile=PROFILES["flat"], tokens=704)
    yield "flat", "LRU, 16 of 64 slots, cold", 0.514, lru(olmoe, 16)
    mixtral = synthesize("mixtral", 3, 8, 2, profile=PROFILES["mixtral"], tokens=4000)
    for layer, published in enumerate((0.481, 0.637, 0.509)):
        ours = any_repeated(of_layer(mixtral, layer))
        yield "mixtral", f"an expert again, layer {(0, 15, 31)[layer]}", published, ours
    yield "mixtral", "LRU, 4 of 8 slots (40 to 60 %)", 0.5, lru(mixtral, 4)


def ageing() -> Iterator[str]:
    """Rows of hit rates by half-life, in one text and in four of other subjects on end."""
    lives = (4, 8, 16, 32, 64, 256)
    ways = ["lru", *(f"{life}" for life in lives), "least-stale", "Belady"]
    yield f"| used of experts, profile, texts | slots | {' | '.join(ways)} |"
    yield "|---" * (len(ways) + 2) + "|"
    for experts, used in ((128, 8), (32, 4)):
        for kind in ("local", "flat"):
            for texts in (1, 4):
                made = [
                    synthesize(
                        "", 6, experts, used, profile=PROFILES[kind], tokens=768 // texts, seed=it
                    )
                    for it in range(texts)
                ]
                trace, mixture = joined(made), Mixture(experts, used, (1,) * 6)
                for count in (experts // 4, experts * 2 // 5):
                    chosen: list[Policy] = [
                        LRU(6, experts),
                        *(LFU(6, experts, life) for life in lives),
                        LeastStale(6, experts),
                        Belady(trace),
                    ]
                    held = [count] * 6
                    results = (
                        replay(trace, mixture, way, held, warm=WARM, at_halts=True)
                        for way in chosen
                    )
                    hits = (f"{result.hit_rate:.1%}" for result in results)
                    yield (
                        f"| {used} of {experts}, {kind}, {texts} | {count} | {' | '.join(hits)} |"
                    )


def predictions(rates: Rates) -> Iterator[str]:
    """Rows of speeds by what predictions find and how many of them are right."""
    yield "| recall | precision | MB a token | halts a token | tok/s | with half the overlap |"
    yield "|---|---|---|---|---|---|"
    for shape, kind in (("gemma-4-26b-a4b", "local"), ("gpt-oss-20b", "local")):
        mixture, beside = mixture_of(shape)
        plain, budget = conversation(shape, kind), BUDGETS[shape][0]
        counts = slots(mixture, int(budget * GB) - beside - BESIDE)
        yield f"| **{shape}, {kind}, {budget:g} GB** | | | | | |"
        for recall, precision in ((0, 1), (0.6, 0.6), (0.9, 0.9), (0.97, 0.97), (0.7, 1), (1, 1)):
            trace = foretell(plain, recall, precision)
            chosen = policy("predicted", trace.layers, trace.experts)
            demand = replay(trace, mixture, chosen, counts, warm=WARM, at_halts=True).demand
            speeds = [
                token_time(RESIDENT[shape], demand, replace(rates, overlap=share)).tokens_a_second
                for share in (1.0, 0.5)
            ]
            yield (
                f"| {recall:.0%} | {precision:.0%} | {demand.moved / 1e6:,.0f} | "
                f"{demand.halts:.1f} | {speeds[0]:.1f} | {speeds[1]:.1f} |"
            )


# The first shape is Qwen3.8-Flash-Next's, published as a file of 104 GB; the second has fewer and
# larger experts. The speed when resident is assumed.
LARGE = {
    "48 layers, 10 of 512 experts": Mixture(512, 10, (4_100_000,) * 48),
    "45 layers, 8 of 128 experts": Mixture(128, 8, (17_400_000,) * 45),
}
LARGE_BUDGETS = (8.0, 11.0, 24.0, 48.0)  # GB for experts: of 16 GB the first two
LARGE_RESIDENT = 60.0


def large(rates: Rates) -> Iterator[str]:
    """Rows of mixtures of 100 GB with a budget of slots, and all else in OPFS."""
    yield "| mixture | profile | GB for experts | slots a layer | hits | GB a token | tok/s |"
    yield "|---|---|---|---|---|---|---|"
    for name, mixture in LARGE.items():
        for kind in ("local", "flat"):
            for budget in LARGE_BUDGETS:
                # Host memory holds no more than what is on its way.
                seen = foresee(
                    mixture,
                    int(budget * GB),
                    LARGE_RESIDENT,
                    host_budget=mixture.least,
                    profile=kind,
                    rates=rates,
                )
                yield (
                    f"| {name}, {mixture.size / GB:.0f} GB | {kind} | {budget:g} | "
                    f"{seen.slots[0]} | {seen.hit_rate:.1%} | {seen.demand.moved / GB:.2f} | "
                    f"{seen.time.tokens_a_second:.2f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--plot", type=Path, help="an SVG of the tables")
    tables = ("fit", "ageing", "predictions", "large")
    parser.add_argument("--table", choices=tables, help="another table than that of policies")
    parser.add_argument("--upload", type=float, default=DEFAULT_RATES.upload, help="bytes a second")
    parser.add_argument("--round-trip", type=float, default=DEFAULT_RATES.round_trip, help="s")
    about = f"tokens a second of a trace's model when it fits, where that is not known ({ASSUMED})"
    parser.add_argument("--resident", type=float, default=ASSUMED, help=about)
    args = parser.parse_args()
    rates = replace(DEFAULT_RATES, upload=args.upload, round_trip=args.round_trip)
    if args.table == "fit":
        print("| profile | figure | published | synthetic |\n|---|---|---|---|")
        for name, figure, published, ours in fit():
            print(f"| {name} | {figure} | {published:.1%} | {ours:.1%} |")
    elif args.table:
        made = {"ageing": ageing(), "predictions": predictions(rates), "large": large(rates)}
        print("\n".join(made[args.table]))
    else:
        traces = [(path.name, read(path)) for path in args.traces] or [
            (kind, conversation(shape, kind)) for shape, kinds in KINDS.items() for kind in kinds
        ]
        panels = list(compare(traces, rates, args.resident))
        if args.plot:
            below = "simulated by scripts/replay_traces.py; not measured"
            args.plot.write_text(picture("Paging of experts", below, panels), encoding="utf-8")


if __name__ == "__main__":
    main()
