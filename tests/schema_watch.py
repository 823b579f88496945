"""What page and worker say to each other in tests, held against the types of py/doppler/api.

`watch` a page: each of its calls is then told to this process when it has ended. What is not as
the types say is in WRONG, and fails the test that runs (conftest.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Never, NotRequired, TypedDict, get_args, get_type_hints

from playwright.sync_api import Page
from typeguard import (
    CollectionCheckStrategy,
    TypeCheckerCallable,
    TypeCheckError,
    TypeCheckMemo,
    check_type,
    check_type_internal,
    checker_lookup_functions,
)

from doppler.api.api import METHODS

WRONG: list[str] = []
# A page tells of every call that ended: of the page's own, of tests', of the console's.
WATCH = """() => {
  const listen = async () => {
    if (!window.doppler || window.isWatched) return; // another page, or one that did not start
    window.isWatched = true;
    const { client } = await import("/app/client.js");
    const events = new Map();
    const tell = (call, ended) => {
      window.dopplerEnded(JSON.stringify({ ...call, ...ended, events: events.get(call) ?? [] }));
      events.delete(call);
    };
    client.on("start", ({ call }) => events.set(call, []));
    client.on("event", ({ call, event }) => events.get(call)?.push(event));
    client.on("end", ({ call, result }) => tell(call, { result }));
    client.on("fail", ({ call }) => tell(call, {}));
  };
  if (document.readyState === "complete") return listen();
  addEventListener("load", listen);
}"""


def watch(page: Page) -> None:
    """Has it tell of its calls from now on, and after every navigation."""
    page.expose_function("dopplerEnded", lambda told: WRONG.extend(wrong_with(json.loads(told))))
    page.add_init_script(f"({WATCH})()")
    page.evaluate(WATCH)


def wrong_with(call: dict[str, Any]) -> Iterator[str]:
    """What does not fit the method's types; arguments count where they were not refused."""
    if call["method"] not in METHODS:  # boot is the worker's own
        return
    types = types_of(call["method"])
    said = [("an event", event, types.event) for event in call["events"]]
    if "result" in call:
        said += [
            ("the arguments", call["args"], types.args),
            ("the result", call["result"], types.result),
        ]
    for what, value, expected in said:
        try:
            check_type(value, expected, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            yield f"{call['method']}: {what}: {error}: {value!r:.300}"


@dataclass(frozen=True)
class Types:
    """Of a method of Api."""

    args: Any
    result: Any
    event: Any


@cache
def types_of(method: str) -> Types:
    hints = get_type_hints(METHODS[method])
    (event,), _ = get_args(hints["emit"])
    return Types(hints["args"], hints["return"], event)


def _checker(origin: Any, args: Any, extras: Any) -> TypeCheckerCallable | None:
    """What typeguard does not check by itself."""
    if origin is Never:
        return _refuse
    return _check_fields if is_dataclass(origin) else None


def _refuse(value: Any, origin: Any, args: tuple[Any, ...], memo: TypeCheckMemo) -> None:
    raise TypeCheckError("should not be there")


def _check_fields(value: Any, origin: Any, args: tuple[Any, ...], memo: TypeCheckMemo) -> None:
    """A dataclass stands for an object of its fields; those with defaults may be missing."""
    hints = get_type_hints(origin)
    shape = {
        field.name: hints[field.name]
        if field.default is MISSING
        else NotRequired[hints[field.name]]
        for field in fields(origin)
    }
    check_type_internal(value, TypedDict(origin.__name__, shape), memo)  # type: ignore[operator]


checker_lookup_functions.insert(0, _checker)
