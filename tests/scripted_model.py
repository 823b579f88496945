"""A tiny model that says what it was built to say, as a GGUF file: for tests of what is shown.

The next token depends on the last one alone: attention and feed-forward layers add nothing, and the
output row of each token of the script is the embedding of the token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gguf_files import Tensors, gguf_bytes
from tiny_models import TEMPLATE, WORDS, chat_vocabulary

HIDDEN, HEADS, HEAD_DIM, FFN, CONTEXT = 256, 2, 64, 256, 1024
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
SURE = 0.5  # how much its logit, some ±128, is above those of all others

_NORMAL, _DEFINED = 1, 4  # tokenizer.ggml.token_type of user-defined tokens
_LAST = "Ċ"  # what a prompt of the template ends with: a line's end
THOUGHT, SAID = [f"Ġ{word}" for word in WORDS[:24]], [f"Ġ{word}" for word in WORDS[24:30]]
THINKING = ["<think>", *THOUGHT, "</think>", *SAID, "<|im_end|>"]
BROODING = ["<think>", *THOUGHT, THOUGHT[0]]  # for ever
CALL = ['{"name":Ġ"weather",', 'Ġ"arguments":Ġ{"city":Ġ"Paris"}}']  # tokens of their own
WITH_TOOLS = TEMPLATE.replace(
    "{{ message.content }}",
    "{{ message.content or '' }}{% for call in message.tool_calls or [] %}<tool_call>"
    "{{ call.function | tojson }}</tool_call>{% endfor %}",
)
WITH_TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}" + WITH_TOOLS
CALLING = [*SAID, "<tool_call>", *CALL, "</tool_call>", "<|im_end|>"]


def write_script(
    path: Path, script: Sequence[str], title: str = "Tiny Script", **keys: Any
) -> Path:
    """A chat model of arch llama that answers with the tokens of `script`, each of them once.

    keys: of its metadata, in place of others or beside them; __ stands for a dot.
    """
    vocabulary = chat_vocabulary()
    tokens = [*vocabulary["tokenizer.ggml.tokens"], *MARKS, *CALL]
    kinds = [*vocabulary["tokenizer.ggml.token_type"], *[("i32", _DEFINED)] * len(MARKS)]
    kinds += [("i32", _NORMAL)] * len(CALL)
    ids = {token: at for at, token in enumerate(tokens)}
    follows = [(ids[before], ids[after]) for before, after in pairwise([_LAST, *script])]
    assert len({before for before, _ in follows}) == len(follows), "a token has one to follow it"
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": title,
        "llama.block_count": 1,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.attention.key_length": HEAD_DIM,
        "llama.attention.value_length": HEAD_DIM,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.freq_base": 10000.0,
        **vocabulary,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    path.write_bytes(gguf_bytes(metadata, _tensors(len(tokens), follows)))
    return path


def _tensors(vocab: int, follows: Sequence[tuple[int, int]]) -> Tensors:
    embedding = np.random.default_rng(0).normal(size=(vocab, HIDDEN)).astype(np.float32)
    output = np.zeros_like(embedding)
    for before, after in follows:
        output[after] += SURE * embedding[before]
    width = HEADS * HEAD_DIM
    layer = {
        "attn_norm": np.ones(HIDDEN),
        "attn_q": np.zeros((width, HIDDEN)),
        "attn_k": np.zeros((width, HIDDEN)),
        "attn_v": np.zeros((width, HIDDEN)),
        "attn_output": np.zeros((HIDDEN, width)),
        "ffn_norm": np.ones(HIDDEN),
        "ffn_gate": np.zeros((FFN, HIDDEN)),
        "ffn_up": np.zeros((FFN, HIDDEN)),
        "ffn_down": np.zeros((HIDDEN, FFN)),
    }
    arrays = {"token_embd.weight": embedding}
    arrays |= {f"blk.0.{name}.weight": values for name, values in layer.items()}
    arrays |= {"output_norm.weight": np.ones(HIDDEN), "output.weight": output}
    return {
        name: ("F32", values.shape, values.astype(np.float32).tobytes())
        for name, values in arrays.items()
    }
