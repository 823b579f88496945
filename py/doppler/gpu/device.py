"""The GPU: device, buffers, transfers and errors. The only module that touches navigator.gpu.

It runs in a page or worker, inside Pyodide; imports of the browser's objects stand in functions so
that plans, which name buffers but touch none, can be built and tested on CPython.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from doppler.errors import DeviceError

T = TypeVar("T")
MemoryKind = Literal["weights", "kv", "activations", "staging"]

MATRIX_UNITS = "chromium-experimental-subgroup-matrix"
# Used where the adapter has them.
FEATURES = ("shader-f16", "subgroups", "timestamp-query", MATRIX_UNITS)
LEAST = {  # what kernels take for granted, and how much of it; asked for as large as it comes
    "maxBufferSize": 1 << 27,
    "maxStorageBufferBindingSize": 1 << 25,
    "maxStorageBuffersPerShaderStage": 8,
    "maxComputeWorkgroupStorageSize": 1 << 14,
    "maxComputeInvocationsPerWorkgroup": 256,
    "maxComputeWorkgroupSizeX": 256,
    "maxComputeWorkgroupsPerDimension": 65535,
}
# GPUBufferUsage and GPUMapMode are numbers fixed by the WebGPU standard.
MAP_READ, MAP_WRITE, COPY_SRC, COPY_DST, UNIFORM, STORAGE = 1, 2, 4, 8, 64, 128
USAGE = COPY_SRC | COPY_DST | STORAGE
MOST_CPU_LANES = 8  # of a subgroup
LOSS_SECONDS = 0.5  # how long after mapping fails the browser may tell that the device is lost


class GpuBuffer:
    """`size` bytes on the GPU, counted under `kind`; `js` is the GPUBuffer."""

    def __init__(self, gpu: Gpu | None, size: int, kind: MemoryKind, js: Any) -> None:
        self.size, self.kind, self.js = size, kind, js
        self._gpu = gpu

    def destroy(self) -> None:
        """Gives the memory back; harmless when done twice."""
        if self._gpu is not None:
            self._gpu.forget(self)
            self._gpu = None
            self.js.destroy()


@dataclass(frozen=True)
class Slice:
    """Bytes offset .. offset + size of a buffer. Bound ones start at multiples of 256."""

    buffer: GpuBuffer
    offset: int
    size: int


class Gpu:
    """One WebGPU device with the adapter's best limits."""

    def __init__(self, device: Any, info: Any, asked: dict[str, int] | None) -> None:
        from pyodide.ffi import create_proxy

        names = ("vendor", "architecture", "description")
        self.device, self.asked = device, asked
        self.info = {name: str(getattr(info, name)) for name in names}
        self.subgroup_size = int(getattr(info, "subgroupMinSize", 0) or 0)  # lanes at least
        # GPUs have subgroups of 16 and more, at least at times; SwiftShader has 4, lavapipe 8.
        self.is_cpu = 0 < int(getattr(info, "subgroupMaxSize", 0) or 0) <= MOST_CPU_LANES
        self.queue = device.queue
        self.features = frozenset(name for name in FEATURES if device.features.has(name))
        self.has_matrix_units = MATRIX_UNITS in self.features and _multiplies_halves(info)
        # A device never has less than the standard's defaults; whoever asked for less keeps to it.
        self.limits = {name: int(getattr(device.limits, name)) for name in LEAST} | (asked or {})
        self.lost: str | None = None  # why the device is gone
        self.on_lost: Callable[[str], None] | None = None
        self._memory: dict[MemoryKind, int] = dict.fromkeys(get_args(MemoryKind), 0)
        self.peak = 0  # bytes held at once
        self._lost_event = asyncio.Event()
        self._uncaptured: str | None = None
        self._readers: list[GpuBuffer] = []  # mappable buffers that no reading holds
        self._proxies = [create_proxy(self._lose), create_proxy(self._capture)]
        device.lost.then(self._proxies[0])
        device.addEventListener("uncapturederror", self._proxies[1])

    @classmethod
    async def open(cls, limits: dict[str, int] | None = None) -> Gpu:
        """The best adapter's device. `limits` asks for less (or insists on more) of some.

        Raises DeviceError where there is no WebGPU, no adapter, or one that is too small.
        """
        adapter = await _adapter()
        device = await _device(adapter, limits or {})
        return cls(device, adapter.info, limits)

    def forgo_subgroups(self) -> None:
        """Plans made from now on use no subgroups, nor matrix units, which are shared by them."""
        self.features -= {"subgroups", MATRIX_UNITS}
        self.has_matrix_units = False

    def destroy(self) -> None:
        """Ends the device and all of its buffers."""
        self.device.destroy()

    def buffer(self, size: int, kind: MemoryKind, label: str) -> GpuBuffer:
        """A zeroed buffer of `size` bytes (a multiple of 4) for storage, copies and uniforms."""
        if size > self.limits["maxBufferSize"]:
            raise DeviceError(
                f"{label}: {size} bytes are more than the {self.limits['maxBufferSize']} that this "
                "adapter allows a buffer; use a smaller model, context or batch"
            )
        return self._create(size, kind, label, USAGE | (UNIFORM if kind == "activations" else 0))

    def mapped_buffer(self, size: int, label: str) -> GpuBuffer:
        """A buffer for staging: it is mapped, to be written to, and then copied from."""
        return self._create(size, "staging", label, MAP_WRITE | COPY_SRC)

    def forget(self, buffer: GpuBuffer) -> None:
        """Stops counting a buffer; its `destroy` calls this."""
        self._memory[buffer.kind] -= buffer.size

    def memory(self) -> dict[str, int]:
        """Bytes held, by kind, and their `total`; and the most that were (`peak`)."""
        held: dict[str, int] = dict(self._memory.items())
        return {**held, "total": sum(self._memory.values()), "peak": self.peak}

    def reset_peak(self) -> None:
        """Counts the most that is held from what is held now."""
        self.peak = sum(self._memory.values())

    def write(self, buffer: GpuBuffer, offset: int, data: bytes | Any) -> None:
        """Copies bytes or a JavaScript Uint8Array into a buffer. Multiples of 4 both.

        For what is small: a StagingRing brings megabytes several times as fast.
        """
        from pyodide.ffi import to_js

        array = to_js(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
        self.queue.writeBuffer(buffer.js, offset, array)

    def copy(self, part: Slice, target: GpuBuffer, at: int) -> None:
        """Queues a copy of a slice to byte `at` of another buffer. Multiples of 4 all."""
        encoder = self.device.createCommandEncoder()
        encoder.copyBufferToBuffer(part.buffer.js, part.offset, target.js, at, part.size)
        self.queue.submit([encoder.finish()])

    async def read(self, part: Slice) -> bytes:
        """The bytes of a slice, after everything that was queued before."""
        return await self.start_read(part)

    def start_read(self, part: Slice) -> Awaitable[bytes]:
        """Queues a copy of a slice now; the result gives its bytes."""
        return self.start_join([part])

    def start_join(self, parts: Sequence[Slice]) -> Awaitable[bytes]:
        """Queues copies of slices now; the result gives their bytes, one behind the other.
        Multiples of 4 all.
        """
        return self._start_read(parts, lambda mapped: mapped.to_bytes())

    def start_gather(self, parts: Sequence[Slice]) -> Awaitable[Any]:
        """Queues copies of slices now, one behind the other; the result is a JavaScript Uint8Array
        of them. Multiples of 4 all.
        """
        import js

        return self._start_read(parts, lambda mapped: js.Uint8Array.new(mapped).slice())

    def _start_read(self, parts: Sequence[Slice], copy: Callable[[Any], T]) -> Awaitable[T]:
        size = sum(part.size for part in parts)
        reader, at = self._reader(size), 0
        encoder = self.device.createCommandEncoder()
        for part in parts:
            encoder.copyBufferToBuffer(part.buffer.js, part.offset, reader.js, at, part.size)
            at += part.size
        self.queue.submit([encoder.finish()])
        mapped = reader.js.mapAsync(MAP_READ, 0, size)
        return asyncio.ensure_future(self._mapped(mapped, reader, size, copy))

    async def done(self) -> None:
        """Returns when everything queued so far has been computed."""
        await self.queue.onSubmittedWorkDone()
        self.check()

    def check(self) -> None:
        """Raises DeviceError where the device is lost, or refused work since the last check."""
        if self.lost is not None:
            raise DeviceError(f"the GPU device was lost ({self.lost}); load the model again")
        if self._uncaptured is not None:
            message, self._uncaptured = self._uncaptured, None
            raise DeviceError(f"the GPU refused work: {message}")

    async def not_mapped(self, what: str, error: Exception) -> DeviceError:
        """The error of a buffer that could not be mapped; raises that of a lost device instead."""
        with suppress(TimeoutError):  # a device that is lost aborts mapping before it says so
            await asyncio.wait_for(self.until_lost(), LOSS_SECONDS)
        self.check()
        return DeviceError(f"{what}: {error}")

    async def until_lost(self) -> None:
        """Returns when the device is lost; `lost` then says why."""
        await self._lost_event.wait()

    @asynccontextmanager
    async def scope(self, stage: str) -> AsyncIterator[None]:
        """Errors of the GPU within the block become a DeviceError that names `stage`.

        Scopes nest on the device, so blocks of concurrent tasks must not overlap.
        """
        for kind in ("internal", "out-of-memory", "validation"):
            self.device.pushErrorScope(kind)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        found = await self._pop_scopes()
        if found:
            raise DeviceError(f"{stage}: {'; '.join(found)}") from failure
        if failure is not None:
            raise failure
        if self.lost is not None:
            raise DeviceError(f"{stage}: the GPU device was lost ({self.lost}); load again")

    async def _pop_scopes(self) -> list[str]:
        from pyodide.ffi import JsException

        pops = [self.device.popErrorScope() for _ in range(3)]
        found = []
        for pop in pops:
            try:
                error = await pop
            except JsException as failed:  # the device went while the answer was on its way
                found.append(f"the GPU device was lost ({self.lost or failed})")
                continue
            if error:
                found.append(_describe(error))
        return found

    def _create(self, size: int, kind: MemoryKind, label: str, usage: int) -> GpuBuffer:
        from pyodide.ffi import JsException

        mapped = bool(usage & MAP_WRITE)
        descriptor = js_object(size=size, usage=usage, label=label, mappedAtCreation=mapped)
        try:
            js = self.device.createBuffer(descriptor)
        except JsException as error:
            raise DeviceError(f"{label}: no buffer of {size} bytes: {error}") from error
        self._memory[kind] += size
        self.peak = max(self.peak, sum(self._memory.values()))
        return GpuBuffer(self, size, kind, js)

    def _reader(self, size: int) -> GpuBuffer:
        for index, reader in enumerate(self._readers):
            if size <= reader.size:
                return self._readers.pop(index)
        return self._create(size, "staging", "reader", MAP_READ | COPY_DST)

    async def _mapped(
        self, mapped: Awaitable[Any], reader: GpuBuffer, size: int, copy: Callable[[Any], T]
    ) -> T:
        """The bytes of a reader, as `copy` takes them of the ArrayBuffer that they lie in."""
        from pyodide.ffi import JsException

        try:
            await mapped
            data = copy(reader.js.getMappedRange(0, size))
        except JsException as error:
            reader.destroy()
            raise await self.not_mapped(f"reading {size} bytes from the GPU", error) from error
        except BaseException:  # nobody waits for it any more
            reader.destroy()
            raise
        reader.js.unmap()
        self._keep(reader)
        self.check()
        return data

    def _keep(self, reader: GpuBuffer) -> None:
        """Keeps small readers for the next reading; large ones (all logits) are rare."""
        if reader.size <= 1 << 16:
            self._readers.append(reader)
        else:
            reader.destroy()

    def _lose(self, info: Any) -> None:
        self.lost = f"{info.reason}: {info.message}"
        self._lost_event.set()
        if self.on_lost is not None:
            self.on_lost(self.lost)

    def _capture(self, event: Any) -> None:
        self._uncaptured = self._uncaptured or _describe(event.error)


def js_object(**fields: Any) -> Any:
    """A JavaScript object, as descriptors want it; nested dicts and lists too."""
    import js
    from pyodide.ffi import to_js

    return to_js(fields, dict_converter=js.Object.fromEntries)


def _multiplies_halves(info: Any) -> bool:
    """Whether matrix units take 16 × 16 × 16 of f16 and add in f32, by subgroups of 32."""
    sizes = {int(getattr(info, f"subgroup{end}Size", 0) or 0) for end in ("Min", "Max")}
    wanted = ("f16", "f32", 16, 16, 16)
    names = ("componentType", "resultComponentType", "M", "N", "K")
    configs = getattr(info, "subgroupMatrixConfigs", None) or ()
    return sizes == {32} and any(
        tuple(getattr(config, name) for name in names) == wanted for config in configs
    )


def _describe(error: Any) -> str:
    return f"{error.constructor.name}: {error.message}"


async def _adapter() -> Any:
    import js

    gpu = getattr(js.navigator, "gpu", None)
    if not gpu:
        raise DeviceError(
            "this browser offers no WebGPU here (navigator.gpu is missing): use a current Chrome, "
            "Edge, Safari or Firefox, and open the page by https or from localhost"
        )
    adapter = await gpu.requestAdapter(js_object(powerPreference="high-performance"))
    if not adapter:
        raise DeviceError(
            "WebGPU found no adapter: switch graphics acceleration on in the browser's settings, "
            "or update the graphics driver"
        )
    return adapter


async def _device(adapter: Any, asked: Mapping[str, int]) -> Any:
    from pyodide.ffi import JsException

    limits = {}
    for name, least in LEAST.items():
        has, wants = int(getattr(adapter.limits, name)), asked.get(name)
        if has < (needs := least if wants is None else wants):
            raise DeviceError(
                f"this adapter is too small: {name} is {has}, and {needs} is needed; "
                "use a device with a larger GPU"
            )
        limits[name] = has if wants is None else wants
    features = [name for name in FEATURES if adapter.features.has(name)]
    try:
        return await adapter.requestDevice(
            js_object(requiredFeatures=features, requiredLimits=limits)
        )
    except JsException as error:
        raise DeviceError(f"the adapter gave no device: {error}; reload the page") from error
