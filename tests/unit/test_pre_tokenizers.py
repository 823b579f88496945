"""How texts are cut into words, by tokenizer.ggml.pre: as llama.cpp's rules do, in both libraries.

Over 5,098 texts of awkward characters no id differed from those of the models' own tokenizer.json
(Llama 3.1, GPT-OSS, DeepSeek V3, Qwen3, and Gemma's vocabulary read as `gemma4`), nor from
tiktoken's over Mistral's tekken; and no rule gave other ids in the page's library.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from doppler.errors import UnsupportedError
from doppler.formats.pre_tokenizers import RULES
from doppler.formats.vocabulary import vocabulary_from_gguf
from tiny_models import byte_letters

LIBRARY = Path(__file__).parents[2] / "web" / "runtime" / "tokenizer.js"
LETTERS = byte_letters()
# U+0085 is white space and U+FEFF is none; to a page's own \s it is the other way round.
SAMPLE = "I'LL don't 12345 abe\u0301c HTTPServer 東京は\n\n  x+=1;\t\ufeff\u0085z "
_START, _END = "I|'LL| don|'t| ", "| x|+=|1|;|\t|\ufeff|\u0085z| "
_LINES, _TOKYO = "| HTTPServer| 東京は|\n\n| ", "| HTTPServer| |東京は|\n\n| "
_PLAIN_END = "| HTTPServer| 東京は|\n\n | x|+=|1|;|\t|\ufeff|\u0085|z| "
WORDS = {
    "gpt-2": f"I|'|LL| don|'t| 12345| abe|\u0301|c{_PLAIN_END}",
    "smollm": f"I|'|LL| don|'t| |1|2|3|4|5| abe|\u0301|c{_PLAIN_END}",
    "default": f"I|'|LL| don|'|t| |123|45| abe|\u0301|c{_PLAIN_END}",
    "falcon": f"I|'|LL| don|'|t| |123|45| abe|\u0301|c{_PLAIN_END}",
    "llama-bpe": f"{_START}|123|45| abe|\u0301c{_LINES}{_END}",
    "smaug-bpe": f"{_START}|123|45| abe|\u0301c{_LINES}{_END}",
    "qwen2": f"{_START}|1|2|3|4|5| ab\u00e9c{_LINES}{_END}",
    "qwen35": f"{_START}|1|2|3|4|5| ab\u00e9c{_LINES}{_END}",
    "gpt-4o": f"I'LL| don't| |123|45| abe\u0301c{_LINES}{_END}",
    "tekken": f"{_START}|1|2|3|4|5| abe\u0301c{_LINES}{_END}",
    "deepseek-v3": f"{_START}|123|45| abe\u0301c{_TOKYO}{_END}",
    "deepseek-llm": "I|'|LL| don|'|t| |12345| abe|\u0301|c| HTTPServer| |東京は|\n|\n| | x|+=|1|;"
    "|\t\ufeff|\u0085z| ",
    "deepseek-coder": "I|'|LL| don|'|t| |1|2|3|4|5| abe|\u0301|c| HTTPServer| |東京は|\n|\n| | x|+="
    "|1|;|\t\ufeff|\u0085z| ",
}
SAME = {
    "gpt-2": "phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion exaone4",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "smaug-bpe": "dbrx glm4 chatglm-bpe",
    "qwen2": "deepseek-r1-qwen megrez kormo f2llmv2",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "deepseek-v3": "hunyuan-dense joyai-llm",
}


def metadata(pre: str | None, words: list[str] = [], **keys: object) -> dict[str, Any]:  # noqa: B006
    """A byte-level vocabulary of all bytes and some words."""
    tokens = LETTERS + sorted({as_letters(word) for word in words} - set(LETTERS))
    given = {"pre": pre, "tokens": tokens, "merges": [], **keys}
    named = {f"tokenizer.ggml.{key}": value for key, value in given.items() if value is not None}
    return {"tokenizer.ggml.model": "gpt2", **named}


def as_letters(text: str) -> str:
    return "".join(LETTERS[byte] for byte in text.encode())


def tokenizer_json(pre: str | None, words: list[str] = [], **keys: object) -> dict[str, Any]:  # noqa: B006
    made = vocabulary_from_gguf(metadata(pre, words, **keys), "model.gguf")
    assert made is not None
    content: dict[str, Any] = json.loads(made.json)
    return content


def in_the_page(cases: list[tuple[dict[str, Any], list[str]]]) -> list[list[list[int]]]:
    """Ids of texts by the page's library, for several tokenizer.json."""
    script = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ tokenizerOf }} from {json.dumps(LIBRARY.as_uri())};
        const all = JSON.parse(readFileSync(0, "utf8")).map(([file, texts]) => {{
          const {{ encode }} = tokenizerOf(new TextEncoder().encode(JSON.stringify(file)));
          return texts.map((text) => encode(text));
        }});
        console.log(JSON.stringify(all));
    """
    command = ["node", "--input-type=module", "--eval", script]
    text = json.dumps(cases)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    ids: list[list[list[int]]] = json.loads(done.stdout)
    return ids


def test_words_of_each_rule_in_both_libraries() -> None:
    cases, expected = [], []
    for pre, cut in WORDS.items():
        words = cut.split("|")
        content = tokenizer_json(pre, words)
        content["model"]["ignore_merges"] = True  # so that an id is a word
        here = Tokenizer.from_str(json.dumps(content))
        ids = [here.token_to_id(as_letters(word)) for word in words]
        assert here.encode(SAMPLE).ids == ids, pre
        cases.append((content, [SAMPLE]))
        expected.append([ids])
    assert in_the_page(cases) == expected


@pytest.mark.parametrize(("name", "others"), SAME.items())
def test_other_names_of_a_rule(name: str, others: str) -> None:
    for other in others.split():
        assert RULES[other] == RULES[name], other


def test_whole_words_begin_tokens_and_composing() -> None:
    names = f"{SAME['llama-bpe']} llama-bpe jina-v5-nano tekken"
    assert {name for name, rule in RULES.items() if rule.begins} == set(names.split())
    assert all(rule.whole for rule in RULES.values() if rule.begins)
    assert RULES["qwen2"].normalizer == {"type": "NFC"} == RULES["qwen35"].normalizer
    made = vocabulary_from_gguf(metadata("tekken", ["<s>"], bos_token_id=256), "model.gguf")
    assert made is not None
    assert (made.bos, made.add_bos) == (256, True)


def test_rules_of_files_that_were_converted_before_and_of_folders() -> None:
    """tokenizer.json as others write it, with the library's own steps for words and digits."""
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    numbers = {"type": "Digits", "individual_digits": False}
    texts = ["a\ufeffb", "\ufeff \ufeffa", "a \u0085b", "٣٤5½a7", " ²3"]
    cases, expected = [], []
    for step in [whole, {"type": "Sequence", "pretokenizers": [digits, whole]}, numbers]:
        words = ["a", "b", "٣", "٣٤5½", " a", "\ufeffa", " \ufeff", "\ufeff", "\ufeffb", "²3", "½"]
        content = tokenizer_json("gpt-2", words)
        content["model"]["ignore_merges"] = True
        last = {**whole, "use_regex": False}
        steps = [step, last] if step is numbers else [step]
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        cases.append((content, texts))
        here = Tokenizer.from_str(json.dumps(content))
        expected.append([here.encode(text).ids for text in texts])
    assert in_the_page(cases) == expected


