"""Vocabularies become tokenizer.json files whose ids are those of the models' own tokenizers.

fixtures/token_ids.json: for Gemma, the ids that its published tokenizer.json gives; for SmolLM2
those of the first two texts are its own tokenizer's too, the others pin what two libraries gave.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.ends import ends
from doppler.formats.hf_tokenizer import vocabulary_from_files
from doppler.formats.vocabulary import Vocabulary, vocabulary_from_gguf
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import folder_sources
from doppler.store.manifest import Manifest
from gguf_files import VOCABULARY

IDS = json.loads((Path(__file__).parents[1] / "fixtures/token_ids.json").read_text())


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


def folder_of(tmp_path: Path, **files: Any) -> Vocabulary:
    """The tokenizer of a folder: tokenizer.json of `<s>`, but for the files that are given."""
    vocab = {"model": {"vocab": {"<s>": 1}}}
    files = {**files, "tokenizer": {**vocab, **files.get("tokenizer", {})}}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = of_folder(tmp_path)
    assert found is not None
    return found


def processor(text: str, ids: list[int]) -> dict[str, Any]:
    """A step of tokenizer.json that puts a token before every text."""
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": text}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {text: {"id": text, "ids": ids, "tokens": [text]}},
    }


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bos_token": None}, {"bos_token": "<s>"}])
def test_a_begin_token_that_only_the_post_processor_names(
    tmp_path: Path, nested: bool, settings: dict[str, Any]
) -> None:
    step = processor("<|begin|>", [7])
    post = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, step]} if nested else step
    content = {"model": {"vocab": {"<s>": 1, "<|begin|>": 7}}, "post_processor": post}
    found = folder_of(tmp_path, tokenizer=content, tokenizer_config=settings)
    assert (found.bos, found.add_bos) == (7, True)


def test_a_begin_token_of_the_settings_is_put_where_they_say_so(tmp_path: Path) -> None:
    assert folder_of(tmp_path, tokenizer_config={"bos_token": "<s>"}).add_bos is False
    settings = {"bos_token": {"content": "<s>"}, "add_bos_token": True}
    found = folder_of(tmp_path, tokenizer_config=settings)
    assert (found.bos, found.add_bos) == (1, True)
    nothing = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}
    content = {"model": {"vocab": {"<s>": 1}}, "post_processor": nothing}
    assert folder_of(tmp_path, tokenizer=content, tokenizer_config=settings).add_bos is False


def test_ends_of_a_folder_are_those_of_all_its_files_and_of_known_names(tmp_path: Path) -> None:
    names = ["<|endoftext|>", "<|im_end|>", "<stop>", "<|eot_id|>"]
    added = [{"id": 20 + i, "content": name} for i, name in enumerate(names)]
    found = folder_of(
        tmp_path,
        tokenizer={"model": {"vocab": {"a": 0, "</s>": 3, "<|eom_id|>": 4}}, "added_tokens": added},
        tokenizer_config={"eos_token": "<stop>"},
        generation_config={"eos_token_id": [21, 30, -1]},
        config={"eos_token_id": 31, "text_config": {"eos_token_id": 32}},
    )
    assert found.eos == (22, 21, 30, 31, 32, 4, 20, 23)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": {"added_tokens": 3}}, "tokenizer.json: added_tokens is 3"),
        ({"tokenizer": {"added_tokens": [{"content": "<s>"}]}}, r"added_tokens\[0\].id is missing"),
        (
            {"tokenizer": {"added_tokens": [{"content": "<s>", "id": float("inf")}]}},
            r"added_tokens\[0\].id is inf",
        ),
        (
            {"tokenizer": {"added_tokens": [{"content": "<s>", "id": 10**400}]}},
            "id is an integer of 1329 bits",
        ),
        ({"tokenizer": {"added_tokens": [{"content": "\ud800", "id": 1}]}}, "content is '.ud800'"),
        ({"tokenizer": {"model": {"vocab": {"<|im_end|>": 1.5}}}}, r"vocab.<\|im_end\|> is 1.5"),
        ({"tokenizer": {"model": {"vocab": {"a": -1}}}}, r"vocab.a is -1, and must be the id"),
        ({"tokenizer": {"model": {"vocab": {"a": 10**11}}}}, r"vocab.a is 100000000000, and"),
        (
            {"tokenizer": {"model": {"type": "BPE", "vocab": {"a": 1}, "merges": 5}}},
            "merges is 5, and must be a list of pairs",
        ),
        (
            {"tokenizer": {"model": {"type": "BPE", "vocab": {"a": 1}}}},
            "merges is missing, and must be a list of pairs",
        ),
        ({"tokenizer": {"model": 5}}, "model is 5, and must be an object"),
        ({"tokenizer": {"model": {"type": "BPE"}}}, "model.vocab is missing"),
        ({"tokenizer": {"post_processor": {"processors": [3]}}}, "must be a list of objects"),
        ({"tokenizer": {"pre_tokenizer": [1]}}, "pre_tokenizer is .1., and must be an object"),
        ({"tokenizer": {"normalizer": {"prepend": "x"}}}, "normalizer.type is missing"),
        (
            {"tokenizer": {"decoder": {"type": "Sequence", "decoders": [{"type": 3}]}}},
            r"decoder.decoders\[0\].type is 3",
        ),
        (
            {"tokenizer": {"post_processor": {"type": "TemplateProcessing", "single": 3}}},
            "single is 3",
        ),
        ({"tokenizer_config": {"chat_template": [3]}}, "chat_template is .3., and must be a list"),
        ({"tokenizer_config": {"chat_template": "\udc00"}}, "chat_template is"),
        ({"tokenizer_config": {"bos_token": 5}}, "bos_token is 5, and must be a text"),
        ({"tokenizer_config": {"add_bos_token": "yes"}}, "add_bos_token is 'yes'"),
        ({"generation_config": {"eos_token_id": [1, "2"]}}, "eos_token_id is .1, '2'."),
        ({"generation_config": {"eos_token_id": True}}, "eos_token_id is True"),
        ({"generation_config": {"eos_token_id": 1e999}}, "eos_token_id is inf"),
    ],
)
def test_damaged_tokenizers_of_folders(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        folder_of(tmp_path, **files)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_kind_of_tokenizer_that_the_page_does_not_read(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 1}}
    with pytest.raises(
        UnsupportedError, match=r"model\.type is 'WordLevel'; Doppler knows BPE, Uni"
    ):
        folder_of(tmp_path, tokenizer={"model": model})


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"ab\xff\xfe")
    with pytest.raises(FormatError, match="no text in UTF-8: invalid start byte at byte 2"):
        folder_of(tmp_path)


WRONG_KINDS: list[tuple[str, Any]] = [
    *[("model", value) for value in (5, [], np.array([1, 2]))],
    *[("pre", value) for value in (5, True, ["gpt-2"])],
    *[("tokens", value) for value in ("abc", 5, np.array([1, 2]), [["a"]], [[]])],
    *[("token_type", value) for value in (3, [1], "x", np.array([1.0, np.nan]), np.array([True]))],
    *[("merges", value) for value in ("a b", np.array([1, 2]), [["a b"]], 7)],
    *[("bos_token_id", value) for value in ("1", 1.0, True, np.array([1]), [])],
    *[("eos_token_ids", value) for value in (5, ["1"], np.array([1.5]))],
    *[("add_bos_token", value) for value in (1, "true", np.array([True]))],
]


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        (model, key, value)
        for model, ignored in {"gpt2": (), "gemma4": ("pre",), "llama": ("pre", "merges")}.items()
        for key, value in WRONG_KINDS
        if key not in ignored
    ],
)
def test_wrong_kinds_in_gguf_are_named(model: str, key: str, value: Any) -> None:
    data = {**metadata(), **byte_level("gpt-2"), "tokenizer.ggml.model": model}
    data.pop("tokenizer.ggml.scores")
    with pytest.raises(FormatError, match=f"tokenizer.ggml.{key}|list of tokens|list of merges"):
        vocabulary_from_gguf({**data, f"tokenizer.ggml.{key}": value}, "model.gguf")


@pytest.mark.parametrize("value", [np.array(["1"] * 400), np.array([True] * 400), "x", 5, [0.0]])
def test_wrong_kinds_of_scores_are_named(value: Any) -> None:
    with pytest.raises(FormatError, match=r"tokenizer.ggml.scores"):
        vocabulary_from_gguf(metadata(scores=value), "model.gguf")


@pytest.mark.parametrize("wrong", [99_999, -1, 2**32 - 1, 2**63])
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("bos_token_id", (1, (2,))),
        ("eos_token_id", (1, (2,))),
        ("eot_token_id", (1, (2,))),
        ("unknown_token_id", (1, (2,))),
        ("eos_token_ids", (1, (2,))),
    ],
)
def test_ids_out_of_range_are_told_and_the_default_is_taken(
    key: str, expected: tuple[int, tuple[int, ...]], wrong: int
) -> None:
    value = np.array([wrong], object if wrong == 2**63 else np.int64) if key[-1] == "s" else wrong
    vocabulary, tokenizer = made(metadata(**{key: value}))
    assert (vocabulary.bos, vocabulary.eos) == expected
    assert tokenizer.encode("aü").tokens == ["<s>", "▁", "a", "<0xC3>", "<0xBC>"]
    (told,) = vocabulary.warnings
    assert f"tokenizer.ggml.{key}" in told
    assert str(wrong) in told


def test_byte_level_vocabularies_have_no_default_that_is_text() -> None:
    vocabulary, _ = made(byte_level("gpt-2") | {"tokenizer.ggml.bos_token_id": 400})
    assert vocabulary.bos is None
    assert "no token is taken instead" in vocabulary.warnings[0]
    falcon = byte_level("falcon")
    falcon["tokenizer.ggml.token_type"][11] = 3
    del falcon["tokenizer.ggml.eos_token_id"]
    vocabulary, _ = made(falcon)
    assert (vocabulary.bos, vocabulary.eos[0]) == (11, 11)


def test_odd_scores_types_and_tokens_are_taken() -> None:
    data = metadata()
    scores = data["tokenizer.ggml.scores"].astype(np.float64)
    scores[-4:] = [np.nan, np.inf, -np.inf, np.nan]
    data["tokenizer.ggml.scores"] = scores
    data["tokenizer.ggml.token_type"][-1] = 99
    data["tokenizer.ggml.tokens"] = [*data["tokenizer.ggml.tokens"][:-2], "ab", ""]
    _, tokenizer = made(data)
    assert tokenizer.encode("ab").tokens[-1] == "ab"


def test_merges_of_no_tokens_are_left_out_and_told() -> None:
    data = byte_level("gpt-2") | {"tokenizer.ggml.merges": ["a b", "Ġ ab", "x y", "a 1"]}
    vocabulary, tokenizer = made(data)
    assert tokenizer.encode("ab ab").tokens == ["ab", "Ġab"]
    assert "2 merges" in vocabulary.warnings[0]


@pytest.mark.parametrize(
    "tokens",
    [
        ["a" * 200_000, "b"],
        ["ab" * 100_000, "a", "b", "ab"],
        *[[("a" * n) for n in range(1, 1500)]],
        ["a" * n + "b" * m for n in range(60) for m in range(60)],
    ],
    ids=["one", "one of known parts", "all lengths", "all mixtures"],
)
def test_work_stays_in_proportion_to_the_pieces(tokens: list[str]) -> None:
    """Quadratic work took minutes on the first of them."""
    data = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", *tokens]}
    start = time.monotonic()
    vocabulary = vocabulary_from_gguf(data, "model.gguf")
    assert time.monotonic() - start < 3
    assert vocabulary is not None
    assert len(vocabulary.json) < 24 * sum(map(len, tokens)) + (24 << 20)


def test_more_tokens_than_any_vocabulary_has_are_refused() -> None:
    tokens = [f"{number:x}" for number in range((1 << 19) + 1)]
    data = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}
    with pytest.raises(FormatError, match="has 524289 tokens, more than the 524288 that any"):
        vocabulary_from_gguf(data, "x.gguf")


def test_pieces_that_can_be_joined_without_end_are_refused() -> None:
    letters = "abcdefgh"
    runs = ["".join(letters[i] * n for i, n in enumerate(part)) for part in parts(3, 70)]
    data = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", *runs]}
    with pytest.raises(FormatError, match="more ways than those of any tokenizer"):
        vocabulary_from_gguf(data, "model.gguf")


def parts(count: int, total: int) -> list[list[int]]:
    """All lists of `count` numbers whose sum is `total` at most."""
    if count == 0:
        return [[]]
    return [[n, *rest] for n in range(total + 1) for rest in parts(count - 1, total - n)]
