"""The ropes of config.json, as transformers 4 and 5 write them."""

from __future__ import annotations

import math
from dataclasses import replace

from doppler.config.layer import Layer, need_head_dim
from doppler.config.rope import STANDING, Rope, yarn_magnitude
from doppler.errors import UnsupportedError
from doppler.formats.architecture import Architecture
from doppler.formats.hf_settings import need
from doppler.inputs.fields import LARGEST_INT, SMALLEST_FLOAT, Fields, shown


def ropes_of(
    architecture: Architecture, fields: Fields, head_dim: int, layers: tuple[Layer, ...]
) -> tuple[Rope, ...]:
    """(local, global) where layers differ, one rope otherwise; global first if it alone is scaled.

    transformers 5 has `rope_parameters`, by layer type or plain; 4 has `rope_theta`, `rope_scaling`
    (of the global layers) and `rope_local_base_freq`. Where both are there, people added
    `rope_scaling` for longer contexts, and it counts.
    """
    old, new = fields.table("rope_scaling"), fields.table("rope_parameters")
    plain = Fields({"rope_theta": fields.get("rope_theta")}, fields.where)
    local_base = fields.get("rope_local_base_freq") or architecture.local_base
    local = Fields({"rope_theta": local_base}, fields.where)
    if new.has("full_attention"):
        plain = new.table("full_attention")
        local = new.table("sliding_attention") if new.has("sliding_attention") else local
        differ = architecture.local_base or architecture.full_scaled
        if not differ and new.has("sliding_attention"):
            need(new, "sliding_attention", (new.get("full_attention"),))
    elif len(new):
        plain = new.over(plain)
    if len(old):
        plain = old.over(Fields({"rope_theta": plain.get("rope_theta")}, fields.where))
    if not architecture.local_base:
        only = _rope(architecture, plain, fields, head_dim)
        if not any(layer.rope for layer in layers):
            return (only,)
        if not new.has("sliding_attention"):
            local = Fields({"rope_theta": plain.get("rope_theta")}, fields.where)
        return only, _rope(architecture, local, fields, head_dim)
    wide = (layer.head_dim for layer in layers if layer.rope == 1 and layer.head_dim)
    full = _rope(architecture, plain, fields, next(wide, head_dim))
    return _rope(architecture, local, fields, head_dim), full


def _rope(architecture: Architecture, data: Fields, fields: Fields, head_dim: int) -> Rope:
    """The rope of heads of that width."""
    if data.get("rope_type") == "proportional":
        need_head_dim(fields.where, head_dim)  # or there might be any number of factors
        share = data.number("partial_rotary_factor", 1.0, least=0, most=1)
        turned = int(share * head_dim // 2)
        factor = data.number("factor", 1.0, least=SMALLEST_FLOAT)
        factors = (factor,) * turned + (STANDING,) * (head_dim // 2 - turned)
        return Rope(data.number("rope_theta"), "factors", factors=factors)
    if "alpha" in architecture.reads and data.has("alpha"):
        return _stretched_rope(data, head_dim)
    if "mrope_section" not in architecture.reads:  # of text alone, all sections are the same
        need(data, "mrope_section", (1,))
    rope, key = _whole_rope(data, fields), "llama_4_scaling_beta"
    growth = data.number(key, 0.0) if key in architecture.reads and rope.scaling == "yarn" else 0.0
    need(data, key, (growth,))
    return replace(rope, width=_rope_width(architecture, data, fields, head_dim), growth=growth)


def _rope_width(architecture: Architecture, data: Fields, fields: Fields, head_dim: int) -> int:
    """Dimensions of a head that turn: 0 where all do, as they must in most architectures."""
    key = "partial_rotary_factor"
    if key not in architecture.reads:
        need(data, key, (1,))
        return 0
    width = int(head_dim * data.number(key, fields.number(key, 1.0), least=0, most=1))
    if width == 0:
        raise data.error(key, "so large that two dimensions of a head turn")
    return 0 if width == head_dim else width


def _stretched_rope(data: Fields, head_dim: int) -> Rope:
    """One whose base alone is changed, by `alpha`; that is called dynamic and is not."""
    data.choice("rope_type" if data.has("rope_type") else "type", ("dynamic",))
    alpha = data.number("alpha", least=SMALLEST_FLOAT)
    return Rope(data.number("rope_theta") * alpha ** (head_dim / max(head_dim - 2, 1)))


def _whole_rope(data: Fields, fields: Fields) -> Rope:
    base = data.number("rope_theta")
    kind = data.text("rope_type", data.text("type", ""))
    if not kind and data.number("factor", 1.0) != 1:
        raise data.error("rope_type", "given where there is a factor")
    if kind in ("", "default"):
        return Rope(base)
    if kind == "linear":
        return Rope(base, "linear", data.number("factor"))
    if kind == "llama3":
        return Rope(
            base,
            "llama3",
            data.number("factor"),
            data.number("low_freq_factor"),
            data.number("high_freq_factor"),
            _original(data, fields),
        )
    if kind in ("longrope", "su") or data.has("long_factor"):
        return _longrope(base, data, fields)
    if kind == "yarn":
        return _yarn(base, data, fields)
    raise UnsupportedError(f"{data.where}: rope type {shown(kind)} is not one that Doppler knows")


def _original(data: Fields, fields: Fields, default: int | None = None) -> int:
    """The context that a rope was made for: what stands beside the rope counts before what is in
    it, as in transformers.
    """
    key = "original_max_position_embeddings"
    if fields.has(key):
        return fields.integer(key, least=1)
    return int(data.number(key, default, most=LARGEST_INT))


def _longrope(base: float, data: Fields, fields: Fields) -> Rope:
    """A divisor for each pair, another one for contexts that are longer than the original.

    In either, cos and sin are as large as is given, or follows from how much longer one may be.
    """
    longest = fields.integer("max_position_embeddings")
    original = _original(data, fields, longest)
    if original < 2:
        raise data.error("original_max_position_embeddings", "2 or more")
    factor = data.number("factor", longest / original)
    usual = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
    return Rope(
        base,
        "factors",
        original_context=original,
        factors=_divisors(data, "short_factor"),
        long_factors=_divisors(data, "long_factor"),
        magnitude=data.number("attention_factor", usual),
    )


def _divisors(data: Fields, key: str) -> tuple[float, ...]:
    divisors = data.numbers(key)
    if not divisors or min(divisors) <= 0:
        raise data.error(key, "a list of positive numbers")
    return tuple(divisors)


def _yarn(base: float, data: Fields, fields: Fields) -> Rope:
    """YaRN as transformers reads it: what makes scores larger is given, or follows the factor."""
    factor, context = data.number("factor"), fields.integer("max_position_embeddings")
    return Rope(
        base,
        "yarn",
        factor,
        original_context=_original(data, fields, context),
        beta_fast=data.number("beta_fast", 32.0),
        beta_slow=data.number("beta_slow", 1.0),
        whole_pairs=data.flag("truncate", True),
        magnitude=data.number("attention_factor", _usual_magnitude(data, factor)),
    )


def _usual_magnitude(data: Fields, factor: float) -> float:
    """That of YaRN, or a quotient of two, where shares of the growth are given for both."""
    over, under = (data.number(key, 0.0, least=0) for key in ("mscale", "mscale_all_dim"))
    if over and under:
        return yarn_magnitude(factor, over) / yarn_magnitude(factor, under)
    return yarn_magnitude(factor)
