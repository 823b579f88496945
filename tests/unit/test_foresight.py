"""How a model would run within a budget: from its manifest, without a GPU, as the engine counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from doppler.api.foresight import foreseen, mixture_of, needs_of
from doppler.api.inspection import Candidate, inspection
from doppler.api.messages import Choice, ForeseeArgs
from doppler.api.request import Room
from doppler.engine.fit import Fit, bounds, fits
from doppler.errors import DeviceError, RequestError
from doppler.residency.cost import DEFAULT_RATES, resident_speed
from doppler.residency.foresight import foresee
from doppler.store.manifest import Manifest
from expert_files import converted
from fixture_sets import FIXTURES
from paper_engine import large_gpu, ranged, synthetic

GPU = large_gpu()
ROOM = Room(context=128, batch=32)
# Tokens a second after 128, measured on an H100 that reads 3,045 GB/s (docs/benchmarks.md).
MEASURED = {
    "gemma-3-1b": 868,
    "gemma-3-4b": 396,
    "llama-3.2-3b": 482,
    "gpt-oss-20b": 390,
    "mixtral-8x7b": 179,
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return converted(FIXTURES / "qwen3moe-like", tmp_path_factory.mktemp("mixture"))


def ways(manifest: Manifest, budget: int) -> Sequence[Fit]:
    options = replace(ROOM.options(GPU, {}), gpu_budget=budget)
    return [fit for _, fit in fits(GPU, manifest, options)]


def choice_of(manifest: Manifest, **args: Any) -> Choice:
    candidate = Candidate(manifest, 1, tokenizer=False, template=None)
    asked = cast("Any", {"context": 128, "batch": 32, **args})
    (choice,) = asyncio.run(inspection([candidate], GPU, 1, asked))["choices"]
    return choice


def asked_of(manifest: Manifest, **budgets: Any) -> ForeseeArgs:
    choice = choice_of(manifest)
    fit = choice["fits"][0]
    assert choice["needs"] is not None
    bounded = {"needs": choice["needs"], "least": fit["least"], "whole": fit["whole"]}
    return cast("ForeseeArgs", {"gpu_budget": fit["least"], **bounded, **budgets})


def test_bounds_are_where_the_engine_changes_its_mind(mixture: Manifest) -> None:
    least, whole = bounds(GPU, mixture, ROOM.options(GPU, {}))
    assert ways(mixture, whole)[0] == Fit()
    assert ways(mixture, whole - 1)[0].slots
    assert ways(mixture, least)
    with pytest.raises(DeviceError, match="at least"):
        ways(mixture, least - 1)


def test_bounds_of_a_dense_model_are_of_streaming() -> None:
    manifest = synthetic("gemma-3-1b")
    least, whole = bounds(GPU, manifest, ROOM.options(GPU, {}))
    assert least < whole
    assert ways(manifest, whole)[0] == Fit()
    assert ways(manifest, whole - 1)[0].kept is not None
    assert ways(manifest, least)
    with pytest.raises(DeviceError, match="at least"):
        ways(manifest, least - 1)


def test_bounds_of_other_contexts_grow_with_keys_and_values(mixture: Manifest) -> None:
    choice = choice_of(mixture)
    for fit in choice["fits"]:
        options = Room(fit["context"], 32).options(GPU, {})
        assert (fit["least"], fit["whole"]) == pytest.approx(
            bounds(GPU, mixture, options),
            rel=0.05,  # what is saved goes through a reader
        )
    least = choice["fits"][0]["least"]
    within = choice_of(mixture, gpu_budget=least)["fits"][0]  # memory is then of what is there
    assert (within["least"], within["memory"]["total"] < least) == (least, True)


@pytest.mark.parametrize("name", MEASURED)
def test_resident_speeds_are_near_those_that_were_measured(name: str) -> None:
    needs = asyncio.run(needs_of(GPU, synthetic(name), Room(4096, 512)))
    speed = resident_speed(needs["reads"], needs["dispatches"], 3045e9)
    assert speed == pytest.approx(MEASURED[name], rel=0.25)


def test_within_the_bounds_it_is_what_the_simulator_says(mixture: Manifest) -> None:
    args = asked_of(mixture)
    known, (least, whole) = mixture_of(mixture), (args["least"], args["whole"])
    assert sum(known.units) > 0
    budget = (least + whole) // 2
    told = foreseen({**args, "gpu_budget": budget, "host_budget": 2 * known.size, "gb_s": 100})
    speed = resident_speed(args["needs"]["reads"], args["needs"]["dispatches"], 100e9)
    seen = foresee(known, known.size - (whole - budget), speed)
    assert told["way"] == "experts"
    assert told["hit_rate"] == seen.hit_rate
    assert told["brought"] == seen.demand.moved
    assert told["tok_s"] == pytest.approx(seen.time.tokens_a_second)
    poor = foreseen({**args, "gpu_budget": budget, "host_budget": 0, "gb_s": 100})
    assert 0 < cast("float", poor["tok_s"]) < cast("float", told["tok_s"]) < speed
    assert poor["brought"] == told["brought"]
    unmeasured = foreseen({**args, "gpu_budget": budget})
    assert (unmeasured["way"], unmeasured["tok_s"]) == ("experts", None)
    assert foreseen({**args, "gpu_budget": whole, "gb_s": 100})["tok_s"] == pytest.approx(speed)
    assert foreseen({**args, "gpu_budget": least - 1, "gb_s": 100})["way"] == "none"


def test_slots_are_about_those_that_the_engine_chooses() -> None:
    manifest, budget = ranged("gpt-oss-20b"), 5 * 10**9
    options = replace(ROOM.options(GPU, {}), gpu_budget=budget)
    slots = next(fits(GPU, manifest, options))[1].slots
    told = foreseen(asked_of(manifest, gpu_budget=budget))
    assert told["resident"] == pytest.approx(sum(slots.values()) / (24 * 32), rel=0.03)


def test_layers_are_streamed_at_the_slower_of_computing_and_bringing(mixture: Manifest) -> None:
    """Of a dense model of which the engine says that it can do with less."""
    needs = {**asked_of(mixture)["needs"], "experts": 0, "used": 0, "units": []}
    args: Any = {"needs": needs, "least": 10**9, "whole": 10 * 10**9, "gb_s": 1000}
    told = foreseen({**args, "gpu_budget": 4 * 10**9, "host_budget": 6 * 10**9})
    assert (told["way"], told["resident"], told["brought"]) == ("layers", 0.4, 6e9)
    assert told["tok_s"] == pytest.approx(DEFAULT_RATES.upload / 6e9)
    stored = foreseen({**args, "gpu_budget": 4 * 10**9, "host_budget": 0})["tok_s"]
    assert stored == pytest.approx(1 / (6e9 / DEFAULT_RATES.upload + 6e9 / DEFAULT_RATES.storage))


def test_embeddings_that_stay_in_storage() -> None:
    args = asked_of(synthetic("gemma-4-e2b"))
    table = args["needs"]["table"]
    there = args["whole"] - table
    assert args["least"] < there
    assert foreseen({**args, "gpu_budget": args["whole"] - 1})["way"] == "table"
    streamed = foreseen({**args, "gpu_budget": there - 1})
    assert (streamed["way"], streamed["brought"]) == ("layers", 1)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"needs": None}, {}),
        ({"gpu_budget": -1}, {}),
        ({"host_budget": 1.5}, {}),
        ({"least": True}, {}),
        ({"gb_s": 0}, {}),
        ({"gb_s": "fast"}, {}),
        ({}, {"experts": 1 << 40}),
        ({}, {"used": 4000, "experts": 4096}),
        ({}, {"units": [1] * 5000}),
        ({}, {"units": [None]}),
        ({}, {"reads": "all"}),
    ],
    ids=str,
)
def test_numbers_of_no_model_are_refused(
    mixture: Manifest, changes: dict[str, Any], needs: dict[str, Any]
) -> None:
    args = asked_of(mixture)
    wrong: Any = {**args, "needs": {**args["needs"], **needs}, **changes}
    with pytest.raises(RequestError):
        foreseen(wrong)


def test_a_slot_count_of_no_use_is_not_simulated_for_ever() -> None:
    """The largest that is taken ends in a moment."""
    needs = {"reads": 1, "dispatches": 1, "table": 0, "experts": 4096, "used": 64}
    args: Any = {"needs": {**needs, "units": [1] * 1024}, "least": 0, "whole": 1 << 40}
    assert foreseen({**args, "gpu_budget": 1 << 20, "gb_s": 1})["way"] == "experts"
