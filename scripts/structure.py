"""The rooms of py/doppler in the order of the walk, what imports what, and how large things are.

    .venv/bin/python scripts/structure.py          # the picture, in words
    .venv/bin/python scripts/structure.py --dot    # for graphviz

A room may import from rooms above it in ROOMS, never from those below; modules form no circle.
Exit code 1 where that does not hold.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "py"
# Data goes this way: from files to the GPU, and from a question to its answer.
ROOMS = (
    "errors",
    "inputs",
    "config",
    "sampling",
    "recurrences",
    "references",
    "quantization",
    "store",
    "swarm",
    "formats",
    "convert",
    "adapters",
    "gpu",
    "residency",
    "weights",
    "plan",
    "engine",
    "workbench",
    "text",
    "swarm_exchange",
    "api",
    "page",
    "command",
    "cli",
)
MOST_PARAMETERS = 7


def modules(sources: Path = SOURCES) -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(sources.rglob("*.py")):
        parts = path.relative_to(sources).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Which of these modules each one imports, in functions and for type checkers too."""
    return {name: set(_imported(tree, trees)) - {name} for name, tree in trees.items()}


def _imported(tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else str(node.module)


def room_of(module: str) -> str:
    """The first part of its name within the package; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def faults(arrows: Mapping[str, set[str]]) -> list[str]:
    """What the rules forbid: rooms that are not in ROOMS, arrows back up, circles."""
    found = []
    for module, targets in arrows.items():
        for room in {room_of(it) for it in (module, *targets)} - {"", *ROOMS}:
            found.append(f"{room} is no room: add it to ROOMS in scripts/structure.py")
        found += [
            f"{module} imports {target}, which is further down the walk"
            for target in sorted(targets)
            if _floor(target) > _floor(module) >= 0
        ]
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return sorted(set(found))


def _floor(module: str) -> int:
    room = room_of(module)
    return ROOMS.index(room) if room in ROOMS else -1


def long_signatures(trees: Mapping[str, ast.Module]) -> dict[str, int]:
    """Functions with more than MOST_PARAMETERS parameters (self and cls do not count)."""
    found = {}
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                count = sum(argument.arg not in ("self", "cls") for argument in every)
                if count > MOST_PARAMETERS:
                    found[f"{module}.{node.name}"] = count
    return found


def main() -> int:
    trees = modules()
    arrows = imports(trees)
    between = sorted(
        {(room_of(a), room_of(b)) for a, targets in arrows.items() for b in targets if room_of(b)}
    )
    if "--dot" in sys.argv:
        edges = "\n".join(f'  "{a}" -> "{b}";' for a, b in between if a != b)
        print(f"digraph rooms {{\n{edges}\n}}")
        return 0
    for room in ROOMS:
        names = [name.rpartition(".")[2] for name in trees if room_of(name) == room]
        needs = [b for a, b in between if a == room != b]
        print(f"{room:14} {len(names):3}  {' '.join(n for n in names if n != room)}")
        print(f"{'':18}  needs {', '.join(needs) or 'nothing'}")
    total = sum(a != b for a, b in between)
    print(f"\n{len(trees)} modules in {len(ROOMS)} rooms, {total} arrows between rooms")
    for name, count in sorted(long_signatures(trees).items(), key=lambda item: -item[1]):
        print(f"{count} parameters: {name}")
    wrong = faults(arrows)
    print("\n".join(wrong) or "no circle, nothing back up")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
