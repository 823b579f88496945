"""The files of web/kernels, by folder: what other kernels use, and the kernels.

A kernel's name is its file's, without the ending.
"""

from __future__ import annotations

import asyncio

from doppler.errors import DeviceError

LARGEST = 1 << 20  # bytes that the file of a kernel may have

# Put before kernels whose headers say so.
SHARED = (
    "state",
    "grid",
    "types",
    "dequantize",
    "rows",
    "activation",
    "matmul_common",
    "matvec_common",
    "matvec_rows",
    "products_f32",
    "subgroup_sums",
    "workgroup_sums",
    "rope_math",
    "cache",
    "cache_write",
    "score_cap",
    "logits",
    "compress",
)
FOLDERS = {
    "include": SHARED,
    "load": ("blake3", "blake3_tree", "relayout"),
    "layer": ("gather", "norm", "gate", "xielu", "last"),
    "matmul": (
        "matvec",
        "matvec_subgroup",
        "matvec_workgroup",
        "matvec_half",
        "matmul",
        "matmul_tile",
        "matmul_subgroup_matrix",
    ),
    "attention": (
        "heads_norm",
        "rope",
        "attention",
        "attention_flash",
        "attention_decode",
        "attention_join",
    ),
    "recurrent": ("conv", "delta", "head_gate", "copy"),
    "moe": ("route", "lookup", "align", "sum"),
    "sample": ("cap", "draft", "sample_blocks", "sample"),
    "device": ("lanes", "bandwidth"),
}
PATHS = {name: f"kernels/{folder}/{name}.wgsl" for folder, it in FOLDERS.items() for name in it}
# Bindings that a dispatch may go without, where its constants say that they are not touched.
OPTIONAL = frozenset(
    {
        "scales",
        "biases",
        "branch",
        "post",
        "weight",
        "next",
        "addend",
        "topk_ids",
        "order",
        "tiles",
        "q_norm",
        "k_norm",
        "verify_row",
        "mask",
        "sinks",
        "own",
        "own_out",
        "beside",
        "gates",
    }
)


async def fetch_sources() -> dict[str, str]:
    """The kernels' WGSL, from the folder beside the worker that runs this."""
    import doppler_runtime

    answers = await asyncio.gather(
        *(doppler_runtime.fetchText(path, LARGEST) for path in PATHS.values())
    )
    for path, answer in zip(PATHS.values(), answers, strict=True):
        if not answer.text:
            raise DeviceError(f"{path}: status {answer.status}; reload the page")
    return {name: answer.text for name, answer in zip(PATHS, answers, strict=True)}
