"""Plans -> pipelines, bind groups and one recorded list that JavaScript replays.

A kernel is a file of web/kernels (sources.py). Its bindings, overrides and parameters are read from
its source (wgsl.py); grids.py is the launcher: how many workgroups each kernel needs.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from doppler.errors import DeviceError
from doppler.gpu.device import Gpu, GpuBuffer, Slice, js_object
from doppler.gpu.grids import Grid, grid
from doppler.gpu.sources import OPTIONAL, SHARED
from doppler.gpu.wgsl import Binding, Number, parse

if TYPE_CHECKING:
    import numpy.typing as npt

Constants = Mapping[str, Number]

UNIFORM_STEP = 256  # minUniformBufferOffsetAlignment


class Variant(NamedTuple):
    """A kernel, its constants, and the optional bindings that it does without."""

    kernel: str
    constants: tuple[tuple[str, Number], ...]
    absent: frozenset[str]

    def __str__(self) -> str:
        return " ".join([self.kernel, *(f"{name}={value}" for name, value in self.constants)])


@dataclass(frozen=True)
class Dispatch:
    """One kernel, ready to be recorded. `uniform` is None where there are no `params` to pack."""

    variant: Variant
    bindings: Mapping[str, Slice]
    uniform: bytes | None
    workgroups: Grid
    label: str


@dataclass(frozen=True)
class Recording:
    """Dispatches as web/runtime/replay.js plays them, and the buffer of their parameters."""

    js: Any
    uniforms: GpuBuffer | None

    def destroy(self) -> None:
        """Frees the parameters once the GPU is done with them."""
        if self.uniforms is not None:
            self.uniforms.destroy()


class Kernels:
    """Every kernel of one device. `sources` are the WGSL files by name, without the ending."""

    def __init__(self, gpu: Gpu, sources: Mapping[str, str]) -> None:
        self._gpu = gpu
        self._shaders = {name: parse(name, sources) for name in sources.keys() - SHARED}
        self._modules: dict[tuple[str, frozenset[str], bool], Any] = {}
        self._layouts: dict[tuple[str, frozenset[str]], Any] = {}  # GPUBindGroupLayout
        self._pipelines: dict[Variant, Any] = {}

    def names(self) -> list[str]:
        """The kernels there are."""
        return sorted(self._shaders)

    def digest(self) -> str:
        """Changes with the kernels: what was measured of others says nothing of these."""
        sources = json.dumps({name: shader.source for name, shader in self._shaders.items()})
        return hashlib.sha256(sources.encode()).hexdigest()

    def pack(self, kernel: str, params: Mapping[str, Number]) -> bytes:
        """The bytes of a kernel's `Params`, for a buffer that the caller binds as `params`."""
        return self._shaders[kernel].pack(params)

    def grid(self, kernel: str, params: Mapping[str, Number], tokens: int = 1) -> Grid:
        """Workgroups that a kernel needs for these constants and parameters and `tokens` tokens."""
        most = self._gpu.limits["maxComputeWorkgroupsPerDimension"]
        return grid(kernel, {**params, "tokens": tokens}, most)

    def variant(self, kernel: str, constants: Constants, bound: Collection[str]) -> Variant:
        """The variant for these constants that binds the names in `bound`, besides `params`."""
        known = {binding.name for binding in self._shaders[kernel].bindings}
        absent = frozenset(known & OPTIONAL - set(bound))
        return Variant(kernel, tuple(sorted(constants.items())), absent)

    async def prepare(self, variant: Variant) -> None:
        """Compiles a variant unless it is there. Raises DeviceError with the compiler's words."""
        from pyodide.ffi import JsException

        if variant in self._pipelines:
            return
        descriptor = self._descriptor(variant)
        try:
            pipeline = await self._gpu.device.createComputePipelineAsync(descriptor)
        except JsException as error:
            raise DeviceError(await self._complaint(variant, str(error))) from error
        self._pipelines[variant] = pipeline

    def dispatch(
        self,
        kernel: str,
        constants: Constants,
        bindings: Mapping[str, Slice],
        params: Mapping[str, Number],
        workgroups: Grid,
        label: str,
    ) -> Dispatch:
        """One dispatch; packs `params` unless `bindings` has a slice for them, or it has none."""
        shader = self._shaders[kernel]
        known = {binding.name for binding in shader.bindings}
        missing = known - OPTIONAL - {"params"} - bindings.keys()
        if missing or bindings.keys() - known or constants.keys() != shader.overrides:
            raise KeyError(
                f"{label}: kernel {kernel} binds {sorted(known)} and has overrides "
                f"{sorted(shader.overrides)}; got {sorted(bindings)} and {sorted(constants)}"
            )
        packs = shader.params and "params" not in bindings
        uniform = shader.pack(params) if packs else None
        variant = self.variant(kernel, constants, bindings)
        return Dispatch(variant, dict(bindings), uniform, workgroups, label)

    def record(self, dispatches: Sequence[Dispatch]) -> Recording:
        """Pipelines, bind groups and parameters, made once, to be run any number of times.

        Compiles, while the page waits, what `prepare` has not compiled before.
        """
        from pyodide.ffi import to_js

        packed = [dispatch.uniform for dispatch in dispatches if dispatch.uniform is not None]
        uniforms = self._uniforms(packed)
        variants: dict[Variant, int] = {}
        ops, groups, at = array("i"), [], 0
        for dispatch in dispatches:
            number = variants.setdefault(dispatch.variant, len(variants))
            ops.extend((number, *dispatch.workgroups))
            params = None
            if dispatch.uniform is not None and uniforms is not None:
                params = Slice(uniforms, at, len(dispatch.uniform))
                at += _stepped(len(dispatch.uniform))
            groups.append(self._group(dispatch, params))
        pipelines = [self._pipeline(variant) for variant in variants]
        js = js_object(dispatches=to_js(ops), pipelines=pipelines, groups=groups)
        return Recording(js, uniforms)

    def join(self, recordings: Iterable[Recording]) -> Recording:
        """One recording that plays several; it is good as long as they are."""
        import doppler_runtime

        return Recording(doppler_runtime.join(*(recording.js for recording in recordings)), None)

    def run(self, *recordings: Recording) -> None:
        """Queues recordings, one after another, in one pass and one submit."""
        import doppler_runtime

        doppler_runtime.replay(self._gpu.device, *(recording.js for recording in recordings))

    async def time(self, *passes: Sequence[Recording]) -> list[float]:
        """Runs passes of recordings, one after another: microseconds of GPU time of each pass.

        Raises DeviceError where the adapter has no timestamps.
        """
        import doppler_runtime
        from pyodide.ffi import to_js

        if "timestamp-query" not in self._gpu.features:
            raise DeviceError("this adapter measures no GPU time: it lacks timestamp-query")
        lists = [[recording.js for recording in each] for each in passes]
        times = await doppler_runtime.timed(self._gpu.device, to_js(lists))
        return list(times.to_py())

    async def run_once(
        self,
        kernel: str,
        constants: Constants,
        arrays: Mapping[str, npt.NDArray[Any]],
        params: Mapping[str, Number],
        outputs: Sequence[str],
        workgroups: Grid | None = None,
        tokens: int = 1,
    ) -> dict[str, npt.NDArray[Any]]:
        """Runs a kernel on arrays and gives back those named in `outputs`: for debugging.

        `arrays` holds every binding, also what is only written: its shape and type are the
        result's. The grid is the launcher's for `tokens` tokens unless given.
        """
        bindings: dict[str, Slice] = {}
        recording = None
        try:
            async with self._gpu.scope(f"kernel {kernel}"):
                await self.prepare(self.variant(kernel, constants, arrays))
                for name, values in arrays.items():
                    bindings[name] = self._upload(name, values)
                grid = workgroups or self.grid(kernel, {**constants, **params}, tokens)
                dispatch = self.dispatch(kernel, constants, bindings, params, grid, kernel)
                recording = self.record([dispatch])
                self.run(recording)
            return {name: await self._download(bindings[name], arrays[name]) for name in outputs}
        finally:
            if recording is not None:
                recording.destroy()
            for part in bindings.values():
                part.buffer.destroy()

    def _upload(self, name: str, values: npt.NDArray[Any]) -> Slice:
        data = values.tobytes()
        data += bytes(-len(data) % 16)
        buffer = self._gpu.buffer(max(len(data), 16), "activations", name)
        self._gpu.write(buffer, 0, data)
        return Slice(buffer, 0, buffer.size)

    async def _download(self, part: Slice, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        import numpy as np  # the page has it only once it was asked for

        data = await self._gpu.read(part)
        return np.frombuffer(data[: like.nbytes], like.dtype).reshape(like.shape)

    def _descriptor(self, variant: Variant) -> Any:
        device = self._gpu.device
        layout = device.createPipelineLayout(js_object(bindGroupLayouts=[self._layout(variant)]))
        constants = dict(variant.constants)
        compute = {"module": self._module(variant), "entryPoint": "main", "constants": constants}
        return js_object(label=str(variant), layout=layout, compute=compute)

    def _pipeline(self, variant: Variant) -> Any:
        if variant not in self._pipelines:
            descriptor = self._descriptor(variant)
            self._pipelines[variant] = self._gpu.device.createComputePipeline(descriptor)
        return self._pipelines[variant]

    def _module(self, variant: Variant) -> Any:
        key = variant.kernel, variant.absent, bool(dict(variant.constants).get("HALF"))
        if key not in self._modules:
            code = self._shaders[variant.kernel].variant(*key[1:])
            descriptor = js_object(label=variant.kernel, code=code)
            self._modules[key] = self._gpu.device.createShaderModule(descriptor)
        return self._modules[key]

    def _bindings(self, variant: Variant) -> list[Binding]:
        shader = self._shaders[variant.kernel]
        return [binding for binding in shader.bindings if binding.name not in variant.absent]

    def _layout(self, variant: Variant) -> Any:
        """Explicit, since a layout derived by the browser drops what a variant does not use."""
        key = variant.kernel, variant.absent
        if key not in self._layouts:
            entries = [
                {"binding": b.index, "visibility": 4, "buffer": {"type": b.access}}
                for b in self._bindings(variant)
            ]
            descriptor = js_object(label=variant.kernel, entries=entries)
            self._layouts[key] = self._gpu.device.createBindGroupLayout(descriptor)
        return self._layouts[key]

    def _group(self, dispatch: Dispatch, params: Slice | None) -> Any:
        entries = []
        for binding in self._bindings(dispatch.variant):
            part = params if binding.name == "params" else None
            part = part or dispatch.bindings[binding.name]
            resource = {"buffer": part.buffer.js, "offset": part.offset, "size": part.size}
            entries.append({"binding": binding.index, "resource": resource})
        layout = self._layout(dispatch.variant)
        return self._gpu.device.createBindGroup(
            js_object(label=dispatch.label, layout=layout, entries=entries)
        )

    def _uniforms(self, packed: Sequence[bytes]) -> GpuBuffer | None:
        """One buffer with the parameters of all dispatches, each at an aligned offset."""
        if not packed:
            return None
        data = b"".join(part.ljust(_stepped(len(part)), b"\0") for part in packed)
        buffer = self._gpu.buffer(len(data), "activations", "parameters")
        self._gpu.write(buffer, 0, data)
        return buffer

    async def _complaint(self, variant: Variant, error: str) -> str:
        info = await self._module(variant).getCompilationInfo()
        lines = [f"line {m.lineNum}: {m.message}" for m in info.messages if m.type == "error"]
        return f"kernel {variant} was refused: {'; '.join(lines) or error}"


@dataclass(frozen=True)
class Device:
    """A GPU, and its kernels: what is computed on it needs both."""

    gpu: Gpu
    kernels: Kernels


def _stepped(size: int) -> int:
    return -(-size // UNIFORM_STEP) * UNIFORM_STEP
