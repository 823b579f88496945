"""Another text in the place of a kernel's, on the device that is open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from doppler.errors import RequestError
from doppler.gpu.kernels import Device, Kernels, Variant
from doppler.gpu.wgsl import ENABLED_BY, Shader
from doppler.inputs.fields import shown


def kernel_of(kernels: Kernels, args: Mapping[str, Any]) -> str:
    """The kernel that is meant. Raises RequestError where there is none of that name."""
    kernel = args.get("kernel")
    if not isinstance(kernel, str) or kernel not in kernels.shaders:
        raise RequestError(f"kernel {shown(kernel)} is not one of {', '.join(kernels.shaders)}")
    return kernel


def edited_file(kernels: Kernels, args: Mapping[str, Any]) -> str:
    """The file that `source` is the text of: the kernel's own, or one that it uses."""
    kernel, source = kernel_of(kernels, args), args.get("source")
    if source is not None and not isinstance(source, str):
        raise RequestError("source must be a text")
    files = [kernel, *(file for file, _ in kernels.shaders[kernel].uses)]
    file = args.get("file", kernel)
    if file not in files:
        raise RequestError(f"file {shown(file)} is not one of kernel {kernel}: {', '.join(files)}")
    return str(file)


async def replace(device: Device, args: Mapping[str, Any]) -> None:
    """Has the device use `source` from now on; without one, the shipped text again.

    Raises RequestError for a text whose bindings, constants or params are others, which plans
    could not bind, and DeviceError for one that does not compile; the old one stays then. Compiles
    every variant that was compiled of the old text. What was recorded must be recorded again.
    """
    kernels = device.kernels
    edited = kernels.edited(edited_file(kernels, args), args.get("source"))
    changed = [it for name, it in edited.shaders.items() if it != kernels.shaders[name]]
    for shader in changed:
        _need_same_interface(kernels.shaders[shader.name], shader)
    variants = [it for it in kernels.compiled() if it.kernel in {s.name for s in changed}]
    others = {shader.name for shader in changed if _can_run(shader, device.gpu.features)}
    others -= {variant.kernel for variant in variants}
    for variant in [*variants, *(Variant(name, (), frozenset()) for name in others)]:
        await edited.check(variant)
    await asyncio.gather(*map(edited.prepare, variants))
    kernels.adopt(edited)


def _need_same_interface(old: Shader, new: Shader) -> None:
    parts = {
        "bindings": (old.bindings, new.bindings),
        "overrides": (old.overrides, new.overrides),
        "Params": (old.params, new.params),
    }
    for name, (before, after) in parts.items():
        if before != after:
            raise RequestError(
                f"kernel {old.name} must keep its {name}, which plans are made for: "
                "try this text with run_kernel"
            )


def _can_run(shader: Shader, features: frozenset[str]) -> bool:
    return all(ENABLED_BY.get(it, it) in features for it in shader.enables)
