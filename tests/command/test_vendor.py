"""What the page ships: whole, hashed, pinned, and of this tree."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from doppler.command import wheel
from doppler.command.wheel import ROOT, VENDOR, WHEEL, build_wheel


def test_pyodide_packages_are_those_of_its_lock() -> None:
    locked = json.loads((ROOT / "web/node_modules/pyodide/pyodide-lock.json").read_text())
    served = json.loads((VENDOR / "pyodide/pyodide-lock.json").read_text())
    assert sorted(served["packages"]) == ["numpy"]
    for name, package in served["packages"].items():
        assert package == locked["packages"][name]
        data = (VENDOR / "pyodide" / package["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == package["sha256"]


def test_the_wheel_holds_this_tree() -> None:
    build_wheel()
    with zipfile.ZipFile(WHEEL) as archive:
        for path in (ROOT / "py/doppler").rglob("*.py"):
            name = path.relative_to(ROOT / "py").as_posix()
            assert archive.read(name) == path.read_bytes(), name


def test_the_wheel_is_rebuilt_for_new_sources_only_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wheel, "VENDOR", tmp_path)
    monkeypatch.setattr(wheel, "WHEEL", tmp_path / WHEEL.name)
    assert build_wheel()
    first = (tmp_path / WHEEL.name).read_bytes()
    assert not build_wheel()
    monkeypatch.setattr(wheel, "sources_digest", lambda: "of other sources")
    assert build_wheel()
    assert (tmp_path / WHEEL.name).read_bytes() == first


def test_the_lock_of_the_page_names_no_registry() -> None:
    lock = (ROOT / "web/package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock


def test_versions_are_pinned() -> None:
    package = json.loads((ROOT / "web/package.json").read_text())
    for version in (package["dependencies"] | package["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)


@pytest.mark.parametrize("name", ["webtorrent", "uqr"])
def test_what_is_taken_of_a_package_is_one_module_with_its_licence(name: str) -> None:
    assert re.search(rb"\bexport ?{", (VENDOR / f"{name}.js").read_bytes())
    assert "MIT" in (VENDOR / f"{name}.LICENSE.txt").read_text()
