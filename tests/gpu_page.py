"""A page with Pyodide, the modules of py/doppler and a WebGPU device, driven from tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "__init__",
    "errors",
    *(
        f"gpu/{name}"
        for name in ("__init__", "device", "wgsl", "grids", "sources", "kernels", "lanes")
    ),
)
Arrays = Mapping[str, npt.NDArray[Any]]

SETUP = """async (files) => {
  const { loadPyodide } = await import("/vendor/pyodide/pyodide.mjs");
  const pyodide = (globalThis.pyodide = await loadPyodide());
  pyodide.registerJsModule("doppler_runtime", await import("/runtime/replay.js"));
  pyodide.FS.mkdirTree("/modules/doppler/gpu");
  for (const [name, text] of Object.entries(files.modules))
    pyodide.FS.writeFile(`/modules/doppler/${name}.py`, text);
  await pyodide.loadPackage("numpy");
  globalThis.kernelSources = JSON.stringify(files.kernels);
  await pyodide.runPythonAsync(files.driver);
}"""
RUN = """async (code) => {
  const value = await pyodide.runPythonAsync(code);
  return value?.toJs ? value.toJs({ create_pyproxies: false }) : value;
}"""

DRIVER = """
import base64, io, json, sys
sys.path.insert(0, "/modules")
import js
import numpy as np
from doppler.gpu.device import Gpu, Slice
from doppler.gpu.kernels import Kernels

gpu = await Gpu.open()
kernels = Kernels(gpu, json.loads(js.kernelSources))

async def run_cases():
    arrays = np.load(io.BytesIO(base64.b64decode(js.givenCases)), allow_pickle=False)
    out = {}
    for n, case in enumerate(json.loads(str(arrays["cases"]))):
        given = {name: arrays[f"{n}/{name}"] for name in case["arrays"]}
        results = await kernels.run_once(
            case["kernel"], case["constants"], given, case["params"], case["outputs"],
            tokens=case["tokens"])
        out |= {f"{n}/{name}": values for name, values in results.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **out)
    return base64.b64encode(packed.getvalue()).decode()
"""


@dataclass(frozen=True)
class Case:
    """One call of a kernel; `arrays` holds every binding, also the outputs' first contents."""

    kernel: str
    constants: Mapping[str, int]
    arrays: Arrays
    params: Mapping[str, int | float]
    outputs: Sequence[str]
    tokens: int = 1


class GpuPage:
    """Runs Python and kernels in a page of the server that starts no engine of its own."""

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        page.goto(f"{url}models.json")
        files = {
            "modules": {name: (ROOT / f"py/doppler/{name}.py").read_text() for name in MODULES},
            "kernels": {
                path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")
            },
            "driver": DRIVER,
        }
        page.evaluate(SETUP, files)

    def has(self, feature: str) -> bool:
        """Whether the device has an optional feature."""
        return bool(self.run_python(f"{feature!r} in gpu.features"))

    def run_js(self, function: str) -> Any:
        """What a JavaScript function returns in the page."""
        return self._page.evaluate(function)

    def run_python(self, code: str) -> Any:
        """The value of the last expression of `code`, which may await."""
        return self._page.evaluate(RUN, code)

    def run(self, cases: Sequence[Case]) -> list[dict[str, npt.NDArray[Any]]]:
        """The outputs of each case, by name; one call into the page for all of them."""
        arrays = {
            f"{n}/{name}": values
            for n, case in enumerate(cases)
            for name, values in case.arrays.items()
        }
        described = [
            {
                "kernel": case.kernel,
                "constants": dict(case.constants),
                "arrays": list(case.arrays),
                "params": dict(case.params),
                "outputs": list(case.outputs),
                "tokens": case.tokens,
            }
            for case in cases
        ]
        packed = io.BytesIO()
        np.savez_compressed(packed, cases=np.array(json.dumps(described)), **arrays)
        text = base64.b64encode(packed.getvalue()).decode()
        # Megabytes as an argument: as a part of the source they would take Playwright minutes.
        self._page.evaluate("text => { globalThis.givenCases = text; }", text)
        answer = self.run_python("await run_cases()")
        results = np.load(io.BytesIO(base64.b64decode(answer)))
        return [
            {name: results[f"{n}/{name}"] for name in case.outputs} for n, case in enumerate(cases)
        ]
