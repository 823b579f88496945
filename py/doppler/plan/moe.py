"""The steps of a mixture of experts, besides the products: route, assign, combine.

A token has a slot for each expert that it uses. One token's products are matvecs, a slot each;
those of many are cut into tiles of slots with the same expert (kernels/assign.wgsl), so that its
weights are unpacked once for all of them.
"""

from __future__ import annotations

from doppler.config import Experts
from doppler.gpu.device import Slice
from doppler.gpu.step import Step
from doppler.plan.layer import PlannedModel

TILE, CPU_TILE = 64, 16  # slots: what the matmuls of GPUs, and of processors, take at least


def tile_size(model: PlannedModel) -> int:
    """Slots of a tile."""
    return CPU_TILE if model.adapter.is_cpu else TILE


def most_tiles(slots: int, experts: int, size: int) -> int:
    """Tiles into which so many slots are cut at most: all experts' last ones may be short."""
    return slots // size + min(slots, experts)


def experts_of(model: PlannedModel) -> Experts:
    """Those of a model that has some."""
    assert model.config.experts is not None, "the model is no mixture of experts"
    return model.config.experts


def route(model: PlannedModel, batch: int, index: int) -> Step:
    """The router's logits -> the experts of each token, and their shares."""
    m, experts = model.memory, experts_of(model)
    bindings = {"logits": m.routes, "chosen": m.chosen, "shares": m.shares, "state": m.state}
    params = {"experts": experts.count, "used": experts.used, "stride": model.widths.routes}
    constants = {"NORMED": int(experts.normed)}
    return Step("route", constants, bindings, params, batch, f"blk.{index}.route")


def assign(model: PlannedModel, batch: int, index: int) -> Step:
    """The experts of each token -> tiles of slots that use the same."""
    m, experts, size = model.memory, experts_of(model), tile_size(model)
    bindings = {"chosen": m.chosen, "state": m.state, **places(model, batch)}
    tiles = bindings["tiles"].size // 16
    params = {"experts": experts.count, "used": experts.used, "size": size, "tiles": tiles}
    return Step("assign", {}, bindings, params, batch, f"blk.{index}.assign")


def places(model: PlannedModel, batch: int) -> dict[str, Slice]:
    """What `assign` makes of a batch, as kernels bind it."""
    m, experts = model.memory, experts_of(model)
    slots = batch * experts.used
    tiles = most_tiles(slots, experts.count, tile_size(model))
    return {
        "order": Slice(m.order.buffer, m.order.offset, 4 * slots),
        "tiles": Slice(m.tiles.buffer, m.tiles.offset, 16 * tiles),
    }


def combine(model: PlannedModel, batch: int, index: int) -> Step:
    """Outputs of the slots -> branch."""
    m, used = model.memory, experts_of(model).used
    bindings = {"x": m.downs, "shares": m.shares, "out": m.branch, "state": m.state}
    params = {"stride": model.widths.hidden, "used": used}
    return Step("combine", {}, bindings, params, batch, f"blk.{index}.combine")
