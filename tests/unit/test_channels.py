"""Reasoning and answer are told apart by ids, for every format, however the text is cut."""

from __future__ import annotations

import random
import re

import pytest

from doppler.text.answer import Output, Shown
from doppler.text.markers import HARMONY, PAIRS, Pair
from doppler.text.tokenizer import Tokenizer
from doppler.text.tools import ToolCall
from small_tokenizers import byte_level, sentencepiece, tokenizer_of

ENDS = ["<|im_end|>", "<|constrain|>"]


def model(*controls: str, defined: tuple[str, ...] = ()) -> Tokenizer:
    return tokenizer_of(byte_level([*controls, *ENDS], defined))


def read(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[str | None, str]:
    """The reasoning and the answer, which are what the pieces add up to."""
    ids = tokenizer.encode(prompt)
    heard: list[Shown | ToolCall] = []
    output = Output(tokenizer.reader(ids), [], heard.append)
    tokens = tokenizer.encode(answer)
    for token in tokens:
        output.push(token)
        assert not output.stopped
    output.finish()
    shown = [it for it in heard if isinstance(it, Shown)]
    parts = {"reasoning": "", "answer": "", "tool_call": ""}
    for it in shown:
        parts[it.part] += it.text
    assert parts["answer"] == output.text
    assert parts["reasoning"] == (output.reasoning or "")
    assert [it.token for it in shown if it.token is not None] == tokens
    return output.reasoning, output.text


ANSWERS = {  # with the markers as O and C: what is thought, and what is said
    "O\nShe waits.\n\nC\n\nHello!": ("She waits.", "Hello!"),
    "Oé🙂CGrüße": ("é🙂", "Grüße"),
    "O\n\nC\n\nHello!": (None, "Hello!"),
    " Hello!\n": (None, " Hello!\n"),
    "Oand then\n": ("and then", ""),
    "Oa\n\n b  c C": ("a\n\n b  c", ""),
    "": (None, ""),
    "Hello C there": (None, "Hello  there"),
    "OaCone ObC two": ("a\n\nb", "one \n\ntwo"),
    "O" + "🙂" * 3: ("🙂🙂🙂", ""),
}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.opens)
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("special", [True, False])
def test_pairs_of_tokens(pair: Pair, answer: str, special: bool) -> None:
    markers = (pair.opens, pair.closes)
    tokenizer = model(*markers) if special else model(defined=markers)
    opens = pair.opens + ("thought\n" if pair.named else "")
    written = answer.replace("O", opens).replace("C", pair.closes)
    assert read(tokenizer, "<|im_end|>assistant\n", written) == ANSWERS[answer]
    begun = written.removeprefix(opens)
    if begun != written:  # the template has opened the reasoning itself
        for blank in ("", "\n"):
            prompt = f"hello{pair.opens}a{pair.closes}{opens}{blank}"
            assert read(tokenizer, prompt, begun) == ANSWERS[answer]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.opens)
def test_a_closed_pair_in_the_prompt_is_none(pair: Pair) -> None:
    for tokenizer in (model(pair.opens, pair.closes), model()):
        name = "thought" if pair.named else ""
        prompt = f"<|im_end|>{pair.opens}{name}\n\n{pair.closes}\n\n"
        assert read(tokenizer, prompt, " Hello!") == (None, " Hello!")


SPELLED = [pair for pair in PAIRS if pair.spelled]


