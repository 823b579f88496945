"""Two tiny models whose random weights say words, as GGUF files; one as safetensors, too.

They are what page tests chat with.

Only whole words have an output row, all other tokens' logits are 0: neither end tokens nor halves
of characters are ever likely, so that answers are as long as they may be and can be read.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from doppler.formats.architectures import of_gguf
from gguf_files import VOCABULARY, Tensors, gguf_bytes

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS = 256, 4, 2, 64, 1024, 2
CONTEXT = 4096
EXPERTS, USED, EXPERT_FFN = 16, 2, 128  # of the mixture
Shapes = Mapping[str, tuple[int, ...]]
TEXT = """
    river stone cloud winter garden letter window silver morning shadow harbour lantern meadow
    orchard paper quiet rain summer thunder valley willow amber bridge candle dust ember feather
    glass hollow island jasmine kettle linen maple needle ocean pebble quarry ribbon saddle timber
    umber velvet walnut yarrow zephyr acorn barley clover drift
"""
WORDS = tuple(TEXT.split())
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_letters() -> list[str]:
    """The printable letter of each byte, by byte-level BPE's rule: printable ones are their own."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]


def chat_vocabulary() -> dict[str, Any]:
    """Bytes and words; each word grows from its space a letter at a time: merges are few."""
    grown = dict.fromkeys(f"Ġ{word[:end]}" for word in WORDS for end in range(1, len(word) + 1))
    tokens = [*CONTROLS, *byte_letters(), *grown]
    kinds = [3] * len(CONTROLS) + [1] * (len(tokens) - len(CONTROLS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [("i32", kind) for kind in kinds],
        "tokenizer.ggml.merges": [f"{token[:-1]} {token[-1]}" for token in grown],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


def _metadata(architecture: str, title: str) -> dict[str, Any]:
    own = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
    }
    return {
        "general.architecture": architecture,
        "general.name": title,
        "general.license": "mit",
        **{f"{architecture}.{key}": value for key, value in own.items()},
    }


DENSE: Shapes = {
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
}
MIXED: Shapes = {
    "ffn_gate_inp": (EXPERTS, HIDDEN),
    "ffn_gate_exps": (EXPERTS, EXPERT_FFN, HIDDEN),
    "ffn_up_exps": (EXPERTS, EXPERT_FFN, HIDDEN),
    "ffn_down_exps": (EXPERTS, HIDDEN, EXPERT_FFN),
}


def _tensors(
    tokens: list[str], spoken: list[bool], extra_norms: dict[str, int], ffn: Shapes = DENSE
) -> Tensors:
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_norm": (HIDDEN,),
        **ffn,
        **{name: (width,) for name, width in extra_norms.items()},
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), HIDDEN)}
    for index in range(LAYERS):
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"output_norm.weight": (HIDDEN,), "output.weight": (len(tokens), HIDDEN)}
    return {name: ("F32", shape, _values(name, shape, spoken)) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], spoken: list[bool]) -> bytes:
    if len(shape) == 1:
        return np.ones(shape, np.float32).tobytes()
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if name == "output.weight":  # logits of words of some ±8, and 0 for what is none
        values *= 0.5 * np.array(spoken)[:, None]
    elif name != "token_embd.weight":
        values /= np.sqrt(shape[-1])
    return values.astype(np.float32).tobytes()


def write_chat(path: Path) -> Path:
    """A model of arch llama with a chat template, which answers in words: 8.9 MiB."""
    vocabulary = chat_vocabulary()
    tokens: list[str] = vocabulary["tokenizer.ggml.tokens"]
    words = {f"Ġ{word}" for word in WORDS}
    tensors = _tensors(tokens, [token in words for token in tokens], {})
    path.write_bytes(gguf_bytes(_metadata("llama", "Tiny Chat") | vocabulary, tensors))
    return path


def write_mixture(path: Path) -> Path:
    """The same with experts in place of each FFN: some 14 MB."""
    vocabulary = chat_vocabulary()
    tokens: list[str] = vocabulary["tokenizer.ggml.tokens"]
    words = {f"Ġ{word}" for word in WORDS}
    tensors = _tensors(tokens, [token in words for token in tokens], {}, MIXED)
    experts = {
        "expert_count": EXPERTS,
        "expert_used_count": USED,
        "feed_forward_length": EXPERT_FFN,
    }
    metadata = _metadata("llama", "Tiny Mixture") | vocabulary
    metadata |= {f"llama.{key}": value for key, value in experts.items()}
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def write_base(path: Path) -> Path:
    """A model of arch gemma3 without a chat template, which continues in a, b and c."""
    metadata = _metadata("gemma3", "Tiny Base") | {"gemma3.attention.sliding_window": 16}
    tokens: list[str] = VOCABULARY["tokenizer.ggml.tokens"]
    norms = {"attn_q_norm": HEAD_DIM, "attn_k_norm": HEAD_DIM}
    norms |= {"post_attention_norm": HIDDEN, "post_ffw_norm": HIDDEN}
    tensors = _tensors(tokens, [index >= 259 for index in range(len(tokens))], norms)
    path.write_bytes(gguf_bytes(metadata | VOCABULARY, tensors))
    return path


def write_chat_folder(folder: Path, tokenizer: Path) -> Path:
    """The tensors of `write_chat` as a Hugging Face checkpoint, with a tokenizer.json given."""
    folder.mkdir()
    words = {f"Ġ{word}" for word in WORDS}
    tokens: list[str] = chat_vocabulary()["tokenizer.ggml.tokens"]
    tensors = _tensors(tokens, [token in words for token in tokens], {})
    architecture = of_gguf("llama", False, "")
    names = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in architecture.hf_layer.items()}
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    outer["output_norm.weight"] = "model.norm.weight"
    arrays = {}
    for name, (_, shape, data) in tensors.items():
        _, _, rest = name.partition(".")
        index, _, own = rest.partition(".")
        theirs = outer.get(name) or f"model.layers.{index}.{names[own]}"
        arrays[theirs] = np.frombuffer(data, np.float32).reshape(shape)
    save_file(arrays, folder / "model.safetensors")
    config = {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "vocab_size": len(tokens),
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
    settings = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    for file, content in {"config.json": config, "tokenizer_config.json": settings}.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder
