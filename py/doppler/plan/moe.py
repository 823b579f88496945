"""The steps of a mixture of experts, besides the products: route, align, sum_experts, join.

A token has a slot for each expert that it uses. One token's products are matvecs, a slot each;
those of many are cut into tiles of slots with the same expert (align.wgsl), so that its
weights are unpacked once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from doppler.config.layer import Experts
from doppler.gpu.step import Step, View
from doppler.gpu.wgsl import Number
from doppler.plan.bindings import CPU_TILE, TILE, most_tiles
from doppler.plan.layer import PlannedModel
from doppler.weights.placement import aligned


def tile_size(model: PlannedModel) -> int:
    """Slots of a tile."""
    return CPU_TILE if model.adapter.is_cpu else TILE


def experts_of(model: PlannedModel) -> Experts:
    """Those of a model that has some."""
    assert model.config.experts is not None, "the model is no mixture of experts"
    return model.config.experts


def chosen(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """The router's logits -> the experts of each token, and where these lie."""
    yield route(model, batch, index)
    if index in model.layout.slots:
        yield lookup(model, batch, index)


def sum_of_experts(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """Outputs of the slots, and of a dense FFN beside -> branch."""
    yield sum_experts(model, batch, index)
    if experts_of(model).own_norms:
        yield join(model, batch, index)


def route(model: PlannedModel, batch: int, index: int) -> Step:
    """The router's logits -> the experts of each token, and their shares."""
    m = model.memory(batch)
    ids = m["routed" if index in model.layout.slots else "topk_ids"]
    out = {"topk_ids": ids, "topk_weights": m["topk_weights"]}
    return _route(model, batch, index, {"logits": m["routes"], **out})


def foresee(model: PlannedModel, index: int) -> Step:
    """Logits that the router of layer `index` is expected to give -> the experts of one token."""
    m = model.memory(1)
    out = {"topk_ids": m["expected"], "topk_weights": m["expected weights"]}
    return _route(model, 1, index, {"logits": m["expected routes"], **out})


def _route(model: PlannedModel, batch: int, index: int, bound: Mapping[str, View]) -> Step:
    experts = experts_of(model)
    bindings = {**bound, "state": model.memory(batch)["state"]}
    if experts.scaled:
        bindings["scales"] = model.weights.vectors[f"blk.{index}.ffn_exps_scale.weight"]
    if experts.biased:
        bindings["biases"] = model.weights.vectors[f"blk.{index}.exp_probs_b.weight"]
    params: dict[str, Number] = {"experts": experts.count, "used": experts.used}
    params |= {"stride": model.widths.routes, "factor": experts.factor}
    constants = {"NORMED": int(experts.normed), "SCALED": int(experts.scaled)}
    constants |= {"SIGMOID": int(experts.sigmoid), "BIASED": int(experts.biased)}
    return Step("route", constants, bindings, params, batch, f"blk.{index}.route")


def lookup(model: PlannedModel, batch: int, index: int, *, in_pass: bool = False) -> Step:
    """Experts -> the slots where they lie, of a layer that has slots.

    A missing one halts the plan; in a pass, which is one of several with some experts each, what
    it has in its own table is all there is.
    """
    m, experts, layout = model.memory(batch), experts_of(model), model.layout
    names = ("routed", "topk_ids", "demand", "state")
    bindings = {name: m[name] for name in names}
    bindings |= {"table": m["pass table"] if in_pass else layout.slot_table(index)}
    bindings |= {"uses": layout.uses(index)}
    params: dict[str, Number] = {"experts": experts.count, "used": experts.used}
    params |= {"slots": layout.slots[index], "cause": 1 + index}
    constants = {"HALTS": int(not in_pass)}
    return Step("lookup", constants, bindings, params, batch, f"blk.{index}.lookup")


def align(model: PlannedModel, batch: int, index: int) -> Step:
    """The experts of each token -> tiles of slots that use the same."""
    m, experts, size = model.memory(batch), experts_of(model), tile_size(model)
    bindings = {"topk_ids": m["topk_ids"], "state": m["state"], **places(model, batch)}
    tiles = bindings["tiles"].size // 16
    params = {"experts": experts.count, "used": experts.used, "size": size, "tiles": tiles}
    return Step("align", {}, bindings, params, batch, f"blk.{index}.align")


def places(model: PlannedModel, batch: int) -> dict[str, View]:
    """What `align` makes of a batch, as kernels bind it."""
    m, experts = model.memory(batch), experts_of(model)
    slots = batch * experts.used
    tiles = most_tiles(slots, experts.count, tile_size(model))
    return {
        "order": replace(m["order"], size=4 * slots),
        "tiles": replace(m["tiles"], size=16 * tiles),
    }


def sum_experts(model: PlannedModel, batch: int, index: int) -> Step:
    """Outputs of the slots, and of a dense FFN that is not normed -> branch; else normed, to be
    joined.
    """
    m, w, experts = model.memory(batch), model.widths, experts_of(model)
    bindings = {
        "x": m["downs"],
        "topk_weights": m["topk_weights"],
        "out": m["normed" if experts.own_norms else "branch"],
        "state": m["state"],
    }
    beside = 0
    if experts.beside and not experts.own_norms:
        beside = 1 if experts.gated else 2
        bindings |= {"beside": m["beside"]} | ({"gates": m["routes"]} if experts.gated else {})
    gate = aligned(experts.count, 4)  # behind the router's logits
    params = {"stride": w.hidden, "used": experts.used, "routes": w.routes, "gate": gate}
    constants = {"BESIDE": beside}
    return Step("sum", constants, bindings, params, batch, f"blk.{index}.sum")


def join(model: PlannedModel, batch: int, index: int) -> Step:
    """What a dense FFN gave (beside), and what experts gave (normed) -> branch: both normed."""
    m, vectors, c = model.memory(batch), model.weights.vectors, model.config
    bindings = {
        "x": m["beside"],
        "weight": vectors[f"blk.{index}.post_ffw_norm_1.weight"],
        "branch": m["normed"],
        "post": vectors[f"blk.{index}.post_ffw_norm_2.weight"],
        "out": m["branch"],
        "state": m["state"],
    }
    params = {
        "width": c.hidden,
        "stride": model.widths.hidden,
        "eps": c.norm_eps,
        "offset": c.norm_offset,
        "each": 1,
        "scale": 1.0,
        "branch_eps": c.norm_eps,
    }
    constants = {"HAS_BRANCH": 0, "HAS_POST": 1, "HAS_NORM": 1, "SCALED": 0}
    return Step("norm", constants, bindings, params, batch, f"blk.{index}.join norm")
