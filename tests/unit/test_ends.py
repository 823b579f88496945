"""What ends an answer: all tokens of the names that llama.cpp knows, whatever their type.

The lists of real models are those that llama.cpp prints when it loads them ("EOG tokens").
"""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from doppler.formats.vocabulary import Vocabulary, vocabulary_from_gguf
from tiny_models import byte_letters

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
BY_NAME = """
    <|eot_id|> <|eom_id|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <end_of_turn>
    <|endoftext|> <|end_of_text|> </s> <eos> <EOT> _<EOT> [EOT] [EOS] <end_of_utterance> <turn|>
    <|tool_response> <｜end▁of▁sentence｜> [e~[
    <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]
    <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>
""".split()  # noqa: SIM905


def vocabulary(names: list[str], kind: int = NORMAL, **keys: object) -> Vocabulary:
    """Of the letters of bytes, ids 0 to 255, and then of tokens of a type."""
    found = vocabulary_from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": byte_letters() + names,
            "tokenizer.ggml.token_type": np.array([NORMAL] * 256 + [kind] * len(names), np.int32),
            "tokenizer.ggml.merges": [],
            **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
        },
        "model.gguf",
    )
    assert found is not None
    return found


def ended(names: list[str], **keys: object) -> list[str]:
    return [names[token - 256] for token in vocabulary(names, **keys).eos]


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED, 5, 99])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_token_of_that_name_ends_whatever_its_type(name: str, kind: int) -> None:
    made = vocabulary(["<|other|>", name], kind)
    assert made.eos == (257,)
    if name != "</s>":
        tokenizer = Tokenizer.from_str(made.json.decode())
        assert tokenizer.encode(f"a{name}b").ids == [97, 257, 98]
        assert tokenizer.decode([97, 257, 98]) == "ab"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("<|endoftext|> <|im_start|> <|im_end|>", "<|endoftext|> <|im_end|>"),
        (
            "</s> <|endoftext|> <|im_start|> <|im_end|> <|fim_prefix|> <|fim_pad|> <|repo_name|> "
            "<|file_sep|> <think>",
            "</s> <|endoftext|> <|im_end|> <|fim_pad|> <|repo_name|> <|file_sep|>",
        ),
        (
            "<|begin_of_text|> <|end_of_text|> <|eom_id|> <|eot_id|> <|python_tag|>",
            "<|end_of_text|> <|eom_id|> <|eot_id|>",
        ),
        (
            "<|endoftext|> <|return|> <|channel|> <|start|> <|end|> <|message|> <|call|>",
            "<|endoftext|> <|return|> <|call|>",
        ),
        ("<|end|> <|calls|> <|flush|>", "<|calls|> <|flush|>"),
        ("<|end|> <|return|>", "<|end|> <|return|>"),
        ("<|end|> <|endoftext|> <|user|> <|assistant|>", "<|end|> <|endoftext|>"),
        ("<eos> </s> <turn|> <|tool_response>", "<eos> <turn|> <|tool_response>"),
        ("</s> <|tool_response>", "<|tool_response>"),
        ("<eos> </s> <end_of_turn>", "<eos> <end_of_turn>"),
    ],
)
def test_models_and_their_ends(names: str, expected: str) -> None:
    assert ended(names.split()) == expected.split()


def test_what_the_file_names_comes_first() -> None:
    names = ["<|endoftext|>", "<|im_end|>", "<stop>", "<halt>", "<rest>", "</s>"]
    assert ended(names, eos_token_id=257, eot_token_id=258, eom_token_id=259) == [
        *("<|im_end|>", "<stop>", "<halt>"),
        *("<|endoftext|>", "</s>"),
    ]
    ids = np.array([260, 256, 9999], np.int32)
    made = vocabulary(names, eos_token_id=257, eos_token_ids=ids)
    assert made.eos == (257, 260, 256, 261)
    assert "9999" in made.warnings[0]


def test_a_fill_token_of_the_file_is_the_only_one_of_its_kind() -> None:
    assert ended(["<PAD>", "<filled>"]) == ["<PAD>"]
    assert ended(["<PAD>", "<filled>"], fim_pad_token_id=257) == ["<filled>"]


def test_a_closing_tag_that_the_file_says_ends_is_one() -> None:
    made = vocabulary(["<eos>", "</s>"], eos_token_id=257)
    assert made.eos == (257, 256)
    assert Tokenizer.from_str(made.json.decode()).encode("</s>").ids == [257]


@pytest.mark.parametrize("name", ["<|im_start|>", "<start_of_turn>", "<|channel|>", "<|turn>"])
def test_what_begins_a_turn_is_not_cut_into_letters(name: str) -> None:
    made = vocabulary([name])
    assert made.eos == ()
    assert Tokenizer.from_str(made.json.decode()).encode(f"{name}a").ids == [256, 97]
