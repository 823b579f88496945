"""The rooms of the package: a walk that nothing goes back up, and what the check would find."""

from __future__ import annotations

import ast
from pathlib import Path

import structure


def test_nothing_goes_back_up_and_there_is_no_circle() -> None:
    assert structure.faults(structure.imports(structure.modules())) == []


def test_plans_are_made_without_a_gpu() -> None:
    """What plans import, and what that imports in turn, names buffers and has none."""
    arrows = structure.imports(structure.modules())
    reached: set[str] = set()
    found = {name for name in arrows if structure.room_of(name) == "plan"}
    while found:
        reached |= found
        found = {target for name in found for target in arrows[name]} - reached
    assert "doppler.gpu.step" in reached
    assert reached.isdisjoint({"doppler.gpu.device", "doppler.gpu.kernels", "doppler.gpu.binder"})


def test_what_is_forbidden_is_found(tmp_path: Path) -> None:
    texts = {
        "inputs/first.py": "from doppler.inputs.second import x",
        "inputs/second.py": "def f():\n    from doppler.inputs import first",
        "store/back.py": "if TYPE_CHECKING:\n    import doppler.api.model",
        "api/model.py": "",
        "attic/old.py": "from doppler.store.back import x",
    }
    for name, text in {"__init__.py": "", "inputs/__init__.py": "", **texts}.items():
        path = tmp_path / "doppler" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    circle, *others = structure.faults(structure.imports(structure.modules(tmp_path)))
    assert circle.startswith("a circle: doppler.inputs.")
    assert others == [
        "attic is no room: add it to ROOMS in scripts/structure.py",
        "doppler.store.back imports doppler.api.model, which is further down the walk",
    ]


def test_every_room_of_the_walk_is_there() -> None:
    assert {structure.room_of(name) for name in structure.modules()} - {""} == set(structure.ROOMS)


def test_no_signature_is_long() -> None:
    assert structure.long_signatures(structure.modules()) == {}


def test_long_signatures_are_counted_without_self() -> None:
    few, many = "a, b, c, d, e, f, g", "a, b, c, d, e, /, f, *, g, h"
    tree = ast.parse(f"class A:\n  def few(self, {few}): ...\n  async def many({many}): ...")
    assert structure.long_signatures({"m": tree}) == {"m.many": 8}
