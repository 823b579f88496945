"""Whether an answer is what was asked for: by its headers, as servers send and sites hide them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doppler.errors import SourceError
from doppler.inputs.answers import Answer, check_range, check_same, check_whole

URL = "https://a.b/m.gguf"
GOOD = Answer(206, "bytes 100-199/1000", 100, etag='"a"', modified="Mon", where="https://c.d/m")
HIDDEN = replace(GOOD, range="", etag="", hides=True)


@pytest.mark.parametrize(
    ("answer", "size", "told"),
    [
        (GOOD, 1000, 1000),
        (GOOD, None, 1000),
        (replace(GOOD, length=None), 1000, 1000),
        (replace(GOOD, range="BYTES 100-199/*"), 1000, 1000),
        (replace(GOOD, range="bytes 100-199/*"), None, None),
        (replace(GOOD, range="bytes 100-149/150", length=50), None, 150),
        (replace(GOOD, encoding="identity"), 1000, 1000),
        (HIDDEN, 1000, 1000),
        (HIDDEN, None, None),
        (replace(HIDDEN, length=50), None, None),  # the file may end there
    ],
)
def test_ranges_that_are_right(answer: Answer, size: int | None, told: int | None) -> None:
    assert check_range(URL, answer, 100, 200, size) == told


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (replace(GOOD, range="bytes 116-215/1000"), "answered with bytes 116 to 215"),
        (replace(GOOD, range="bytes 100-198/1000", length=99), "answered with bytes 100 to 198"),
        (replace(GOOD, range="bytes 100-200/1000", length=101), "answered with bytes 100 to 200"),
        (replace(GOOD, range="bytes 0-999/1000", length=1000), "answered with bytes 0 to 999"),
        (replace(GOOD, range="bytes 100-199/1001"), "has 1001 bytes and 1000 were expected"),
        (replace(GOOD, range="bytes 100-199"), "answered with 'bytes 100-199'"),
        (replace(GOOD, range="lines 100-199/1000"), "answered with 'lines 100-199/1000'"),
        (replace(GOOD, range="bytes -1-99/1000"), "answered with 'bytes -1-99/1000'"),
        (replace(GOOD, range="bytes 9" * 999), "bytes 9bytes 9"),
        (replace(GOOD, range=""), "a part without Content-Range"),
        (replace(GOOD, length=99), "answered with 99 bytes"),
        (replace(GOOD, length=101), "answered with 101 bytes"),
        (replace(HIDDEN, length=101), "answered with 101 bytes"),
        (replace(HIDDEN, length=99), "answered with 99 bytes"),
        (replace(GOOD, encoding="gzip"), "answered with bytes packed by gzip"),
        (replace(GOOD, type="multipart/byteranges; boundary=x"), "answered with several parts"),
        (replace(GOOD, status=200), "ignores range requests"),
        (replace(GOOD, status=200, type="text/html; charset=utf-8"), "sent a web page instead"),
        (replace(GOOD, status=204), "answered 204"),
        (replace(GOOD, status=404), "answered 404; check the address"),
        (replace(GOOD, status=412), "answered 412"),
        (replace(GOOD, status=416), "shorter than it should be"),
        (replace(GOOD, status=429), "asked too often"),
        (replace(GOOD, status=503), "answered 503; try again later"),
    ],
)
def test_ranges_that_are_wrong(answer: Answer, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_range(URL, answer, 100, 200, 1000)
    assert str(caught.value).startswith(URL)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_first_range_of_a_short_file() -> None:
    short = replace(GOOD, range="bytes 0-9/10", length=10)
    assert check_range(URL, short, 0, 65536, None) == 10
    with pytest.raises(SourceError, match="bytes 0 to 8"):
        check_range(URL, replace(GOOD, range="bytes 0-8/10", length=9), 0, 65536, None)


@pytest.mark.parametrize(
    ("first", "now", "same"),
    [
        ({}, {}, True),
        ({}, {"modified": "Tue"}, True),  # a strong ETag tells by itself
        ({}, {"where": "https://e.f/m"}, True),  # signed addresses change
        ({}, {"etag": '"b"'}, False),
        ({}, {"etag": ""}, False),
        ({}, {"etag": 'W/"a"'}, False),
        ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}, True),
        ({"etag": 'W/"a"'}, {"etag": 'W/"b"'}, False),
        ({"etag": 'W/"a"'}, {"etag": 'W/"a"', "modified": "Tue"}, False),
        ({"etag": ""}, {"etag": ""}, True),
        ({"etag": ""}, {"etag": "", "modified": "Tue"}, False),
        ({"etag": ""}, {"etag": "", "modified": ""}, False),
        ({"etag": "", "modified": ""}, {"etag": "", "modified": ""}, True),
        (
            {"etag": "", "modified": ""},
            {"etag": "", "modified": "", "where": "https://c.d/n"},
            False,
        ),
    ],
)
def test_versions(first: dict[str, str], now: dict[str, str], same: bool) -> None:
    before, after = replace(GOOD, **first), replace(GOOD, **now)
    if same:
        check_same(URL, before, after)
    else:
        with pytest.raises(SourceError, match="changed since it was first read"):
            check_same(URL, before, after)


def test_whole_files() -> None:
    check_whole(URL, Answer(200, length=10), 10)
    check_whole(URL, Answer(200, length=10), None)
    check_whole(URL, Answer(200), 10)
    check_whole(URL, Answer(200, length=7, encoding="gzip"), 10)
    with pytest.raises(SourceError, match="sent 9 bytes and not the 10"):
        check_whole(URL, Answer(200, length=9), 10)
    with pytest.raises(SourceError, match="answered 500"):
        check_whole(URL, Answer(500), 10)
