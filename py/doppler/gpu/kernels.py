"""Plans -> pipelines, bind groups and one recorded list that JavaScript replays.

A kernel is a file of web/kernels (sources.py). Its bindings, overrides and parameters are read from
its source (wgsl.py); grids.py is the launcher: how many workgroups each kernel needs.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from doppler.errors import DeviceError
from doppler.gpu.device import Gpu, GpuBuffer, Slice, js_object
from doppler.gpu.grids import Grid, grid
from doppler.gpu.sources import OPTIONAL, SHARED
from doppler.gpu.wgsl import Binding, Number, Shader, parse

Constants = Mapping[str, Number]
Text = tuple[str, frozenset[str], bool]  # kernel, absent bindings, whether Real is f16

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
    """Dispatches as web/runtime/replay.js plays them, how many, and their parameters' buffer."""

    js: Any
    count: int
    uniforms: GpuBuffer | None

    def destroy(self) -> None:
        """Frees the parameters once the GPU is done with them."""
        if self.uniforms is not None:
            self.uniforms.destroy()


@dataclass(frozen=True)
class CompilerMessage:
    """What the compiler says of a kernel: `line` and `column` (from 1 on) of `file`."""

    kind: Literal["error", "warning", "info"]
    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}.wgsl line {self.line}: {self.text}"


