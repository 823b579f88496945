"""A page with Pyodide, the modules of py/doppler and a WebGPU device, driven from tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page

from doppler.workbench.case import Array, Case, Trial
from doppler.workbench.compare import Comparison, compare
from doppler.workbench.features import lacking

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 100  # trials in one call into the page

SETUP = """async (files) => {
  const { loadPyodide } = await import("/vendor/pyodide/pyodide.mjs");
  const pyodide = (globalThis.pyodide = await loadPyodide());
  const runtime = ["replay", "staging"].map((name) => import(`/runtime/${name}.js`));
  pyodide.registerJsModule("doppler_runtime", Object.assign({}, ...(await Promise.all(runtime))));
  for (const [name, text] of Object.entries(files.modules)) {
    pyodide.FS.mkdirTree(`/modules/${name.slice(0, name.lastIndexOf("/"))}`);
    pyodide.FS.writeFile(`/modules/${name}`, text);
  }
  await pyodide.loadPackage("numpy");
  globalThis.kernelSources = JSON.stringify(files.kernels);
  await pyodide.runPythonAsync(files.driver);
}"""
RUN = """async (code) => {
  const value = await pyodide.runPythonAsync(code);
  return value?.toJs ? value.toJs({ create_pyproxies: false }) : value;
}"""

DRIVER = """
import asyncio, base64, io, json, sys
sys.path.insert(0, "/modules")
import js
import numpy as np
from doppler.gpu.device import Gpu, Slice
from doppler.gpu.kernels import Device, Kernels
from doppler.workbench.case import Launch
from doppler.workbench.features import features_of
from doppler.workbench.run import run

gpu = await Gpu.open()
kernels = Kernels(gpu, json.loads(js.kernelSources))

async def run_trials():
    given = np.load(io.BytesIO(base64.b64decode(js.givenTrials)), allow_pickle=False)
    trials = json.loads(str(given["trials"]))
    for trial in trials:
        trial["launches"] = [Launch(**launch) for launch in trial["launches"]]
    variants = {
        kernels.variant(it.kernel, it.constants, it.bindings)
        for trial in trials
        for it in trial["launches"]
    }
    await asyncio.gather(*map(kernels.prepare, variants))  # side by side
    out = {}
    for n, trial in enumerate(trials):
        arrays = {name: given[f"{n}/{name}"] for name in trial["arrays"]}
        results = await run(Device(gpu, kernels), trial["launches"], arrays, trial["outputs"])
        out |= {f"{n}/{name}": values for name, values in results.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **out)
    return base64.b64encode(packed.getvalue()).decode()
"""


class GpuPage:
    """Runs Python and kernels in a page of the server that starts no engine of its own."""

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        page.goto(f"{url}models.json")
        package = ROOT / "py"
        files = {
            "modules": {
                path.relative_to(package).as_posix(): path.read_text()
                for path in package.rglob("*.py")
            },
            "kernels": {
                path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")
            },
            "driver": DRIVER,
        }
        page.evaluate(SETUP, files)
        self.features = frozenset(self.run_python("list(features_of(gpu))"))

    def run_js(self, function: str) -> Any:
        """What a JavaScript function returns in the page."""
        return self._page.evaluate(function)

    def run_python(self, code: str) -> Any:
        """The value of the last expression of `code`, which may await."""
        return self._page.evaluate(RUN, code)

    def run(self, trials: Sequence[Trial]) -> list[dict[str, Array]]:
        """The outputs of each trial, by name."""
        found = []
        for at in range(0, len(trials), AT_ONCE):
            found += self._run(trials[at : at + AT_ONCE])
        return found

    def _run(self, trials: Sequence[Trial]) -> list[dict[str, Array]]:
        """One call into the page for all of them."""
        arrays = {
            f"{n}/{name}": values
            for n, trial in enumerate(trials)
            for name, values in trial.arrays.items()
        }
        described = [
            {
                "arrays": list(trial.arrays),
                "launches": [asdict(launch) for launch in trial.launches],
                "outputs": list(trial.outputs),
            }
            for trial in trials
        ]
        packed = io.BytesIO()
        np.savez_compressed(packed, trials=np.array(json.dumps(described)), **arrays)
        text = base64.b64encode(packed.getvalue()).decode()
        # Megabytes as an argument: as a part of the source they would take Playwright minutes.
        self._page.evaluate("text => { globalThis.givenTrials = text; }", text)
        answer = self.run_python("await run_trials()")
        results = np.load(io.BytesIO(base64.b64decode(answer)))
        return [
            {name: results[f"{n}/{name}"] for name in trial.outputs}
            for n, trial in enumerate(trials)
        ]

    def compared(self, cases: Sequence[Case]) -> Iterator[tuple[Case, str, Comparison]]:
        """Every output of the cases that the device can run, beside its twin's."""
        able = [case for case in cases if not lacking(case, self.features)]
        trials = [case.trial() for case in able]
        for case, trial, outputs in zip(able, trials, self.run(trials), strict=True):
            expected = trial.twin(outputs)
            assert set(expected) == set(trial.outputs)
            for name, right in expected.items():
                yield case, name, compare(outputs[name], right)
