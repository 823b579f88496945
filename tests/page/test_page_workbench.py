"""Kernels from the console of the real page: listed, run, edited, replaced, put back."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Error

from app_page import App, watched
from doppler.gpu.sources import PATHS
from doppler.store.manifest import MANIFEST_FILE
from doppler.workbench.catalogue import CASES
from gpu_page import ROOT
from visited import Visited

NORM = (ROOT / "web" / PATHS["norm"]).read_text()
GRID = (ROOT / "web" / PATHS["grid"]).read_text()
CASE = "3 tokens of 67, branch"
ONE_OF_EACH_FOLDER = {
    "relayout": "Q5_K, 5 rows of 256",
    "blake3": "1025 bytes of the test vectors",
    "gate": "silu, 3 tokens of 67",
    "matmul": "Q4_0, 5 rows of 96, 3 tokens",
    "attention": "2 tokens at 63, 3 heads, width 16, sinks -60.0",
    "route": "7 tokens, 2 of 5 experts, shares of them",
    "sample": "greedy, 257 ids: the best",
    "bandwidth": "3 tiles",
}
# The last of a row's four sums is left out: a mistake of one part in 67.
BUG = ("sum += dot(value, value);", "sum += dot(value.xyz, value.xyz);")


@pytest.fixture(scope="module")
def app(
    visited: Visited,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """The page with tiny-chat loaded."""
    with (
        watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server,
        visited.opened() as context,
    ):
        app = App(context.pages[0], server.url).open()
        load(app)
        yield app


def load(app: App) -> None:
    stored = app.call("download", url=f"models/tiny-chat/{MANIFEST_FILE}")
    app.call("load", id=stored["id"], context=64, batch=8)


def said(app: App) -> list[int]:
    """What the loaded model goes on with."""
    ask = {"prompt": "hello", "max_tokens": 6, "sampling": {"greedy": True}}
    result = app.call("complete", **ask)
    ids: list[int] = result["generated_ids"]
    return ids


def planted(text: str, bug: tuple[str, str] = BUG) -> str:
    assert bug[0] in text
    return text.replace(*bug)


def reported(app: App) -> dict[str, Any]:
    return {kernel["name"]: kernel for kernel in app.call("kernels")}


def refused(app: App, method: str, **args: Any) -> str:
    with pytest.raises(Error) as error:
        app.call(method, **args)
    return str(error.value)


def test_kernels_are_listed(app: App) -> None:
    kernels = reported(app)
    norm = kernels["norm"]
    assert norm["file"] == "kernels/layer/norm.wgsl"
    assert norm["uses"] == ["state", "grid"]
    assert {"name": "post", "access": "read-only-storage", "optional": True} in norm["bindings"]
    assert norm["overrides"] == ["HAS_BRANCH", "HAS_NORM", "HAS_POST", "SCALED"]
    assert norm["params"] == {
        **{"width": "u32", "stride": "u32", "eps": "f32", "offset": "f32"},
        **{"each": "u32", "scale": "f32", "branch_eps": "f32"},
    }
    assert {"name": CASE, "needs": []} in norm["cases"]
    assert norm["replaced"] == []
    constants = {"HAS_BRANCH": 0, "HAS_NORM": 1, "HAS_POST": 0, "SCALED": 0}
    assert {"constants": constants, "absent": ["branch", "post"]} in norm["variants"]
    assert sum(len(kernel["cases"]) for kernel in kernels.values()) == len(CASES)


@pytest.mark.parametrize("kernel", ONE_OF_EACH_FOLDER)
def test_a_case_of_each_folder_agrees(app: App, kernel: str) -> None:
    found = app.call("run_kernel", kernel=kernel, case=ONE_OF_EACH_FOLDER[kernel])
    assert found["within"]
    assert found["messages"] == []
    assert found["us"] is None or found["us"] > 0
    for output in found["outputs"].values():
        assert output["errors"]["max"] <= output["errors"]["margin"]
        assert len(output["first"]) == min(8, np.prod(output["shape"]))


def test_a_bug_is_found(app: App) -> None:
    """The edited text alone is run: what the device uses stays as it is."""
    before = said(app)
    found = app.call("run_kernel", kernel="norm", case=CASE, source=planted(NORM))
    errors = found["outputs"]["out"]["errors"]
    assert not found["within"]
    assert found["outputs"]["x"]["errors"]["within"]
    assert not errors["within"]
    token, column = errors["worst"]
    assert token < 3
    assert column < 67
    assert abs(errors["got"] - errors["expected"]) > 0.01
    assert app.call("run_kernel", kernel="norm", case=CASE)["within"]
    assert said(app) == before


def test_a_bug_in_a_shared_file_is_found(app: App) -> None:
    wrong = planted(GRID, ("place.y * length + place.x", "place.y * length + place.x + 1u"))
    found = app.call("run_kernel", kernel="norm", case=CASE, file="grid", source=wrong)
    errors = found["outputs"]["x"]["errors"]
    assert not errors["within"]
    assert errors["worst"][0] == 0  # the token that no workgroup does


def test_an_error_has_the_line_of_the_text_that_was_given(app: App) -> None:
    before = said(app)
    number = NORM.split("\n").index("  var scale = 1.0;") + 1
    wrong = planted(NORM, ("var scale = 1.0;", "var scale = one;"))
    message = refused(app, "run_kernel", kernel="norm", case=CASE, source=wrong)
    assert "DeviceError: kernel norm" in message
    assert f"norm.wgsl line {number}: " in message
    assert "one" in message
    wrong = GRID + "\nfn more() -> u32 { return nothing; }\n"
    message = refused(app, "replace_kernel", kernel="norm", file="grid", source=wrong)
    assert f"grid.wgsl line {GRID.count(chr(10)) + 2}: " in message
    assert reported(app)["norm"]["replaced"] == []
    assert said(app) == before


def test_given_arrays_are_run(app: App) -> None:
    rows = np.array([[3, 4, 0, 0], [1, 1, 1, 1]], np.float32)
    args = {
        "kernel": "norm",
        "constants": {"HAS_BRANCH": 0, "HAS_NORM": 1, "HAS_POST": 0, "SCALED": 0},
        "params": {
            **{"width": 4, "stride": 4, "eps": 0, "offset": 0},
            **{"each": 1, "scale": 1, "branch_eps": 0},
        },
        "arrays": {
            "x": {"dtype": "f32", "shape": [2, 4], "data": rows.ravel().tolist()},
            "weight": {
                "dtype": "f32",
                "shape": [4],
                "data": base64.b64encode(np.full(4, 2, np.float32)).decode(),
            },
            "out": {"dtype": "f32", "shape": [2, 4]},
            "state": {"dtype": "u32", "shape": [5], "data": [0, 2, 0, 0, 0]},
        },
        "outputs": ["out"],
        "tokens": 2,
    }
    found = app.call("run_kernel", **args)
    assert (found["case"], found["within"]) == (None, None)
    out = np.frombuffer(base64.b64decode(found["outputs"]["out"]["data"]), np.float32)
    np.testing.assert_allclose(out, [2.4, 3.2, 0, 0, 2, 2, 2, 2], rtol=1e-6)
    assert "got HAS_BRANCH" in refused(
        app, "run_kernel", **{**args, "constants": {"HAS_BRANCH": 0}}
    )
    small = {**args["arrays"], "state": {"dtype": "u32", "shape": [1]}}  # type: ignore[dict-item]
    assert "running a kernel: " in refused(app, "run_kernel", **{**args, "arrays": small})
    assert "kernel 'nothing' is not one of" in refused(app, "run_kernel", kernel="nothing")


def test_another_text_is_used_until_the_shipped_one_is_put_back(app: App) -> None:
    before = said(app)
    app.call("replace_kernel", kernel="norm", source=planted(NORM))
    assert reported(app)["norm"]["replaced"] == ["norm"]
    assert not app.call("run_kernel", kernel="norm", case=CASE)["within"]
    assert said(app) != before
    app.call("replace_kernel", kernel="norm")
    assert reported(app)["norm"]["replaced"] == []
    assert said(app) == before
    other = planted(NORM, ("@binding(1)", "@binding(9)"))
    message = refused(app, "replace_kernel", kernel="norm", source=other)
    assert "kernel norm must keep its bindings" in message
    assert said(app) == before


def test_a_page_that_is_opened_anew_has_the_shipped_text(app: App) -> None:
    before = said(app)
    app.call("replace_kernel", kernel="norm", source=planted(NORM))
    assert said(app) != before
    app.open()
    load(app)
    assert reported(app)["norm"]["replaced"] == []
    assert said(app) == before
