"""Streamed text adds up to the text of the whole, with real tokenizers and whatever ids come."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from doppler.text.textstream import Decoder, StopText, TextStream
from doppler.text.tokenizer import Tokenizer
from small_tokenizers import byte_level, sentencepiece, tokenizer_of

FAMILY = "👩\u200d👩\u200d👧"
TEXTS = [
    "",
    "plain",
    "Grüße, 世界 🙂!",
    f"🙂{FAMILY}" * 4,
    "a\n\n  b\t",
    "x\ufffdy",
    "é" * 40,
    "\ufeffa",
]
KINDS = ["sentencepiece", "byte level", "gemma-3-270m", "smollm2-135m-instruct"]


@pytest.fixture(scope="module")
def tokenizers(models: Path) -> dict[str, Tokenizer]:
    documents = {
        "sentencepiece": sentencepiece(["<|a|>", "<|b|>"], ["▁two", "▁▁", "▁▁▁"]),
        "byte level": byte_level(["<|a|>", "<|b|>"], ["<think>", "<0x0A>"]),
        **{name: (models / name / "tokenizer.json").read_bytes() for name in KINDS[2:]},
    }
    return {kind: tokenizer_of(document) for kind, document in documents.items()}


def streamed(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> list[str]:
    """Every piece, the last of which is what was left at the end."""
    stream = TextStream(tokenizer.decoder, before)
    return [*(stream.push(token) for token in ids), stream.finish()]


def rest(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> str:
    """What the text of all ids has beyond that of those before."""
    return tokenizer.decode([*before, *ids])[len(tokenizer.decode(before)) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["", "a", "One\n", "🙂"])
@pytest.mark.parametrize("text", TEXTS)
def test_texts(tokenizers: dict[str, Tokenizer], kind: str, before: str, text: str) -> None:
    tokenizer = tokenizers[kind]
    prompt, ids = tokenizer.encode(before), tokenizer.encode(text)
    pieces = streamed(tokenizer, prompt, ids)
    assert "".join(pieces) == rest(tokenizer, prompt, ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(25))
def test_any_ids(tokenizers: dict[str, Tokenizer], kind: str, seed: int) -> None:
    """Control tokens, ids without a token, halves of characters, wrong bytes, runs of spaces."""
    chance = random.Random(seed)
    tokenizer = tokenizers[kind]
    decoder = tokenizer.decoder
    size = max(decoder.silent) + 40
    few = [chance.randrange(size) for _ in range(4)]
    spaces = tokenizer.encode("  a") + tokenizer.encode(" two")
    pools = [range(size), [*decoder.silent], [*decoder.bytes] or range(256), spaces, few]
    pools += [tokenizer.encode(f"{FAMILY}é世")]

    def some(count: int) -> list[int]:
        return [chance.choice(chance.choice(pools)) for _ in range(count)]

    prompt = some(chance.randrange(12)) + tokenizer.encode(chance.choice(["a", "b <|a|>"]))
    ids = some(120)
    assert "".join(streamed(tokenizer, prompt, ids)) == rest(tokenizer, prompt, ids)
    assert "".join(streamed(tokenizer, [], ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_after_a_control_token(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    control = next(iter(tokenizer.decoder.silent))
    two = tokenizer.encode("a two")[len(tokenizer.encode("a")) :]
    for count in (1, 5, 40):
        ids = [*tokenizer.encode("a"), *[control] * count, *two]
        assert "".join(streamed(tokenizer, [], ids)) == "a two"
        assert "".join(streamed(tokenizer, ids[:-1], ids[-1:])) == rest(
            tokenizer, ids[:-1], ids[-1:]
        )


@pytest.mark.parametrize("cut", range(1, 4))
@pytest.mark.parametrize(
    ("kind", "start"),
    # SentencePiece's run of bytes with half a character at its end has no text at all here.
    [
        *((KINDS[1], start) for start in ("", "a", "é", "abcdefgh🙂")),
        (KINDS[0], ""),
        (KINDS[0], "a"),
    ],
)
def test_a_prompt_that_ends_inside_a_character(
    tokenizers: dict[str, Tokenizer], kind: str, start: str, cut: int
) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(start + "🙂c")
    at = len(ids) - 5 + cut
    assert "".join(streamed(tokenizer, ids[:at], ids[at:])) == "🙂c"


@pytest.mark.parametrize("kind", KINDS)
def test_a_replacement_character_of_the_prompt_is_not_said_again(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = tokenizers[kind]
    assert "".join(streamed(tokenizer, tokenizer.encode("a\ufffd"), tokenizer.encode("b"))) in (
        "b",
        " b",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["text", "controls", "wrong bytes", "no token"])
def test_work_does_not_grow(tokenizers: dict[str, Tokenizer], kind: str, what: str) -> None:
    tokenizer = tokenizers[kind]
    decoder = tokenizer.decoder
    longest = 0

    def decode(ids: Any) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decoder.decode(ids)

    ids = {
        "text": tokenizer.encode("Grüße, two 🙂 ") * 100,
        "controls": [next(iter(decoder.silent))] * 500,
        "wrong bytes": tokenizer.encode("🙂")[:1] * 500,
        "no token": [10_000_000] * 500,
    }[what]
    if kind == "sentencepiece" and what == "wrong bytes":
        ids = tokenizer.encode("🙂") * 125  # a run that is looked at once, when it has ended
    counted = Decoder(decode, decoder.silent, decoder.bytes, decoder.replacement)
    stream = TextStream(counted)
    for token in ids:
        stream.push(token)
    assert longest <= 24


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stop_text_is_found_across_pieces_and_never_shown(size: int) -> None:
    text = "one </ two </s> three"
    stop = StopText(["</s>", "never"])
    shown = "".join(stop.push(text[i : i + size]) for i in range(0, len(text), size))
    assert shown + stop.finish() == "one </ two "
    assert stop.stopped


def test_text_held_back_for_a_stop_that_does_not_come_is_shown() -> None:
    stop = StopText(["###"])
    assert stop.push("a##") == "a"
    assert stop.push("b#") == "##b"
    assert stop.finish() == "#"
