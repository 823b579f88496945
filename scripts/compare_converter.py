"""Fixtures as llama.cpp's own converter writes them, read by Doppler: logits against transformers'.

    python scripts/compare_converter.py LLAMA_CPP [NAME ..]

LLAMA_CPP is a folder with llama.cpp's conversion/ and gguf-py/ (the source archive of
llama-cpp-python has them in vendor/). Needs torch and transformers, as make_fixtures.py does, and
sentencepiece. Logits are computed by NumPy in float32. Fixtures with what GGUF cannot say are left
out: UNSAYABLE.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from make_fixtures import Fixture, fixtures

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
sys.path += [str(ROOT / "tests"), str(ROOT / "py")]

UNSAYABLE = {
    "gemma3-4b-like": "a scale of scores that is not that of the shape",
    "gemma3-long": "logits of the last position alone",
    "lfm2moe-like": "a factor of the shares of experts",
    "mistral-like": "a window, which llama.cpp does not know in arch llama",
    "qwen3moe-like": "shares of experts over all of them, not over those used",
}


def prepare(name: str, fixture: Fixture, folder: Path) -> None:
    """A copy of a fixture as it would be published, where the converter looks at more than
    transformers do: class names, words of Gemma, experts one by one.
    """
    shutil.copytree(FIXTURES / name, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    kind = fixture.model.__name__
    if fixture.wrapper is not None:
        kind = kind.replace("ForCausalLM", "ForConditionalGeneration")
    config["architectures"] = [kind]
    if "HunYuan" in kind:
        config["max_position_embeddings"] = 32768  # the converter wants it to be the published one
    if "GraniteMoeHybrid" in kind:
        config["layer_types"] = ["attention"] * config["num_hidden_layers"]
        config |= {"num_local_experts": 0, "num_experts_per_tok": 0}
        config["intermediate_size"] = config["shared_intermediate_size"]
    path.chmod(0o644)
    path.write_text(json.dumps(config))
    if "Gemma" in kind:  # rows of the embedding without a word are left out
        words = {f"word {i}": i for i in range(fixture.config.get_text_config().vocab_size)}
        tokenizer = {"model": {"vocab": words}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for weights in folder.glob("*.safetensors"):
        split_experts(weights)


def split_experts(path: Path) -> None:
    """gate_up_proj and down_proj of all experts, as transformers keep them -> one by one."""
    from safetensors.torch import load_file, save_file

    found = load_file(path)
    if any("experts.down_proj_bias" in name for name in found):  # GPT-OSS is published like that
        return
    split = {}
    for name, value in found.items():
        parts = name.rpartition(".")
        if not parts[0].endswith((".mlp.experts", ".feed_forward.experts")) or value.dim() != 3:
            split[name] = value
            continue
        for number, expert in enumerate(value):
            halves = expert.chunk(2) if parts[2] == "gate_up_proj" else (expert,)
            names = ("gate_proj", "up_proj") if len(halves) == 2 else (parts[2],)
            if "feed_forward" in parts[0]:  # LFM2's
                names = ("w1", "w3") if len(halves) == 2 else ("w2",)
            for part, half in zip(names, halves, strict=True):
                split[f"{parts[0]}.{number}.{part}.weight"] = half.contiguous()
    path.chmod(0o644)
    save_file(split, path)


def convert(folder: Path, target: Path) -> str:
    """Runs the converter, without a vocabulary; -> general.architecture."""
    import gguf
    import torch
    from conversion import ModelBase, get_model_class
    from conversion.base import TextModel

    config = ModelBase.load_hparams(folder, is_mistral_format=False)
    kind = get_model_class(config["architectures"][0])

    def without_words(self: Any) -> None:
        self._set_vocab_none()

    kind.set_vocab = without_words
    TextModel._set_vocab_gpt2 = without_words  # Ministral 3 is made by a class of its own
    kind.no_mtp = not any("mtp." in name for name in tensor_names(folder))
    with torch.inference_mode():
        model = kind(folder, gguf.LlamaFileType.ALL_F32, target, eager=True)
        model.write()
    return str(gguf.MODEL_ARCH_NAMES[model.model_arch])


def tensor_names(folder: Path) -> list[str]:
    """Of all of a checkpoint."""
    from safetensors import safe_open

    names: list[str] = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            names += file.keys()
    return names


def difference(name: str, gguf: Path, folder: Path) -> float:
    """The largest of Doppler's logits from the fixture's."""
    from expert_files import converted
    from numpy_model import NumpyModel

    with np.load(FIXTURES / name / "reference.npz") as reference:
        ids, wanted = reference["ids"].tolist(), reference["logits"]
    converted(gguf, folder)
    found = NumpyModel(folder).logits(ids)
    return float(np.abs(found - wanted).max())


def main() -> None:
    llama_cpp, names = Path(sys.argv[1]), sys.argv[2:]
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    for name, fixture in fixtures().items():
        if (names and name not in names) or name in UNSAYABLE:
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            prepare(name, fixture, folder / "source")
            kind = convert(folder / "source", folder / "model.gguf")
            found = difference(name, folder / "model.gguf", folder / "ours")
        print(f"{name}\t{kind}\t{found:.1e}", flush=True)


if __name__ == "__main__":
    main()
