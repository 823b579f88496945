"""How byte-level vocabularies cut a text into words before pieces are joined, by GGUF's name of it.

`tokenizer.ggml.pre` names a rule; llama.cpp (src/llama-vocab.cpp) has the names and what they mean.
A rule is patterns, one after another: each cuts what those before it left into what it matches and
the rest. They are those of the models' own tokenizer.json where these are known.

All is written as patterns: the page's library reads them as the other does, and has steps of its
own for words and digits that do not (U+FEFF is white space to them, and only 0 to 9 are digits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@dataclass(frozen=True)
class Rule:
    """whole: a word that is a token is taken as it is. begins: texts get a begin token, unless the
    file says otherwise. nfc: characters are composed first."""

    patterns: tuple[str, ...]
    whole: bool = False
    begins: bool = False
    nfc: bool = False

    @property
    def normalizer(self) -> dict[str, Any] | None:
        """As tokenizer.json has it."""
        return {"type": "NFC"} if self.nfc else None

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        steps = [split(pattern) for pattern in self.patterns]
        return {"type": "Sequence", "pretokenizers": [*steps, BYTES]}


def split(pattern: str) -> dict[str, Any]:
    """The step that cuts a text into what a pattern matches and the rest."""
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


_SPACES = r"\s+(?!\S)|\s+"
_SHORT = r"'s|'t|'re|'ve|'m|'ll|'d"
_ANY_SHORT = rf"(?i:{_SHORT})"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_LINES = rf"\s*[\r\n]+|{_SPACES}"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_GPT2 = rf"{_SHORT}| ?\p{{L}}+| ?\p{{N}}+|{_SIGNS}|{_SPACES}"


def _words(numbers: str, letters: str = r"\p{L}+", signs: str = rf"{_SIGNS}[\r\n]*") -> str:
    """Words with the sign before them, numbers, signs, ends of lines, white space."""
    return rf"{_ANY_SHORT}|{_BEFORE}{letters}|{numbers}|{signs}|{_LINES}"


def _cased_words(ending: str, numbers: str) -> str:
    """Words that capitals begin, with what they end with."""
    capitals, small = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return (
        rf"{_BEFORE}{capitals}*{small}+{ending}|{_BEFORE}{capitals}+{small}*{ending}"
        rf"|{numbers}|{_SIGNS}[\r\n/]*|{_LINES}"
    )


# Letters that have cases, without those of later Unicode versions and of mathematics.
_CASED_OF_DEEPSEEK = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    "Ὀ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴ"
    "ℹℼ-ℿⅅ-ⅉⅎↃↄ\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_LINE_ENDS = r"[\r\n]"
_EAST_ASIAN = "[一-龥\u0800-一가-\ud7ff]+"
_THREES = r"\p{N}{1,3}"
_DEEPSEEK3 = (
    _THREES,
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES}",
)
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"

_PLAIN = Rule((_GPT2,))
_RULES = {
    "default": Rule((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert": _PLAIN,
    "mpt olmo jais trillion granite-docling exaone4": _PLAIN,
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": Rule(
        (r"\p{N}", _GPT2)
    ),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": Rule(
        (_words(_THREES),), whole=True, begins=True
    ),
    "smaug-bpe dbrx glm4 chatglm-bpe": Rule((_words(_THREES),)),
    "minicpm5": Rule((_THREES, _words(r"\p{N}+")), whole=True),
    "qwen2 deepseek-r1-qwen megrez kormo f2llmv2": Rule((_words(r"\p{N}"),), nfc=True),
    "qwen35": Rule(
        (_words(r"\p{N}", r"[\p{L}\p{M}]+", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),), nfc=True
    ),
    "stablelm2 hunyuan solar-open grok-2": Rule((_words(r"\p{N}"),)),
    "seed-coder": Rule((_words(r"\p{N}", signs=r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Rule(
        (_cased_words(f"{_ANY_SHORT}?", _THREES),), whole=True
    ),
    "tekken": Rule((_cased_words("", r"\p{N}"),), whole=True, begins=True),
    "deepseek-llm": Rule(
        (
            _LINE_ENDS,
            rf"\s?[{_CASED_OF_DEEPSEEK}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            _EAST_ASIAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Rule((_LINE_ENDS, r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": Rule(_DEEPSEEK3),
    "falcon": Rule((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "poro-chat bloom gpt3-finnish": Rule((_BLOOM,)),
    "viking": Rule((_BLOOM, r"\p{N}")),
}
RULES = {name: rule for names, rule in _RULES.items() for name in names.split()}
