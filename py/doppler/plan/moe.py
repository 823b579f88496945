"""The steps of a mixture of experts, besides the products: route, align, sum_experts, join.

A token has a slot for each expert that it uses. One token's products are matvecs, a slot each;
those of many are cut into tiles of slots with the same expert (align.wgsl), so that its
weights are unpacked once for all of them.
"""

from __future__ import annotations

from dataclasses import replace

from doppler.config.layer import Experts
from doppler.gpu.step import Step, View
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


def route(model: PlannedModel, batch: int, index: int) -> Step:
    """The router's logits -> the experts of each token, and their shares."""
    m, experts = model.memory(batch), experts_of(model)
    bindings = {
        "logits": m["routes"],
        **{name: m[name] for name in ("topk_ids", "topk_weights", "state")},
    }
    if experts.scaled:
        bindings["scales"] = model.weights.vectors[f"blk.{index}.ffn_exps_scale.weight"]
    params = {"experts": experts.count, "used": experts.used, "stride": model.widths.routes}
    constants = {"NORMED": int(experts.normed), "SCALED": int(experts.scaled)}
    return Step("route", constants, bindings, params, batch, f"blk.{index}.route")


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
    """Outputs of the slots, and of a dense FFN with a gate -> branch, or normed, to be joined."""
    m, w, experts = model.memory(batch), model.widths, experts_of(model)
    bindings = {
        "x": m["downs"],
        "topk_weights": m["topk_weights"],
        "out": m["normed" if experts.own_norms else "branch"],
        "state": m["state"],
    }
    if experts.gated:
        bindings |= {"beside": m["beside"], "gates": m["routes"]}
    gate = aligned(experts.count, 4)  # behind the router's logits
    params = {"stride": w.hidden, "used": experts.used, "routes": w.routes, "gate": gate}
    constants = {"BESIDE": int(experts.gated)}
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
