"""The wheel of this tree that the page installs, rebuilt when a source has changed."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VENDOR = ROOT / "web" / "vendor"
SUMS_FILE = ".sha256.json"  # of what scripts/vendor.py has put there
WHEEL = VENDOR / "doppler-0.1.0-py3-none-any.whl"


def sources_digest(root: Path = ROOT) -> str:
    """SHA-256 over the names and bytes of everything that goes into the wheel."""
    digest = hashlib.sha256()
    sources = sorted(p for p in (root / "py").rglob("*") if p.suffix in (".py", ".typed"))
    for path in [root / "pyproject.toml", *sources]:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def build_wheel() -> bool:
    """Build WHEEL unless it is of these very sources; True when it was built.

    Hatchling writes the same bytes for the same sources, so caches keyed by content stay valid.
    """
    stamp = VENDOR / ".doppler-wheel.sha256"
    digest = sources_digest()
    if WHEEL.exists() and stamp.exists() and stamp.read_text() == digest:
        return False
    from hatchling.builders.wheel import WheelBuilder  # 0.2 s that a fresh wheel need not wait for

    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=VENDOR) as folder:
        built = next(WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"]))
        Path(built).replace(WHEEL)
    stamp.write_text(digest)
    return True
