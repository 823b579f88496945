"""Tiny models of every shape, and what is asked of any model in the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from halts import tokens_after_halts
from playwright.sync_api import BrowserContext

from app_page import KEEP_WORKER, convert_all
from doppler.command.client import Client
from doppler.store.manifest import MANIFEST_FILE
from expert_files import gguf_of
from fixture_sets import FIXTURES
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, random_tensor
from numpy_model import NumpyModel

MIXTRAL = "mixtral-like"
OWN_EMBEDDINGS = "gemma4-e2b-like"
BROKEN = "qwen2-broken"
PADDED = "llama-padded"
EMBEDDING = "token_embd.weight"
TINY_MARGIN = 1e-3
CONTEXT = 128  # one in which a token is planned in one way only
PIECE = 40  # tokens of a batch: of a prompt of 96, the last piece is shorter
GPU = {"is_cpu": False, "subgroup_size": 4}  # what SwiftShader is taken for: it has subgroups of 4


def mixtral_ggufs(folder: Path) -> dict[str, Path]:
    """The tiny Mixtral as GGUF: its experts one by one, stacked, and with ups wider than gates."""
    convert_all({"checkpoint": FIXTURES / MIXTRAL}, folder)
    kinds: dict[str, dict[str, Any]] = {
        "mixtral-apart": {"stack": False},
        "mixtral-stacked": {"stack": True},
        "mixtral-mixed": {"stack": True, "wide": "ffn_up"},
    }
    for name, how in kinds.items():
        (folder / f"{name}.gguf").write_bytes(gguf_of(folder / "checkpoint", **how))
    return {name: folder / f"{name}.gguf" for name in kinds}


def padded(target: Path) -> Path:
    """A model with a tokenizer, whose embedding has rows for 30 ids more than there are tokens."""
    tensors = llama_tensors("Q8_0")
    kind, (rows, columns), _ = tensors[EMBEDDING]
    shape = (rows + 30, columns)
    tensors[EMBEDDING] = (kind, shape, random_tensor(kind, shape, 1))
    target.write_bytes(gguf_bytes(llama_metadata(), tensors))
    return target


def broken(source: Path, target: Path) -> Path:
    """A checkpoint whose last norm has a weight that is NaN."""
    shutil.copytree(source, target)
    for path in target.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        if norm := header.get("model.norm.weight"):
            at = start + norm["data_offsets"][0]
            data[at : at + 4] = b"\xff" * 4
            path.write_bytes(data)
    return target


def open_client(context: BrowserContext, url: str) -> Client:
    page = context.new_page()
    page.add_init_script(KEEP_WORKER)
    page.goto(url)
    return Client(page)


def load(client: Client, name: str, **args: Any) -> dict[str, Any]:
    """In float32, and with room for small batches: it takes a CPU seconds to make room for 512."""
    stored = client.call("download", {"url": f"models/{name}/{MANIFEST_FILE}"})
    exact = {"kv": "f32", "precision": "f32", "batch": PIECE}
    loaded: dict[str, Any] = client.call("load", {"id": stored["id"], **exact, **args})
    return loaded


def logits(client: Client, target: Path, **args: Any) -> tuple[list[int], np.ndarray]:
    answer = client.save_logits(args, target)
    return answer["prompt_ids"], np.load(target)


def greedy(client: Client, ids: list[int], count: int) -> list[int]:
    args = {"prompt_ids": ids, "max_tokens": count, "ignore_eos": True}
    answer = client.call("complete", {**args, "sampling": {"greedy": True}})
    generated: list[int] = answer["generated_ids"]
    return generated


def assert_halts_change_nothing(
    client: Client, ids: list[int], *, one_of_a_kind: bool = False
) -> None:
    """Halted at each layer in turn, in prefill and in decode, it goes on with the same tokens.

    one_of_a_kind: of layers that are alike, at the first only.
    """
    wanted, found = tokens_after_halts(client.page, ids[:20], 3, one_of_a_kind)
    assert len(wanted) == 3
    assert found == [wanted] * len(found)


def assert_follows(generated: list[int], rows: np.ndarray, margin: float) -> None:
    """Each id is the best of its row, or so close that rounding may decide."""
    for token, row in zip(generated, rows, strict=True):
        assert row.max() - row[token] <= margin


def reuse(client: Client, oracle: NumpyModel) -> Callable[[list[int]], int]:
    """Asks for an answer, compares it with NumPy's, and says how many ids were not run again."""

    def reused(prompt: list[int]) -> int:
        asked = {"max_tokens": 12, "ignore_eos": True, "speculate": "off"}
        asked |= {"prompt_ids": prompt, "sampling": {"greedy": True}}
        answer = client.call("complete", asked)
        rows = oracle.logits(prompt + answer["generated_ids"][:-1])
        assert_follows(answer["generated_ids"], rows[len(prompt) - 1 :], TINY_MARGIN)
        count: int = answer["reused_tokens"]
        return count

    return reused
