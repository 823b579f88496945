"""Chat templates: what they give, what they may not take, and what they are told."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from doppler.errors import RequestError
from doppler.text import sandbox
from doppler.text.templates import ChatTemplate, open_template
from template_cases import BROKEN, LONGER, REFUSED, RENDERED, VALUES


@pytest.mark.parametrize("source", RENDERED)
def test_a_construct_gives_what_jinja_gives(source: str) -> None:
    assert ChatTemplate(source).render(VALUES) == RENDERED[source]


@pytest.mark.parametrize("source", REFUSED)
def test_a_template_of_strangers_is_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if REFUSED[source] == LONGER:
        monkeypatch.setattr(sandbox, "SECONDS", 0.5)
        monkeypatch.setattr(sandbox, "WORK", 1 << 40)  # which a fast machine would reach first
    template = ChatTemplate(source)
    began, held = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RequestError) as told:
        template.render(VALUES)
    assert REFUSED[source] in str(told.value)
    assert len(str(told.value)) < 400
    assert time.monotonic() - began < 10  # the machine may be busy; unbounded, it takes hours
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 400 << 10  # KiB


@pytest.mark.parametrize("source", BROKEN)
def test_a_template_that_cannot_be_compiled_is_told_once_it_is_opened(source: str) -> None:
    template, problem = open_template(source)
    assert template is None
    assert problem is not None
    assert BROKEN[source] in problem


def test_a_rendering_is_stopped_when_nobody_waits_for_it() -> None:
    looks: list[int] = []

    def stopped() -> bool:
        looks.append(1)
        return len(looks) > 3

    began = time.monotonic()
    with pytest.raises(RequestError, match="stopped"):
        ChatTemplate("{% for i in range(99999) %}x{% endfor %}").render({}, stopped)
    assert time.monotonic() - began < 1


def test_a_template_begins_anew_with_each_rendering() -> None:
    template = ChatTemplate("{{ 'x' * 10 ** 7 }}")
    values: dict[str, Any] = {}
    assert {len(template.render(values)) for _ in range(20)} == {10**7}
