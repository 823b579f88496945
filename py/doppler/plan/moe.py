"""The steps of a mixture of experts, besides the products: route, align, sum_experts.

A token has a slot for each expert that it uses. One token's products are matvecs, a slot each;
those of many are cut into tiles of slots with the same expert (align.wgsl), so that its
weights are unpacked once for all of them.
"""

from __future__ import annotations

from dataclasses import replace

from doppler.config import Experts
from doppler.gpu.step import Step, View
from doppler.plan.bindings import CPU_TILE, TILE, most_tiles
from doppler.plan.layer import PlannedModel


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
    params = {"experts": experts.count, "used": experts.used, "stride": model.widths.routes}
    constants = {"NORMED": int(experts.normed)}
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
    """Outputs of the slots -> branch."""
    m, used = model.memory(batch), experts_of(model).used
    bindings = {
        "x": m["downs"],
        "topk_weights": m["topk_weights"],
        "out": m["branch"],
        "state": m["state"],
    }
    params = {"stride": model.widths.hidden, "used": used}
    return Step("sum", {}, bindings, params, batch, f"blk.{index}.sum")