class Kernels:
    """Every kernel of one device. `sources` are the WGSL files by name, without the ending."""

    def __init__(self, gpu: Gpu, sources: Mapping[str, str]) -> None:
        self._gpu = gpu
        self._shipped = self.sources = sources
        self.shaders: Mapping[str, Shader] = {
            name: parse(name, sources) for name in sources.keys() - SHARED
        }
        self._modules: dict[Text, Any] = {}  # GPUShaderModule
        # The compiler's words, asked for once: Chrome leaves a second question unanswered.
        self._said: dict[Text, list[CompilerMessage]] = {}
        self._layouts: dict[tuple[str, frozenset[str]], Any] = {}  # GPUBindGroupLayout
        self._pipelines: dict[Variant, Any] = {}

    def compiled(self) -> list[Variant]:
        """The variants that are there to be run."""
        return list(self._pipelines)

    def replaced(self) -> list[str]:
        """The files whose text is not the shipped one."""
        return sorted(name for name, text in self.sources.items() if text != self._shipped[name])

    def edited(self, file: str, text: str | None) -> Kernels:
        """Kernels with this text in the place of a file's; None: with the shipped one.

        What is compiled and not made of that file is in both. Raises DeviceError for a text that
        uses a file that is not there.
        """
        new = self._shipped[file] if text is None else text
        other = Kernels(self._gpu, {**self.sources, file: new})
        other._shipped = self._shipped
        same = {name for name, shader in other.shaders.items() if shader == self.shaders[name]}
        other._modules = {key: it for key, it in self._modules.items() if key[0] in same}
        other._said = {key: it for key, it in self._said.items() if key[0] in same}
        other._layouts = {key: it for key, it in self._layouts.items() if key[0] in same}
        other._pipelines = {key: it for key, it in self._pipelines.items() if key.kernel in same}
        return other

    def adopt(self, other: Kernels) -> None:
        """Becomes what `other` is. What was recorded before goes on with the old kernels."""
        self.sources, self.shaders = other.sources, other.shaders
        self._modules, self._said = other._modules, other._said
        self._layouts, self._pipelines = other._layouts, other._pipelines

    def digest(self) -> str:
        """Changes with the kernels: what was measured of others says nothing of these."""
        sources = json.dumps({name: shader.source for name, shader in self.shaders.items()})
        return hashlib.sha256(sources.encode()).hexdigest()

    def pack(self, kernel: str, params: Mapping[str, Number]) -> bytes:
        """The bytes of a kernel's `Params`, for a buffer that the caller binds as `params`."""
        return self.shaders[kernel].pack(params)

    def grid(self, kernel: str, params: Mapping[str, Number], tokens: int = 1) -> Grid:
        """Workgroups that a kernel needs for these constants and parameters and `tokens` tokens."""
        most = self._gpu.limits["maxComputeWorkgroupsPerDimension"]
        return grid(kernel, {**params, "tokens": tokens}, most)

    def variant(self, kernel: str, constants: Constants, bound: Collection[str]) -> Variant:
        """The variant for these constants that binds the names in `bound`, besides `params`."""
        known = {binding.name for binding in self.shaders[kernel].bindings}
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
            said = await self._messages(variant)
            raise DeviceError(_complaint(variant, said) or f"kernel {variant}: {error}") from error
        self._pipelines[variant] = pipeline

    async def check(self, variant: Variant) -> list[CompilerMessage]:
        """What the compiler says of a variant that may be wrong, of which nobody else hears then.

        Raises DeviceError with its words where it is refused. No work may be queued meanwhile.
        """
        said: list[CompilerMessage] = []
        with suppress(DeviceError):  # which has the compiler's words without their places
            async with self._gpu.scope(f"kernel {variant}"):
                said = await self._messages(variant)
        if complaint := _complaint(variant, said):
            raise DeviceError(complaint)
        return said

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
        shader = self.shaders[kernel]
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
        return Recording(js, len(dispatches), uniforms)

    def join(self, recordings: Iterable[Recording]) -> Recording:
        """One recording that plays several; it is good as long as they are."""
        import doppler_runtime

        parts = list(recordings)
        js = doppler_runtime.join(*(recording.js for recording in parts))
        return Recording(js, sum(recording.count for recording in parts), None)

    def part(self, recording: Recording, first: int, end: int) -> Recording:
        """Dispatches first .. end - 1 of a recording; it is good as long as that is."""
        import doppler_runtime

        return Recording(doppler_runtime.part(recording.js, first, end), end - first, None)

    def set_params(self, recording: Recording, params: Sequence[bytes]) -> None:
        """Replaces the parameters of all of a recording's dispatches, each as `pack` gives them;
        for those that are run from now on.
        """
        assert recording.uniforms is not None
        self._gpu.write(recording.uniforms, 0, _spaced(params))

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
        text = _text(variant)
        if text not in self._modules:
            code = self.shaders[variant.kernel].variant(*text[1:])
            descriptor = js_object(label=variant.kernel, code=code)
            self._modules[text] = self._gpu.device.createShaderModule(descriptor)
        return self._modules[text]

    def _bindings(self, variant: Variant) -> list[Binding]:
        shader = self.shaders[variant.kernel]
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
        data = _spaced(packed)
        buffer = self._gpu.buffer(len(data), "activations", "parameters")
        self._gpu.write(buffer, 0, data)
        return buffer

    async def _messages(self, variant: Variant) -> list[CompilerMessage]:
        """The compiler's, with the places in the files that the source is made of."""
        text = _text(variant)
        if text not in self._said:
            info = await self._module(variant).getCompilationInfo()
            self._said[text] = [self._placed(variant, message) for message in info.messages]
        return self._said[text]

    def _placed(self, variant: Variant, message: Any) -> CompilerMessage:
        before = int(_halves(variant))  # lines of variant()
        file, line = self.shaders[variant.kernel].place(max(message.lineNum - before, 1))
        return CompilerMessage(message.type, file, line, message.linePos, str(message.message))


def _text(variant: Variant) -> Text:
    """What decides the text of a variant."""
    return variant.kernel, variant.absent, _halves(variant)


def _halves(variant: Variant) -> bool:
    return bool(dict(variant.constants).get("HALF"))


def _complaint(variant: Variant, said: Iterable[CompilerMessage]) -> str | None:
    """Nothing where nothing is wrong."""
    errors = [str(message) for message in said if message.kind == "error"]
    return f"kernel {variant} was refused: {'; '.join(errors)}" if errors else None


@dataclass(frozen=True)
class Device:
    """A GPU, and its kernels: what is computed on it needs both."""

    gpu: Gpu
    kernels: Kernels


def recorded_bytes(dispatches: int) -> int:
    """Of the GPU's memory, at most, that so many recorded dispatches take: their parameters."""
    return dispatches * UNIFORM_STEP


def _spaced(packed: Iterable[bytes]) -> bytes:
    """Parameters one behind the other, each where a binding may begin."""
    return b"".join(part.ljust(_stepped(len(part)), b"\0") for part in packed)


def _stepped(size: int) -> int:
    return -(-size // UNIFORM_STEP) * UNIFORM_STEP
