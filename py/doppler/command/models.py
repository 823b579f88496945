"""A model by what a person calls it on the command line: its folder, or its name in models/."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from doppler.command.arguments import MODELS
from doppler.errors import SourceError
from doppler.store.manifest import MANIFEST_FILE


def find_model(called: str) -> Path:
    """The model's folder. Raises SourceError where neither place holds a manifest."""
    for folder in places(called):
        if is_model(folder):
            return folder.resolve()
    raise SourceError(
        f"{called} has no {MANIFEST_FILE}{_elsewhere(called)}; give a folder made by "
        f"doppler convert or pull{_known(called)}"
    )


def is_model(folder: Path) -> bool:
    """Whether a manifest lies there, sound or not."""
    try:
        return (folder / MANIFEST_FILE).exists()
    except (OSError, ValueError, RuntimeError):  # no name of a file, or a loop of links
        return False


def places(called: str) -> list[Path]:
    """Where that model may lie, the likeliest first."""
    return [Path(called), MODELS / called] if _is_name(called) else [Path(called)]


def _is_name(called: str) -> bool:
    return called == Path(called).name and called not in ("", ".", "..")


def _elsewhere(called: str) -> str:
    return f", and there is no model of that name in {MODELS}" if _is_name(called) else ""


def _known(called: str) -> str:
    names = [path.parent.name for path in sorted(MODELS.glob(f"*/{MANIFEST_FILE}"))]
    close = get_close_matches(Path(called).name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""