@pytest.mark.parametrize("pair", SPELLED, ids=lambda pair: pair.opens)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("O\nShe waits.\n\nC\n\nHello!", ("She waits.", "Hello!")),
        ("\n\nOé🙂CGrüße O", ("é🙂", "Grüße O")),
        ("Oand then < </", ("and then < </", "")),
        ("Write OabC.", (None, "Write OabC.")),  # not at the beginning
        ("<", (None, "<")),
        (" <b>", (None, " <b>")),
        ("  \n", (None, "  \n")),
    ],
)
def test_pairs_that_are_spelled_out(
    pair: Pair, answer: str, expected: tuple[str | None, str]
) -> None:
    tokenizer = model()

    def written(text: str) -> str:
        return text.replace("O", pair.opens).replace("C", pair.closes)

    reasoning, said = expected
    assert read(tokenizer, "<|im_end|>", written(answer)) == (reasoning, written(said))
    if answer.startswith("O"):
        prompt = f"<|im_end|>assistant\n{pair.opens}\n"
        assert read(tokenizer, prompt, written(answer[1:])) == (reasoning, written(said))


def test_tokens_that_a_file_types_as_plain_text() -> None:
    """The template's are cut into letters; the model writes the tokens all the same."""
    tokenizer = tokenizer_of(byte_level(ENDS, plain=("<think>", "</think>")))
    opens, closes = (256 + len(ENDS), 256 + len(ENDS) + 1)
    for prompt, begin in (("<|im_end|>a\n<think>\n", []), ("<|im_end|>a\n", [opens])):
        output = Output(tokenizer.reader(tokenizer.encode(prompt)), [], lambda shown: None)
        for token in [*begin, *tokenizer.encode("hm"), closes, *tokenizer.encode("yes")]:
            output.push(token)
        output.finish()
        assert (output.reasoning, output.text) == ("hm", "yes")


def test_text_that_looks_like_a_token_is_text() -> None:
    """Where the vocabulary has the tokens, only they are markers."""
    tokenizer = model("<think>", "</think>")
    spelled = [token for letter in "<think>a</think>" for token in tokenizer.encode(letter)]
    output = Output(tokenizer.reader([]), [], lambda shown: None)
    for token in spelled:
        output.push(token)
    output.finish()
    assert (output.reasoning, output.text) == (None, "<think>a</think>")


def test_a_channel_whose_name_is_not_known_is_shown() -> None:
    tokenizer = model("<|channel>", "<channel|>")
    assert read(tokenizer, "a", "<|channel>final\nHello<channel|> you") == (None, "Hello you")
    assert read(tokenizer, "a", "<|channel>so be it<channel|>Hello") == ("so be it", "Hello")
    assert read(tokenizer, "a", "<|channel>thou") == (None, "")
    words = "and so on " * 20
    assert read(tokenizer, "a", f"<|channel>{words}<channel|>Hello") == (words.strip(), "Hello")


HARMONIES = {
    "analysis, final": (
        "<|channel|>analysis<|message|>User says hi.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Hello!<|return|>",
        ("User says hi.", "Hello!"),
    ),
    "commentary is for people": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "Let me see.<|end|><|start|>assistant<|channel|>analysis<|message|>So.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes.",
        ("Hm.\n\nSo.", "Let me see.\n\nYes."),
    ),
    "a call": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.get <|constrain|>json<|message|>{"a": 1}<|call|>',
        ("Hm.", ""),
    ),
    "a call that is none": (
        "<|channel|>commentary to=functions.get <|constrain|>json<|message|>{a<|call|>",
        (None, "<|channel|>commentary to=functions.get <|constrain|>json<|message|>{a"),
    ),
    "a call whose role says to whom": (
        " to=functions.get<|channel|>commentary json<|message|>{}<|call|>",
        (None, ""),
    ),
    "no channel": ("<|message|>Hello!<|end|>", (None, "Hello!")),
    "no header": ("Hello 🙂!", (None, "Hello 🙂!")),
    "no header, short": ("t", (None, "t")),
    "ended in the header": ("<|channel|>ana", (None, "")),
    "ended while thinking": ("<|channel|>analysis<|message|>User 🙂 ", ("User 🙂", "")),
    "nothing": ("", (None, "")),
    "a header without an end": (
        f"<|channel|>{'and so on ' * 20}",
        (None, f"<|channel|>{'and so on ' * 20}"),
    ),
}


