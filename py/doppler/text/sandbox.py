"""Jinja's sandbox with bounds: a chat template is a program of strangers.

Jinja's own sandbox keeps a template from Python's insides. This one also bounds what it takes: the
time of a rendering, the size of each value and of all that is made, and how deep calls nest. Python
cannot be stopped inside one operation, so that an operation whose result may be larger than what
goes in is measured before it is done; loops and calls look at the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import update_wrapper
from itertools import chain
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from doppler.text.size_estimates import ITEM, estimate

SECONDS = 1.8  # of a rendering
LARGEST = 16 << 20  # characters of one value, written out
WORK = 128 << 20  # characters of everything that one rendering makes
DEEPEST = 100  # lists in lists, filters of filters
CALLS = 25  # calls in calls
COSTS = 256  # ticks from one look at the clock to the next
CHARACTERS = 1000  # whose making costs as much as a tick
_EMPTY: dict[str, Any] = {}
VIEWS = (type(_EMPTY.keys()), type(_EMPTY.items()), type(_EMPTY.values()))
CONTAINERS = (list, tuple, dict, set, frozenset, *VIEWS)
# Names of filters that no template can write.
JOINED, MADE, READ, SLICED, TICK = "~", "[]", "==", "[:]", "..."
# Tests that look through all of what they are given.
READING = [
    "in",
    "eq",
    "==",
    "equalto",
    "ne",
    "!=",
    "lt",
    "<",
    "lessthan",
    "le",
    "<=",
    "gt",
    ">",
    "greaterthan",
    "ge",
    ">=",
    "lower",
    "upper",
]


class Exceeded(BaseException):
    """A template takes too much, and more than its filters may catch; the message says what."""


class Meter:
    """What one rendering has taken. `stopped` tells whether nobody waits for it any more."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self.stopped = stopped
        self.depth = 0
        self._left, self._work = COSTS, 0
        self._end = time.monotonic() + SECONDS
        # Of each container: characters and depth. It is held, so that its id stays its own.
        self._known: dict[int, tuple[int, int, Any]] = {}

    def tick(self, cost: int = 1) -> None:
        """Called in each loop and call: looks at the clock now and then."""
        self._left -= cost
        if self._left <= 0:
            self._left = COSTS
            if self.stopped():
                raise Exceeded("it was stopped")
            if time.monotonic() > self._end:
                raise Exceeded(f"it takes longer than {SECONDS} seconds")

    def allow(self, size: int) -> None:
        """Called before a value of at most `size` characters is made."""
        if size > LARGEST:
            raise Exceeded(f"it makes a text or list of more than {LARGEST:,} characters")

    def made(self, value: Any, above: int = 0) -> Any:
        """Called with everything that is made; gives it back, an iterator as one that ticks.

        above: how many iterators it takes its items from, one from the other.
        """
        if isinstance(value, _Ticking):
            return value
        if isinstance(value, Iterator):
            return _Ticking(value, self, above)
        self._spend(self.measure(value))
        return value

    def sliced(self, value: Any) -> Any:
        """Called with a slice; gives it back. What the items of a list hold is not made anew."""
        if isinstance(value, CONTAINERS):
            self._spend(ITEM * len(value))
            return value
        return self.made(value)

    def _spend(self, size: int) -> None:
        self.allow(size)
        self.tick(1 + size // CHARACTERS)
        self._work += size
        if self._work > WORK:
            raise Exceeded(f"all that it makes is more than {WORK:,} characters")

    def read(self, value: Any) -> Any:
        """Called with what is about to be compared or looked through; gives it back."""
        self.tick(1 + self.measure(value) // CHARACTERS)
        return value

    def measure(self, value: Any) -> int:
        """Characters of a value written out, about; no fewer than there are items."""
        return self._size_and_depth(value, 0)[0]

    def _size_and_depth(self, value: Any, above: int) -> tuple[int, int]:
        if isinstance(value, (str, bytes, bytearray)):
            return len(value), 0
        if not isinstance(value, CONTAINERS):
            return 8, 0
        known = self._known.get(id(value))
        if known is not None:
            return known[:2]
        size, depth = 8, 0
        items = chain.from_iterable(value.items()) if isinstance(value, dict) else iter(value)
        for item in items:
            self._check_depth(above)
            inner, below = self._size_and_depth(item, above + 1)
            size, depth = size + inner + 4, max(depth, below)
            if size > LARGEST:
                break
        self.allow(size)
        self._check_depth(depth)
        self._known[id(value)] = size, depth + 1, value
        return size, depth + 1

    def _check_depth(self, depth: int) -> None:
        if depth >= DEEPEST:
            raise Exceeded(f"its lists lie more than {DEEPEST} deep in each other")


class _Ticking:
    """An iterator that ticks."""

    def __init__(self, values: Iterator[Any], meter: Meter, above: int) -> None:
        if above >= DEEPEST:  # Python would crash
            raise Exceeded(f"its filters lie more than {DEEPEST} deep in each other")
        self._values, self._meter, self.above = values, meter, above

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._meter.tick()
        return next(self._values)


class _Namespace(Namespace):
    """Jinja's, but that a printed one does not tell what it holds: that is never measured."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Marks(NodeTransformer):
    """Puts a tick into each loop, and a measure around what Jinja compiles to plain Python."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        tick = _filtered(nodes.Const(None, lineno=node.lineno), TICK)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if node.test is not None:  # which may be all that a loop does
            node.test = nodes.Or(tick, node.test, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        for operand in node.ops:  # a constant is short, and so is comparing with it
            within = operand.op in ("in", "notin")
            if not isinstance(operand.expr, nodes.Const) and (
                within or not isinstance(node.expr, nodes.Const)
            ):
                operand.expr = _filtered(operand.expr, READ)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, SLICED) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, MADE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, MADE) if node.ctx == "load" else node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template. `meter` is to be set anew before each rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.meter = Meter(lambda: False)
        self.finalize = self._written
        self.globals["namespace"] = _Namespace

    def bound(self) -> None:
        """Puts filters and tests under the meter; those of one's own must be there before."""
        self.tests |= {name: self._reading(self.tests[name]) for name in READING}
        self.filters = {name: self._bounded(name, f) for name, f in self.filters.items()}
        own: dict[str, Callable[[Any], Any]] = {
            TICK: lambda value: self.meter.tick(),
            JOINED: self._joined,
            MADE: lambda value: self.meter.made(value),
            SLICED: lambda value: self.meter.sliced(value),
            READ: lambda value: self.meter.read(value),
        }
        self.filters |= {name: _while_rendering(function) for name, function in own.items()}

    def concat(self, pieces: Iterable[str]) -> str:
        """Joins what was written, unless it is too much."""
        kept, size = [], 0
        for piece in pieces:
            kept.append(piece)
            size += len(piece)
            self.meter.allow(size)
        return str(self.meter.made("".join(kept)))

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template, of a method, a macro or a global function."""
        meter = self.meter
        meter.tick(1 + len(args))
        method = getattr(callee, "__wrapped__", callee)  # str.format comes wrapped
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, bytes, int, float, *CONTAINERS)):
            self._check(method.__name__, owner, (*args, *kwargs.values()))
        elif callee is self.globals.get("lipsum"):
            self._check("lipsum", "", (*args, *kwargs.values()))
        if meter.depth >= CALLS:
            raise Exceeded(f"its calls lie more than {CALLS} deep in each other")
        meter.depth += 1
        try:
            return meter.made(super().call(context, callee, *args, **kwargs))
        finally:
            meter.depth -= 1

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What `obj.attribute` is; what templates ask for most is found at once."""
        if not attribute.startswith("_"):
            if type(obj) is _Namespace:
                try:
                    return getattr(obj, attribute)
                except AttributeError:
                    return self.undefined(obj=obj, name=attribute)
            if type(obj) is dict and attribute in obj and not hasattr(obj, attribute):
                return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """What stands in a container; a tuple as a key is read whole each time."""
        return super().getitem(
            obj, self.meter.read(argument) if isinstance(argument, tuple) else argument
        )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One of `intercepted_binops`."""
        meter = self.meter
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "%" and isinstance(left, (str, bytes)):
            self._check("%", left, (right,))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            meter.allow(left.bit_length() * abs(right) << 8)  # large numbers are slow
        elif operator == "*" and numbers:
            meter.allow(_bits(left) + _bits(right) << 8)
        elif operator == "*":
            first, second = (v if isinstance(v, int) else meter.measure(v) for v in (left, right))
            meter.allow(first * second)
        elif operator == "+" and not numbers:
            meter.allow(meter.measure(left) + meter.measure(right))
        return meter.made(super().call_binop(context, operator, left, right))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Marks().visit(source), *args, **kwargs)

    def _written(self, value: Any) -> Any:
        """What `{{ }}` is about to turn into text."""
        if not isinstance(value, str):
            self.meter.measure(value)
        return value

    def _joined(self, values: list[Any]) -> str:
        self.meter.allow(self.meter.measure(values))
        return str(self.meter.made("".join(map(str, values))))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        passed = 1 if hasattr(function, "jinja_pass_arg") else 0

        def filtered(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            before, (value, *given) = args[:passed], args[passed:]
            above = value.above + 1 if isinstance(value, _Ticking) else 0
            if isinstance(value, Iterator):  # join needs to know how many, list how large
                value = list(value) if name in ("join", "list") else self.meter.made(value)
            self._check(name, value, (*given, *kwargs.values()))
            return self.meter.made(function(*before, value, *given, **kwargs), above)

        return update_wrapper(filtered, function)

    def _reading(self, function: Any) -> Callable[..., Any]:
        def tested(*args: Any) -> Any:
            for value in args:
                self.meter.read(value)
            return function(*args)

        return tested

    def _check(self, name: str, value: Any, given: Sequence[Any]) -> None:
        """Allows a method of `value`, or a filter of it, by how large its result may be."""
        self.meter.allow(estimate(name, value, given, self.meter.measure))


def _while_rendering(function: Callable[[Any], Any]) -> Callable[[Context, Any], Any]:
    """As a filter that takes the context: Jinja evaluates no such one when it compiles."""
    return pass_context(lambda context, value: function(value))


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 64
