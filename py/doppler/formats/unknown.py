"""Families that Doppler does not run: which known one is nearest, and what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from doppler.errors import UnsupportedError
from doppler.inputs.fields import shown

_DELTA = "linear attention (Gated DeltaNet)"
_LATENT = "keys and values that are kept as one latent (MLA)"
_MAMBA = "state space layers (Mamba)"
_SOFT_CAP = "scores that are capped before the softmax"
_SIGMOID = "a router by sigmoids with a bias, and experts that all tokens share"
# By model_type and by general.architecture: the nearest family here, and what is missing.
NEAREST: Mapping[str, tuple[str, str]] = {
    "gemma": ("gemma3", "queries and keys without norms, and one norm a branch"),
    "gemma2": ("gemma3", _SOFT_CAP),
    "gemma3n_text": ("gemma4", "four residual streams (AltUp), LAuReL and sparse gates"),
    "gemma3n": ("gemma4", "four residual streams (AltUp), LAuReL and sparse gates"),
    "olmo2": ("llama", "norms after a branch alone, and over all heads of q and k at once"),
    "olmo3": ("llama", "norms after a branch alone, and over all heads of q and k at once"),
    "apertus": ("llama", "an FFN without gates, with xIELU"),
    "nemotron": ("llama", "LayerNorm, and an FFN without gates"),
    "glm4": ("llama", "pairs side by side that turn in part, and norms after branches"),
    "glm4_moe": ("qwen3moe", _SIGMOID),
    "glm4moe": ("qwen3moe", _SIGMOID),
    "qwen3_next": ("qwen3moe", _DELTA),
    "qwen3next": ("qwen3moe", _DELTA),
    "qwen3_5_text": ("qwen3", _DELTA),
    "qwen3_5": ("qwen3", _DELTA),
    "qwen35": ("qwen3", _DELTA),
    "qwen3_5_moe_text": ("qwen3moe", _DELTA),
    "qwen3_5_moe": ("qwen3moe", _DELTA),
    "qwen35moe": ("qwen3moe", _DELTA),
    "lfm2": ("qwen3", "short convolutions"),
    "lfm2_moe": ("qwen3moe", "short convolutions"),
    "lfm2moe": ("qwen3moe", "short convolutions"),
    "deepseek_v2": ("qwen3moe", _LATENT),
    "deepseek_v3": ("qwen3moe", _LATENT),
    "deepseek2": ("qwen3moe", _LATENT),
    "mamba": ("llama", _MAMBA),
    "mamba2": ("llama", _MAMBA),
    "granitehybrid": ("granite", _MAMBA),
    "nemotron_h": ("llama", _MAMBA),
    "ernie4_5_moe": ("ernie4_5", "experts, some of which all tokens share"),
    "ernie4_5-moe": ("ernie4_5", "experts, some of which all tokens share"),
    "llama4_text": ("llama", "experts that all tokens share, and attention in chunks"),
    "llama4": ("llama", "experts that all tokens share, and attention in chunks"),
}


def unknown(name: Any, known: Collection[str], where: str) -> UnsupportedError:
    """To be raised for a family that is none of those known."""
    told = f"{where}: Doppler does not know the architecture {shown(name)}"
    text = name.lower() if isinstance(name, str) else ""
    nearest, missing = NEAREST.get(text, ("", ""))
    if missing:
        told += f", which is nearest to {nearest} and takes besides {missing}"
    elif alike := difflib.get_close_matches(text, known, n=1):
        told += f", whose name is like {alike[0]}"
    return UnsupportedError(f"{told}; it knows {', '.join(sorted(known))}")
