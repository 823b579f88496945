"""Writes docs/families.md: which families Doppler runs, by the code's own tables.

    python scripts/families.py [--check]

--check: exit code 1 where the file is not what would be written.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doppler.formats import gguf_config, hf_config
from doppler.formats.architecture import Architecture
from doppler.formats.architectures import ARCHITECTURES
from doppler.formats.unknown import NEAREST

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "families.md"
FIXTURES = ROOT / "tests" / "fixtures"
SETS = ROOT / "tests" / "fixture_sets.py"
# Its lists of checkpoints -> on which kernels these are run.
KERNELS = {
    **dict.fromkeys(("TINY", "FAMILIES", "RECURRENT", "LONG"), "CPU"),
    "ON_GPUS": "GPU",
    "ON_LEAST": "least GPU",
}


def fixtures() -> dict[str, list[str]]:
    """Tiny checkpoints with the logits of transformers, by model_type."""
    found: dict[str, list[str]] = {}
    for path in sorted(FIXTURES.glob("*/config.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        kind = (data.get("text_config") or data)["model_type"]
        found.setdefault(kind, []).append(path.parent.name)
    return found


def places() -> dict[str, str]:
    """Where a checkpoint is run in the page, by its name."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(SETS.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id in KERNELS:
            value = ast.literal_eval(node.value)
            for name in [value] if isinstance(value, str) else value:
                found.setdefault(name, []).append(KERNELS[target.id])
    return {name: ", ".join(kernels) for name, kernels in found.items()}


def row(architecture: Architecture, checked: Mapping[str, list[str]]) -> str:
    """A family's line of the table."""
    run = places()
    names = [
        f"{name} ({run.get(name, 'NumPy')})"
        for kind in architecture.hf_types
        for name in checked.get(kind, [])
    ]
    types = ", ".join(f"`{kind}`" for kind in architecture.hf_types)
    experts = "yes" if architecture.experts else ""
    return (
        f"| {architecture.name} | {types} | `{architecture.gguf_name}` | {experts} | "
        f"{', '.join(names)} |"
    )


def refused(
    neutral: Mapping[str, tuple[Any, ...]], scales: tuple[str, ...], kind: str
) -> Iterator[str]:
    """A line for each setting, with what is taken and who may have others."""
    for key, values in sorted(neutral.items()):
        readers = [it.name for it in ARCHITECTURES if it.may_have(key, scales)]
        taken = ", ".join(json.dumps(value) for value in values)
        yield f"| {kind} | `{key}` | {taken} | {', '.join(readers)} |"


def text() -> str:
    """The whole file."""
    checked = fixtures()
    lines = [
        "# Families",
        "",
        "Written by `scripts/families.py` from the tables that the readers of models use.",
        "",
        "Checked: tiny random checkpoints whose logits are compared with those of transformers in",
        "float32 (tests/fixtures, scripts/make_fixtures.py): in NumPy, and in the page with the",
        "kernels of CPUs or GPUs where that is said.",
        "",
        "| family | model_type | general.architecture | experts | checked by |",
        "| --- | --- | --- | --- | --- |",
        *(row(architecture, checked) for architecture in ARCHITECTURES),
        "",
        "## Refused by name",
        "",
        "| name | nearest family | what is missing |",
        "| --- | --- | --- |",
        *(f"| `{name}` | {near} | {what} |" for name, (near, what) in sorted(NEAREST.items())),
        "",
        "## Refused settings",
        "",
        "Each changes what a model computes. A file that has another value is refused with",
        "`KEY is VALUE, which Doppler cannot do`; absent and null are taken too. Biases, rope and",
        "what single families must have are refused in the same words (formats/hf_config.py).",
        "",
        "| file | key | values that are taken | families that read it |",
        "| --- | --- | --- | --- |",
        *refused(hf_config.NEUTRAL, hf_config.SCALES, "config.json"),
        *refused(gguf_config.NEUTRAL, gguf_config.SCALES, "GGUF"),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Writes, or compares."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == text():
        return 0
    print(f"{TARGET.relative_to(ROOT)} is not up to date: run scripts/families.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