@pytest.mark.parametrize("case", HARMONIES)
def test_harmony(case: str) -> None:
    answer, expected = HARMONIES[case]
    tokenizer = model(*HARMONY)
    asked = "<|start|>user<|message|>hi<|end|>"
    assert read(tokenizer, f"{asked}<|start|>assistant", answer) == expected


def test_harmony_begun_by_the_template() -> None:
    tokenizer = model(*HARMONY)
    prompt = "<|start|>assistant<|channel|>analysis<|message|>"
    assert read(tokenizer, prompt, "Hm.<|end|>") == ("Hm.", "")
    prompt = "<|start|>assistant<|channel|>final<|message|>"
    assert read(tokenizer, prompt, "Hello") == (None, "Hello")


def test_stop_texts_apply_to_the_answer_only() -> None:
    tokenizer = model("<think>", "</think>")
    output = Output(tokenizer.reader([]), ["stop"], lambda shown: None)
    tokens = tokenizer.encode("<think>stop</think>a stop b")
    for token in tokens:
        output.push(token)
        if output.stopped:
            break
    output.finish()
    assert (output.reasoning, output.text) == ("stop", "a ")
    assert output.count == len(tokens) - len(" b")


def test_what_was_held_back_for_a_stop_comes_at_the_end() -> None:
    tokenizer = model()
    shown: list[Shown | ToolCall] = []
    output = Output(tokenizer.reader([]), ["stop"], shown.append)
    for token in tokenizer.encode("a st"):
        output.push(token)
    output.finish()
    assert output.text == "a st"
    assert shown[-1] == Shown(None, "st", 4, "answer")


def test_raw_continuations_are_not_parsed() -> None:
    tokenizer = model(defined=("<think>", "</think>"))
    output = Output(tokenizer.plain_reader([]), [], lambda shown: None)
    text = "<think>a</think>\n b"
    for token in tokenizer.encode(text):
        output.push(token)
    output.finish()
    assert (output.reasoning, output.text) == (None, text)


def test_a_space_that_begins_an_answer_after_reasoning_is_dropped() -> None:
    tokenizer = tokenizer_of(sentencepiece(["<think>", "</think>"], ["▁two"]))
    think, close = tokenizer.encode("<think>")[-1], tokenizer.encode("</think>")[-1]
    two = tokenizer.encode("two")
    output = Output(tokenizer.reader([]), [], lambda shown: None)
    for token in [think, *two, *two, close, *two, *two]:
        output.push(token)
    output.finish()
    assert (output.reasoning, output.text) == ("two two", "two two")


def test_without_a_tokenizer_only_ids_are_told() -> None:
    shown: list[Shown | ToolCall] = []
    output = Output(None, ["a"], shown.append)
    output.push(5)
    output.finish()
    assert shown == [Shown(5, "", 1, "answer")]
    assert output.text == ""


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_is_shown_once(seed: int) -> None:
    chance = random.Random(seed)
    markers = [text for pair in PAIRS if not pair.named for text in (pair.opens, pair.closes)]
    texts = ["analysis", "🙂", "a b", "\n\n", "<", *markers]
    text = "".join(chance.choice(texts) for _ in range(60))
    said = "".join(part or "" for part in read(model(*markers), "hello", text))
    assert said.count("🙂") == text.count("🙂")
    assert not any(marker in said for marker in markers)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_harmony_says_is_read(seed: int) -> None:
    """Messages show what is in them; headers are not shown."""
    chance = random.Random(seed)
    texts = ["analysis", "final", "🙂", "a b", "\n\n", " to=x", *HARMONY]
    text = "".join(chance.choice(texts) for _ in range(60))
    said = "".join(part or "" for part in read(model(*HARMONY), "hello<|start|>assistant", text))
    ends = r"<\|(?:start|channel|end|return|call)\|>"
    written = "".join(re.split(ends, part)[0] for part in text.split("<|message|>")[1:])
    assert written.count("🙂") <= said.count("🙂") <= text.count("🙂")