@pytest.mark.parametrize("pre", [None, ""])
def test_a_file_without_a_rule_is_told_and_has_llama_cpps_default(pre: str | None) -> None:
    made = vocabulary_from_gguf(metadata(pre), "model.gguf")
    named = vocabulary_from_gguf(metadata("default"), "model.gguf")
    assert made is not None
    assert named is not None
    assert made.json == named.json
    assert "tokenizer.ggml.pre is missing" in made.warnings[0]
    assert named.warnings == ()


def test_an_unknown_rule_is_named_in_a_short_message() -> None:
    with pytest.raises(UnsupportedError, match="pre-tokenizer 'klingon") as caught:
        vocabulary_from_gguf(metadata("klingon" + "x" * 100_000), "model.gguf")
    assert len(str(caught.value)) < 400


def gemma4(**keys: object) -> dict[str, Any]:
    """Pieces with merges: letters, bytes, runs of ▁ and of ends of lines."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    grown = ["▁▁", "▁▁▁", "\n\n", "\n\n\n", "ab", "▁ab", "b▁"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *bytes_, "▁", "\n", "a", "b", *grown]
    kinds = [3, 3, 3, 3] + [6] * 256 + [1] * (len(tokens) - 260)
    merges = ["\n \n", "\n\n \n", "▁ ▁", "▁▁ ▁", "a b", "▁ ab", "b ▁"]
    given = {"tokens": tokens, "merges": merges, "token_type": np.array(kinds, np.int32)}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3}
    given = {**given, **ids, **keys}
    named = {f"tokenizer.ggml.{key}": value for key, value in given.items()}
    return {"tokenizer.ggml.model": "gemma4", **named}


@pytest.mark.parametrize("kind", [1, 4])
def test_gemma4_has_spaces_as_pieces_and_cuts_lines_only(kind: int) -> None:
    data = gemma4()
    data["tokenizer.ggml.token_type"][264:268] = kind  # runs of ▁ and ends of lines
    made = vocabulary_from_gguf({**data, "tokenizer.ggml.add_bos_token": False}, "model.gguf")
    assert made is not None
    assert (made.bos, made.add_bos, made.eos) == (2, True, (1,))
    here = Tokenizer.from_str(made.json.decode())
    texts = ["ab ab   a\n\n\nb é", "\n\n", "  ", " ab\n ab"]
    cut = [here.encode(text, add_special_tokens=False) for text in texts]
    assert cut[0].tokens == [
        *("ab", "▁ab", "▁▁▁", "a", "\n\n\n", "b▁", "<0xC3>", "<0xA9>"),
    ]
    assert [part.tokens for part in cut[1:]] == [
        ["\n\n"],
        ["▁▁"],
        ["▁ab", "\n", "▁ab"],
    ]
    assert [here.decode(part.ids) for part in cut] == texts
    assert in_the_page([(json.loads(made.json), texts)]) == [[part.ids for part in cut]]
