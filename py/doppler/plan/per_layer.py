"""The steps of embeddings that each layer has of its own.

They are made once, before the first layer: half of them is looked up by the token's id, half is
projected from its embedding. A layer gates them by its state, and adds what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from doppler.gpu.step import Step, View
from doppler.plan.layer import ACTIVATIONS, PlannedModel
from doppler.plan.matmul import multiply
from doppler.plan.product import Addend, Operand, Product

HALF = 1 / math.sqrt(2)  # by which the sum of the two is multiplied


def own_embeddings(model: PlannedModel, batch: int) -> Iterator[Step]:
    """Token ids and x, their embeddings -> own."""
    c, m, w = model.config, model.memory(batch), model.widths
    if not c.per_layer:
        return
    scale = math.sqrt(c.per_layer)
    yield from model.look_up(batch, "per_layer_token_embd", m["own"], w.all_own, scale)
    label = "per_layer_model_proj"
    matrix, x = model.weights.matrices[f"{label}.weight"], Operand({"x": m["x"]})
    yield from multiply(model, Product((matrix,), x, m["own_part"], label, w.all_own, batch))
    bindings = {
        "x": m["own"],
        "branch": m["own_part"],
        "post": model.weights.vectors["per_layer_proj_norm.weight"],
        "out": m["normed"],
        "state": m["state"],
    }
    params = {
        "width": c.per_layer,
        "stride": w.own,
        "eps": c.norm_eps,
        "offset": c.norm_offset,
        "each": len(c.layers),
        "scale": HALF,
        "branch_eps": c.norm_eps * c.hidden,  # what is normed would be divided by √hidden
    }
    constants = {"HAS_BRANCH": 1, "HAS_POST": 1, "HAS_NORM": 0, "SCALED": 0}
    rows = len(c.layers) * batch
    yield Step("norm", constants, bindings, params, rows, "per_layer_proj norm")


def last_token(model: PlannedModel, x: View) -> Step:
    """x and own of a batch -> `x`, and own, of its last token, which is the batch from now on."""
    batch, m, w = model.layout.of_batch, model.layout.of_token, model.widths
    bindings = {"x": batch["x"], "out": x, "state": m["state"]}
    if w.own:
        bindings |= {"own": batch["own"], "own_out": m["own"]}
    params = {"width": w.hidden // 4, "own_width": w.all_own // 4}
    return Step("last", {"OWN": int(w.own > 0)}, bindings, params, 1, "last token")


def own_branch(model: PlannedModel, batch: int, index: int, x: Operand) -> Iterator[Step]:
    """x, and what layer `index` has of its own -> branch."""
    c, m, w = model.config, model.memory(batch), model.widths
    gate, back = f"blk.{index}.inp_gate", f"blk.{index}.proj"
    matrices = model.weights.matrices
    ups = Addend(m["own"], w.all_own, index * c.per_layer, are_ups=True)
    activation = ACTIVATIONS[c.activation]
    product = Product(
        (matrices[f"{gate}.weight"],), x, m["own_gated"], gate, w.own, batch, activation, addend=ups
    )
    yield from multiply(model, product)
    gated, matrix = Operand({"x": m["own_gated"]}), matrices[f"{back}.weight"]
    yield from multiply(model, Product((matrix,), gated, m["branch"], back, w.hidden, batch))
