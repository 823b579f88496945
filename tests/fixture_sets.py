"""The tiny checkpoints of tests/fixtures: what is known of them, and on which kernels they run.

All run on those of CPUs, which take a tenth of a second a token. On those of GPUs, and of the least
GPU, a CPU takes half a second, and a minute to compile them: there run as many as it takes for
every kernel to run in a model, with every two switches that plans of any of them set and no case of
the kernel has (tests/unit/test_fixture_sets.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

FIXTURES = Path(__file__).with_name("fixtures")

TINY = (
    "gemma3-1b-like",
    "gemma3-4b-like",
    "gemma4-e2b-like",
    "gemma4-12b-like",
    "gemma4-26b-like",
    "llama32-like",
    "qwen2-like",
    "qwen3-like",
    "mixtral-like",
    "gpt-oss-like",
    "gpt-oss-mxfp4-like",
    "qwen2moe-like",
    "qwen3moe-like",
)
# What these alone have lies in their configs and in how their weights are read.
FAMILIES = (
    "apertus-like",
    "ernie45moe-like",
    "gemma2-like",
    "glm4-like",
    "glm4moe-like",
    "granite-like",
    "hunyuan-like",
    "ministral3-like",
    "olmo2-like",
    "phi3-like",
    "smollm3-like",
)
# With layers that have a state in place of keys.
RECURRENT = ("lfm2-like", "lfm2moe-like", "qwen35-like")
LONG = "gemma3-long"  # a prompt of 700 tokens
ALL = (*TINY, *FAMILIES, *RECURRENT)
ON_GPUS = (
    "gemma4-26b-like",
    "gemma4-e2b-like",
    "glm4moe-like",
    "gpt-oss-like",
    "qwen35-like",
)
HALTED = ("gpt-oss-like", "qwen35-like")  # on GPUs: between them, these run every kernel of theirs
ON_LEAST = ("gpt-oss-like",)

# Constants that say how large something is, how threads share it, or how weights are packed: the
# cases of kernels vary those (doppler/workbench/cases).
SIZES = frozenset(
    (
        *("COLS", "HEAD_DIM", "KEY_DIM", "VALUE_DIM", "TAPS", "BLOCK", "STAGE", "FORM", "SPLITS"),
        *("TEAM", "ROWS", "DEPTH", "TOKENS", "TURN", "LANES", "PARTS", "CHUNK", "KEYS", "VALUES"),
    )
)


def reference(name: str) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Ids of a prompt, and transformers' logits [positions, vocab] of all of them, or the last."""
    with np.load(FIXTURES / name / "reference.npz") as arrays:
        return arrays["ids"].tolist(), arrays["logits"]
