"""Strangers' expressions: found as Python's re finds them, in a bounded time."""

from __future__ import annotations

import re

import pytest

from doppler.adapters.patterns import Pattern
from doppler.errors import FormatError, UnsupportedError

NAMES = (
    *("", "a", "ab", "aab", "model.layers.0.self_attn.q_proj", "model.layers.12.mlp.experts.3.w1"),
    *("vision_tower.layers.1.q_proj", "q_proj", "lm_head", "x\n", "é1_ 2"),
)
PATTERNS = (
    *(
        r"",
        r"a*",
        r"a+b",
        r"a?ab|b",
        r"(a|aa)+b?",
        r"(?:a{2}|b){1,3}",
        r"[^a-c]*",
        r"\w+",
        r"\W?.*",
    ),
    *(r".*\.(q|k|v)_proj", r"(.*\.)?(q_proj)$", r"^model\.layers\.\d+\..*w[13]", r".*?[\d]{2,}.*?"),
    *(
        r"\W?.*",
        r"(?!vision).*proj",
        r".*(?=head)\w*",
        r"\blm\b.*|.*\bq_proj",
        r".*\Bproj",
        r"\Alm_head\Z",
    ),
    *(r"(?P<part>mod)el.*", r".*\s", r"[\s\S]*\n$", r"x$", r"(a*)*b", r"[a-z_]+(\.[a-z_0-9]+)*"),
)


@pytest.mark.parametrize("text", PATTERNS)
def test_they_find_what_re_finds(text: str) -> None:
    pattern = Pattern(text, "x")
    for name in NAMES:
        assert pattern.is_whole(name) == bool(re.fullmatch(text, name)), name
        assert pattern.starts(name) == bool(re.match(text, name)), name


@pytest.mark.parametrize("text", [r"(a*)*c", r"(a|a)*c", r"((a+)+)+c", r"(.*.*.*.*.*.*.*)*c"])
def test_what_would_take_re_years(text: str) -> None:
    assert not Pattern(text, "x").is_whole("a" * 200)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 30 + "x?" + "){2}" * 30,
        "(((((x?){60}){60}){60}){60})+b",
        "(?:" * 9 + "){300}" * 9,
    ],
)
def test_repeats_in_repeats_that_would_take_years_here(text: str) -> None:
    with pytest.raises(UnsupportedError, match="takes too long"):
        Pattern(text, "x").is_whole("a" * 60)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(" * 300 + "a?" + ")*" * 300, FormatError),
        ("(", FormatError),
        ("a" * 5000, FormatError),
        ("(" * 1500 + ")" * 1500, FormatError),
        (r"(a)\1", UnsupportedError),
        (r"(?<=a)b", UnsupportedError),
        ("(?i)a", UnsupportedError),
        ("(?i:a)", UnsupportedError),
    ],
)
def test_what_is_refused(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Pattern(text, "x").is_whole("aab")
