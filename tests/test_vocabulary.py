"""Vocabularies become tokenizer.json files whose ids are those of the models' own tokenizers.

fixtures/token_ids.json: for Gemma, the ids that its published tokenizer.json gives; for SmolLM2
those of the first two texts are its own tokenizer's too, the others pin what two libraries gave.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doppler.buffers import MemoryBuffers
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.ends import ends
from doppler.formats.hf_tokenizer import vocabulary_from_files
from doppler.formats.vocabulary import Vocabulary, vocabulary_from_gguf
from doppler.manifest import Manifest
from doppler.source import folder_sources
from gguf_files import VOCABULARY

IDS = json.loads(Path(__file__).with_name("fixtures").joinpath("token_ids.json").read_text())


@pytest.mark.parametrize("name", IDS)
def test_ids_of_the_shipped_models(models: Path, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(models / name / "tokenizer.json"))
    for text, ids in IDS[name].items():
        assert tokenizer.encode(text).ids == ids, text


def test_shipped_tokenizers_say_what_ends_a_text(models: Path) -> None:
    infos = {}
    for name in IDS:
        path = models / name / "manifest.json"
        infos[name] = Manifest.from_json(path.read_text(encoding="utf-8"), str(path)).tokenizer
    gemma, smol = infos["gemma-3-270m"], infos["smollm2-135m-instruct"]
    assert gemma is not None
    assert smol is not None
    assert (gemma.bos, gemma.eos, gemma.add_bos, gemma.chat_template) == (2, (1, 106), True, None)
    assert (smol.bos, smol.eos[0], smol.add_bos) == (1, 2, False)
    tokenizer = Tokenizer.from_file(str(models / "smollm2-135m-instruct" / "tokenizer.json"))
    # <|im_end|>, <|endoftext|>, <reponame>; models that were stored before have the first alone
    assert ends(tokenizer.get_vocab(), smol.eos) == (2, 0, 4)
    assert "<|im_start|>" in (smol.chat_template or "")


def metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of the small SentencePiece vocabulary, as the reader gives it."""
    numbers = {
        "tokenizer.ggml.scores": np.array(VOCABULARY["tokenizer.ggml.scores"], np.float32),
        "tokenizer.ggml.token_type": np.array(
            [kind for _, kind in VOCABULARY["tokenizer.ggml.token_type"]], np.int32
        ),
    }
    given = {f"tokenizer.ggml.{key}": item for key, item in changes.items()}
    return {**VOCABULARY, **numbers, **given}


def made(data: dict[str, Any]) -> tuple[Vocabulary, Tokenizer]:
    vocabulary = vocabulary_from_gguf(data, "model.gguf")
    assert vocabulary is not None
    return vocabulary, Tokenizer.from_str(vocabulary.json.decode())


def test_pieces_are_joined_by_score_and_the_rest_is_bytes() -> None:
    vocabulary, tokenizer = made(metadata())
    assert tokenizer.encode("abc").tokens == ["<s>", "▁", "abc"]  # a space comes before it
    assert tokenizer.encode("cab b").tokens == ["<s>", "▁", "c", "ab", "▁", "b"]
    assert tokenizer.encode("aü").tokens == ["<s>", "▁", "a", "<0xC3>", "<0xBC>"]
    assert tokenizer.encode("a</s>").tokens == ["<s>", "▁", "a", "</s>"]
    assert tokenizer.decode(tokenizer.encode("ab cü b").ids) == "ab cü b"
    assert (vocabulary.bos, vocabulary.eos, vocabulary.add_bos) == (1, (2,), True)


def test_no_space_before_and_no_begin_token_where_the_file_says_so() -> None:
    _, tokenizer = made(metadata(add_space_prefix=False, add_bos_token=False))
    assert tokenizer.encode("abc ab").tokens == ["abc", "▁ab"]
    assert tokenizer.decode(tokenizer.encode(" ab").ids) == " ab"


def test_user_defined_runs_of_spaces() -> None:
    tokens = [*VOCABULARY["tokenizer.ggml.tokens"], "  ", "   "]
    data = metadata(tokens=tokens, add_space_prefix=False)
    types = [*data["tokenizer.ggml.token_type"], 4, 4]
    data["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    data["tokenizer.ggml.scores"] = np.append(data["tokenizer.ggml.scores"], [-1000, -1000])
    _, tokenizer = made(data)
    assert tokenizer.encode("a   ab  c").tokens == ["<s>", "a", "▁▁▁", "ab", "▁▁", "c"]


def byte_level(pre: str) -> dict[str, Any]:
    """A byte-level vocabulary of single letters with two merges and a control token."""
    tokens = ["<|end|>", *"abcĠ1234'sĊ", "ab", "Ġab", "<|im_end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3] + [1] * (len(tokens) - 2) + [3]),
        "tokenizer.ggml.merges": ["a b", "Ġ ab"],
        "tokenizer.ggml.eos_token_id": 0,
    }


@pytest.mark.parametrize("pre", ["default", "gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o"])
def test_byte_level_tokenizers(pre: str) -> None:
    vocabulary, tokenizer = made(byte_level(pre))
    text = "ab ab's 1234\n<|im_end|>"
    encoded = tokenizer.encode(text)
    assert encoded.tokens[:2] == ["ab", "Ġab"]
    assert encoded.tokens[-1] == "<|im_end|>"
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    assert vocabulary.eos == (0, len(byte_level(pre)["tokenizer.ggml.tokens"]) - 1)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (metadata(model="t5"), UnsupportedError, "'t5' is not one of llama, gpt2"),
        (metadata(tokens=[]), FormatError, "no list of tokens"),
        (metadata(scores=np.zeros(3)), FormatError, "scores does not have one number"),
        (metadata(bos_token_id="1"), FormatError, "bos_token_id is '1', and must be the number"),
        (byte_level("gpt-2") | {"tokenizer.ggml.merges": ["ab"]}, FormatError, "merge 'ab'"),
    ],
)
def test_vocabularies_that_are_refused(
    data: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        vocabulary_from_gguf(data, "model.gguf")


def test_no_tokenizer_is_none() -> None:
    assert vocabulary_from_gguf({"tokenizer.ggml.model": "none"}, "model.gguf") is None


def of_folder(folder: Path) -> Vocabulary | None:
    return asyncio.run(vocabulary_from_files(folder_sources(folder), MemoryBuffers()))


def test_tokenizer_of_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert of_folder(tmp_path) is None
    content = made(metadata())[0].json
    (tmp_path / "tokenizer.json").write_bytes(content)
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ a }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    expected = Vocabulary(content, bos=1, eos=(2, 7), add_bos=True, chat_template="{{ a }}")
    assert of_folder(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ b }}")
    vocabulary = of_folder(tmp_path)
    assert vocabulary is not None
    assert vocabulary.chat_template == "{{ b }}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b'{"added_tokens": 3}'),
        ("tokenizer.json", b'{"added_tokens": [{"content": "<s>"}]}'),
        (
            "tokenizer.json",
            b'{"post_processor": {"processors": [3]}, "model": {"vocab": {"<s>": 1}}}',
        ),
        ("tokenizer_config.json", b'{"bos_token": "<s>", "chat_template": [3]}'),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
)
def test_damaged_tokenizers_of_folders(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": {"vocab": {"<s>": 1}}}')
    (tmp_path / "tokenizer_config.json").write_bytes(b'{"bos_token": "<s>"}')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match="is damaged"):
        of_folder(tmp_path)
