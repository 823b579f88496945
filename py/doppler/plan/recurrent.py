"""The steps of layers that do not attend, and copies of the state that these keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from doppler.config.mixers import LENGTH_EPS, DeltaNet, Mixer
from doppler.gpu.step import Step, View
from doppler.plan.bindings import RecurrentState
from doppler.plan.layer import PlannedModel
from doppler.plan.segments import Part, Place, Segment
from doppler.weights.placement import Matrix

_OUTPUTS: Mapping[Mixer, str] = {  # the matrix behind what a mixer gives
    "attention": "attn_output",
    "conv": "shortconv.out_proj",
    "delta": "ssm_out",
}


def projection(model: PlannedModel, index: int) -> tuple[str, Sequence[Matrix]]:
    """What layer `index`'s mixer reads: the matrices that make it of normed states, and a name."""
    weights = model.weights
    if model.config.layers[index].mixer == "conv":
        name = f"blk.{index}.shortconv.in_proj"
        return name, (weights.matrices[f"{name}.weight"],)
    name = f"blk.{index}.attn_qkv"
    return name, weights.stacks[name]


def output(model: PlannedModel, index: int) -> str:
    """The matrix of layer `index` that makes a branch of what its mixer gives."""
    return f"blk.{index}.{_OUTPUTS[model.config.layers[index].mixer]}"


def recur(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """What is projected for layer `index`, and its state -> attended; the state moves on."""
    config, m = model.config, model.memory(batch)
    if config.layers[index].mixer == "conv":
        assert config.short_conv is not None
        sizes = config.hidden, config.short_conv.taps
        yield _conv(model, batch, f"blk.{index}.shortconv.conv", sizes, m["attended"])
        return
    net = config.delta_net
    assert net is not None
    sizes = net.channels, net.taps
    yield _conv(model, batch, f"blk.{index}.ssm_conv1d", sizes, m["convolved"])
    yield _delta(model, batch, index, net)
    norm = model.weights.vectors[f"blk.{index}.ssm_norm.weight"]
    yield _head_gate(model, batch, index, (net.value_heads, net.value_dim, net.channels), norm)


def output_gate(model: PlannedModel, batch: int, index: int) -> Iterator[Step]:
    """attended -> attended, through gates that lie behind all heads, where there are some."""
    shape = model.config.shape(index)
    if model.config.output_gate:
        start = shape.projected - shape.q_width
        yield _head_gate(model, batch, index, (shape.heads, shape.head_dim, start), None)


def _conv(model: PlannedModel, batch: int, filters: str, sizes: tuple[int, int], out: View) -> Step:
    """The first of what is projected -> `out`, by filters [channels, taps], whose name ends with
    a layer's; those that are not LFM2's are followed by SiLU.
    """
    m, (channels, taps) = model.memory(batch), sizes
    bindings = {
        "x": m["qkv"],
        "filters": model.weights.vectors[f"{filters}.weight"],
        "recent": model.layout.recurrent[int(filters.split(".")[1])].recent,
        "out": out,
        "state": m["state"],
    }
    params = {"channels": channels, "in_stride": model.widths.qkv, "out_stride": channels}
    gated = int(filters.endswith("shortconv.conv"))
    return Step("conv", {"TAPS": taps, "GATED": gated}, bindings, params, batch, filters)


def _delta(model: PlannedModel, batch: int, index: int, net: DeltaNet) -> Step:
    """convolved and what is projected for rates -> attended, by a memory that changes."""
    m, vectors = model.memory(batch), model.weights.vectors
    memory, (beta, alpha) = model.layout.recurrent[index].matrices, net.rates
    assert memory is not None
    bindings = {
        "qkv": m["convolved"],
        "gates": m["qkv"],
        "a": vectors[f"blk.{index}.ssm_a.weight"],
        "dt": vectors[f"blk.{index}.ssm_dt.weight"],
        "memory": memory,
        "out": m["attended"],
        "state": m["state"],
    }
    params = {
        "key_heads": net.key_heads,
        "value_heads": net.value_heads,
        "qkv_stride": net.channels,
        "gate_stride": model.widths.qkv,
        "beta0": beta,
        "alpha0": alpha,
        "out_stride": net.value_width,
        "eps": LENGTH_EPS,
    }
    constants = {"KEY_DIM": net.key_dim, "VALUE_DIM": net.value_dim, "TILED": int(net.tiled)}
    return Step("delta", constants, bindings, params, batch, f"blk.{index}.delta")


def _head_gate(
    model: PlannedModel, batch: int, index: int, sizes: tuple[int, int, int], norm: View | None
) -> Step:
    """attended through its gates: (heads, width of one, first column of the gates in qkv)."""
    m, (heads, width, start) = model.memory(batch), sizes
    bindings = {"x": m["attended"], "gates": m["qkv"], "state": m["state"]}
    if norm is not None:
        bindings["weight"] = norm
    params = {
        "heads": heads,
        "stride": heads * width,
        "gate_stride": model.widths.qkv,
        "gate0": start,
        "eps": model.config.norm_eps,
    }
    constants = {"HEAD_DIM": width, "NORM": int(norm is not None)}
    return Step("head_gate", constants, bindings, params, batch, f"blk.{index}.head gate")


def keep(model: PlannedModel, slot: int) -> Segment:
    """The recurrent state, as it is after what was run so far -> that checkpoint."""
    layout = model.layout
    return _copies(model, layout.recurrent, layout.checkpoints[slot], "checkpoint")


def restore(model: PlannedModel, slot: int) -> Segment:
    """That checkpoint -> the recurrent state."""
    layout = model.layout
    return _copies(model, layout.checkpoints[slot], layout.recurrent, "restored state")


def _copies(
    model: PlannedModel,
    source: Mapping[int, RecurrentState],
    target: Mapping[int, RecurrentState],
    label: str,
) -> Segment:
    """A step for each layer."""
    steps = []
    for index, it in source.items():
        bindings = {"x": it.whole, "out": target[index].whole}
        bindings["state"] = model.layout.of_token["state"]
        params = {"size": it.whole.size // 16}
        steps.append(Step("copy", {}, bindings, params, 1, f"blk.{index}.{label}"))
    return Segment(Place(Part.COPY), tuple(steps))
