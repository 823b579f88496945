"""Chat templates: Jinja as Hugging Face's libraries set it up, the same in the page and elsewhere.

What a template of a model's file may take is bounded (sandbox.py); what it does wrong is told as a
RequestError, and one that cannot be compiled costs the chat, not the model.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro

from doppler.errors import RequestError
from doppler.text.sandbox import Exceeded, Meter, Sandbox

LONGEST = 1 << 17  # characters of a template: real ones have up to some ten thousand
# How deep Python may be in calls beyond the present ones: the page's stack is small, and Pyodide
# ends for good where it is full. 210 public templates take less than 120.
COMPILING, RENDERING = 120, 300
LONGEST_DATE = 1000  # characters of a date's format
KEPT = 8  # templates that are kept compiled


@contextmanager
def _frames(count: int) -> Iterator[None]:
    """At most so many calls in each other beyond the present ones: a RecursionError ends more."""
    frame, depth = sys._getframe(), 0
    while (above := frame.f_back) is not None:
        frame, depth = above, depth + 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(min(before, depth + count))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote, for training: here it does nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class ChatTemplate:
    """A compiled template. Raises RequestError where it cannot be compiled."""

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST:
            raise RequestError(
                f"the chat template has {len(source):,} characters; {LONGEST:,} are read at most"
            )
        options = {"trim_blocks": True, "lstrip_blocks": True}
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        self._sandbox = Sandbox(**options, extensions=extensions)
        self._sandbox.filters["tojson"] = _to_json
        self._sandbox.globals |= {"raise_exception": _raise, "strftime_now": _now}
        self._sandbox.bound()
        try:
            with _frames(COMPILING):
                self._template = self._sandbox.from_string(source)
        except TemplateSyntaxError as error:
            raise RequestError(
                f"the chat template does not parse: {_cut(error.message)} (line {error.lineno})"
            ) from error
        except (Exceeded, Exception) as error:  # what Python's compiler refuses, or recursion
            raise RequestError(f"the chat template cannot be compiled: {_named(error)}") from error

    def render(self, values: Mapping[str, Any], stopped: Callable[[], bool] = bool) -> str:
        """The conversation as text. Raises RequestError; `stopped` ends it early with one."""
        self._sandbox.meter = Meter(stopped)
        try:
            if stopped():
                raise Exceeded("it was stopped")
            with _frames(RENDERING):
                return self._template.render(values)
        except Exceeded as error:
            raise RequestError(f"the model's chat template was stopped: {error}") from error
        except TemplateError as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {_cut(error.message)}"
            ) from error
        except Exception as error:  # a template of strangers can raise any
            raise RequestError(
                f"the model's chat template fails on these messages: {_named(error)}"
            ) from error


@lru_cache(KEPT)
def _compiled(source: str) -> ChatTemplate | str:
    try:
        return ChatTemplate(source)
    except RequestError as error:
        return str(error)


def open_template(source: str | None) -> tuple[ChatTemplate | None, str | None]:
    """A model's template, or why it cannot be used; neither where the model has none."""
    template = None if source is None else _compiled(source)
    return (None, template) if isinstance(template, str) else (template, None)


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would read."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _now(format: str) -> str:
    if len(format) > LONGEST_DATE:
        raise TemplateError(f"a date's format has {len(format):,} characters")
    return datetime.now().strftime(format)


def _cut(text: object) -> str:
    """A stranger's text in a message of ours: printable, one line, not long."""
    shown = re.sub(r"\s+", " ", str(text or "")[:4000])
    shown = "".join(letter for letter in shown if letter.isprintable()).strip()
    return shown if len(shown) <= 300 else f"{shown[:299]}…"


def _named(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    if isinstance(error, Exceeded):
        return str(error)
    return f"{type(error).__name__}: {_cut(error)}"
