"""What a tokenizer is given and a request may say, with a tokenizer of bytes."""

from collections.abc import Sequence

import pytest

from doppler.api.request import Request
from doppler.errors import RequestError
from doppler.sampling import ModelSampling, Sampling
from doppler.store.manifest import TokenizerInfo
from doppler.text.messages import Conversation
from doppler.text.tokenizer import Added, Tokenizer


class Bytes:
    """One id a byte; 256 and 257 are control tokens."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], skip_special: bool) -> str:
        shown = [i for i in ids if i < 256]
        text = bytes(shown).decode(errors="replace")
        return text if skip_special else text + "<s>" * (len(ids) - len(shown))

    def ids(self, pieces: Sequence[str]) -> list[int | None]:
        return [None for _ in pieces]

    def added(self) -> list[Added]:
        return [Added("<s>", 256, True), Added("</s>", 257, True)]


def tokenizer(**changes: object) -> Tokenizer:
    info = {"bytes": 1, "blake3": "", "bos": 256, "eos": (257,), "add_bos": True} | changes
    return Tokenizer(Bytes(), TokenizerInfo(chat_template=None, **info), None)  # type: ignore[arg-type]


def test_begin_token_is_added_once_and_only_where_wanted() -> None:
    assert tokenizer().encode("a") == [256, 97]
    assert tokenizer(add_bos=False).encode("a") == [97]
    assert tokenizer(bos=97).encode("a") == [97]


def test_a_model_without_template_refuses_chat() -> None:
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer().encode_chat(Conversation([{"role": "user", "content": "hi"}]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"greedy": 1},
        {"temperature": True},
        {"temperature": float("inf")},
        {"temperature": 10**400},
        {"repetition_penalty": float("inf")},
        {"top_k": float("inf")},
        {"top_k": float("nan")},
        {"heat": 1},
        {"top_k": "many"},
    ],
)
def test_sampling_out_of_range_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Sampling.from_json(wrong)


def test_temperature_zero_is_greedy() -> None:
    assert Sampling.from_json({"temperature": 0}).params(7)["greedy"] == 1
    assert Sampling.from_json({"top_k": 100}).params(7)["top_k"] == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": "x"},
        {"max_tokens": True},
        {"stop": "text"},
        {"sampling": [1]},
    ],
)
def test_request_out_of_range_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Request.from_json(wrong, ModelSampling())
