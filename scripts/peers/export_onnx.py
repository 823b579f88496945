"""A GGUF file of Gemma 3 as ONNX files that transformers.js loads: export_onnx.py GGUF OUT WORK

Runs in an environment of its own (prepare.py). Weights are dequantised, then rounded to 4 bits in
blocks of 32 by onnxruntime-genai's model builder, once with f16 activations (q4f16) and once with
f32 (q4), for adapters without shader-f16. Embedding and head share their weights, and logits are
computed of the last position only: the engine's best case.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import onnx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

KINDS = {"q4f16": (), "q4": ("use_webgpu_fp32=true",)}
OPTIONS = ("shared_embeddings=true", "int4_algo_config=rtn", "prune_lm_head=true", "hf_token=false")


def checkpoint(gguf: Path, folder: Path) -> None:
    """The dequantised weights as the model builder reads them."""
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    model.hf_quantizer = None  # its weights are dequantised: it may be saved
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


def build(source: Path, target: Path, work: Path, options: tuple[str, ...]) -> None:
    """One .onnx file with its weights inside."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source)]
    command += ["-o", str(work / "built"), "-c", str(work / "cache")]
    command += ["-p", "int4", "-e", "webgpu", "--extra_options", *OPTIONS, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    onnx.save(onnx.load(work / "built" / "model.onnx"), target)
    shutil.rmtree(work / "built")


def main() -> None:
    gguf, out, work = (Path(argument).resolve() for argument in sys.argv[1:])
    source = work / "checkpoint"
    checkpoint(gguf, source)
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    for kind, options in KINDS.items():
        build(source, out / "onnx" / f"model_{kind}.onnx", work, options)
    for name in ("generation_config.json", "config.json"):
        shutil.copy(source / name, out / name)
    shutil.rmtree(source)


if __name__ == "__main__":
    main()
