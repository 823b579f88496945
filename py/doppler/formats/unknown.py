"""Families that Doppler does not run: which known one is nearest, and what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from doppler.errors import UnsupportedError
from doppler.inputs.fields import shown

_LATENT = "keys and values that are kept as one latent (MLA)"
_MAMBA = "state space layers (Mamba)"
# By model_type and by general.architecture: the nearest family here, and what is missing.
NEAREST: Mapping[str, tuple[str, str]] = {
    "gemma": ("gemma3", "queries and keys without norms, and one norm a branch"),
    "gemma3n_text": ("gemma4", "four residual streams (AltUp), LAuReL and sparse gates"),
    "gemma3n": ("gemma4", "four residual streams (AltUp), LAuReL and sparse gates"),
    "nemotron": ("llama", "LayerNorm, and an FFN without gates"),
    "deepseek_v2": ("qwen3moe", _LATENT),
    "glm4_moe_lite": ("glm4moe", _LATENT),
    "deepseek_v3": ("qwen3moe", _LATENT),
    "deepseek2": ("qwen3moe", _LATENT),
    "mamba": ("llama", _MAMBA),
    "mamba2": ("llama", _MAMBA),
    "granitehybrid": ("granite", _MAMBA),
    "nemotron_h": ("llama", _MAMBA),
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
