"""What the console asks of kernels: which there are, and what one does on a case or on arrays."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doppler.errors import DeviceError, RequestError
from doppler.gpu.kernels import CompilerMessage, Device, Kernels
from doppler.gpu.sources import OPTIONAL, PATHS
from doppler.gpu.wgsl import FIELD_TYPES
from doppler.workbench.case import Array, Case, Launch, Trial
from doppler.workbench.catalogue import cases_of, find
from doppler.workbench.compare import Comparison, compare
from doppler.workbench.features import features_of, lacking
from doppler.workbench.given import NAMES, arrays_of, launch_of, outputs_of
from doppler.workbench.replace import edited_file, kernel_of
from doppler.workbench.report import (
    BindingReport,
    CaseReport,
    KernelReport,
    KernelRun,
    OutputErrors,
    OutputReport,
    Real,
    VariantReport,
)
from doppler.workbench.run import run, time

FIRST = 8  # values of an output that are told


def listed(kernels: Kernels) -> list[KernelReport]:
    """Every kernel."""
    return [_report(kernels, name) for name in sorted(kernels.shaders)]


def _report(kernels: Kernels, name: str) -> KernelReport:
    shader, replaced = kernels.shaders[name], kernels.replaced()
    files = [*(file for file, _ in shader.uses), name]
    return KernelReport(
        name,
        PATHS[name],
        files[:-1],
        [BindingReport(b.name, b.access, b.name in OPTIONAL) for b in shader.bindings],
        sorted(shader.overrides),
        {field: FIELD_TYPES[code] for field, code in shader.params},
        [CaseReport(case.name, list(case.needs)) for case in cases_of(name)],
        [
            VariantReport(dict(variant.constants), sorted(variant.absent))
            for variant in kernels.compiled()
            if variant.kernel == name
        ],
        [file for file in files if file in replaced],
    )


async def run_kernel(device: Device, args: Mapping[str, Any]) -> KernelRun:
    """Runs a kernel on a case or on given arrays, with a text of its own if one is given.

    Raises RequestError for what cannot be run, and DeviceError for what the device refuses, with
    the compiler's words by file and line.
    """
    kernel = kernel_of(device.kernels, args)
    if args.get("source") is not None:
        kernels = device.kernels.edited(edited_file(device.kernels, args), args["source"])
        device = Device(device.gpu, kernels)
    if args.get("case") is not None:
        return await _run_case(device, find(kernel, args["case"]))
    return await _run_given(device, kernel, args)


async def _run_case(device: Device, case: Case) -> KernelRun:
    if missing := lacking(case, features_of(device.gpu)):
        raise DeviceError(f"this case needs {', '.join(missing)}, which this adapter lacks")
    trial = case.trial()
    messages = await _checked(device.kernels, trial.launches)
    outputs = await run(device, trial.launches, trial.arrays, trial.outputs)
    found = {name: compare(outputs[name], right) for name, right in trial.twin(outputs).items()}
    return KernelRun(
        case.kernel,
        case.name,
        all(comparison.within for comparison in found.values()),
        {name: _output(outputs[name], found[name]) for name in trial.outputs},
        await _time(device, case.kernel, trial),
        messages,
    )


async def _run_given(device: Device, kernel: str, args: Mapping[str, Any]) -> KernelRun:
    launch, names = launch_of(kernel, args), outputs_of(args)
    arrays = arrays_of(args, device.gpu.limits["maxBufferSize"])
    messages = await _checked(device.kernels, [launch])
    outputs = await run(device, [launch], arrays, names)
    trial = Trial(arrays, [launch], names, lambda _: {})
    return KernelRun(
        kernel,
        None,
        None,
        {name: _output(values, None) for name, values in outputs.items()},
        await _time(device, kernel, trial),
        messages,
    )


async def _checked(kernels: Kernels, launches: Sequence[Launch]) -> list[CompilerMessage]:
    """What the compiler says of the launches' kernels; raises where one cannot be launched."""
    for launch in launches:
        _check(kernels, launch)
    variants = [kernels.variant(it.kernel, it.constants, it.bindings) for it in launches]
    said = [await kernels.check(variant) for variant in dict.fromkeys(variants)]
    return [message for messages in said for message in messages]


def _check(kernels: Kernels, launch: Launch) -> None:
    """Raises RequestError unless the launch has what the kernel's text asks for."""
    shader = kernels.shaders[launch.kernel]
    bindings = {binding.name for binding in shader.bindings} - {"params"}
    asked = {
        "bindings": (bindings - OPTIONAL, bindings, launch.bindings.keys()),
        "constants": (shader.overrides, shader.overrides, launch.constants.keys()),
        "params": (fields := {name for name, _ in shader.params}, fields, launch.params.keys()),
    }
    for what, (least, most, got) in asked.items():
        if least - got or got - most:
            raise RequestError(
                f"kernel {launch.kernel} has the {what} {', '.join(sorted(most))}; "
                f"got {', '.join(sorted(got)) or 'none'}"
            )
    try:
        kernels.pack(launch.kernel, launch.params)
        kernels.grid(launch.kernel, {**launch.constants, **launch.params}, launch.tokens)
    except (struct.error, ArithmeticError, TypeError) as error:
        raise RequestError(f"kernel {launch.kernel}: {error}") from error


async def _time(device: Device, kernel: str, trial: Trial) -> float | None:
    """Of the kernel's own launches."""
    if "timestamp-query" not in device.gpu.features:
        return None
    launches = [launch for launch in trial.launches if launch.kernel == kernel]
    return round(await time(device, launches, trial.arrays), 2)


def _output(values: Array, found: Comparison | None) -> OutputReport:
    return OutputReport(
        NAMES[values.dtype],
        list(values.shape),
        [_real(value) for value in values.ravel()[:FIRST].astype(np.float64)],
        None if found is None else _errors(found),
        base64.b64encode(values.tobytes()).decode() if found is None else None,
    )


def _errors(found: Comparison) -> OutputErrors:
    return OutputErrors(
        _real(found.max_error),
        _real(found.rms_error),
        found.margin,
        found.within,
        list(found.worst),
        _real(found.got),
        _real(found.exact),
    )


def _real(value: float) -> Real:
    """As JSON can have it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(value)
