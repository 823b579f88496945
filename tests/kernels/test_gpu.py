"""gpu/device.py in the browser: limits, accounting, transfers, errors and a lost device."""

from __future__ import annotations

import pytest

from gpu_page import GpuPage

ERROR_OF = """
from doppler.errors import DeviceError
async def error_of(work):
    try:
        await work
    except DeviceError as error:
        return str(error)
    return "no error"
"""


def ask(page: GpuPage, code: str) -> object:
    return page.run_python(ERROR_OF + code)


def test_limits_are_the_adapters_or_the_callers(gpu_page: GpuPage) -> None:
    best, small = ask(
        gpu_page,
        """
name = "maxStorageBufferBindingSize"
adapter = await js.navigator.gpu.requestAdapter()
less = await Gpu.open({name: 1 << 20})
result = [gpu.limits[name] == getattr(adapter.limits, name), less.limits[name]]
less.destroy()
result
""",
    )
    assert best is True
    assert small == 1 << 20


def test_transfers_and_accounting(gpu_page: GpuPage) -> None:
    """What is written is read back, at offsets too; memory is counted by kind and given back."""
    same, held, after = ask(
        gpu_page,
        """
before = gpu.memory()
buffer = gpu.buffer(1 << 20, "kv", "cache")
data = bytes(range(256)) * 16
gpu.write(buffer, 512, data)
gpu.write(buffer, 8192, js.Uint8Array.new([9, 1, 2, 3, 4, 5, 6, 7, 8]).subarray(1))
first = gpu.start_read(Slice(buffer, 512, 4096))
gpu.write(buffer, 512, bytes(4096))
second = gpu.start_read(Slice(buffer, 8192, 12))
same = [await first == data, await second == bytes([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0])]
same.append(await gpu.read(Slice(buffer, 512, 4)) == bytes(4))
held = gpu.memory()["kv"] - before["kv"]
buffer.destroy()
buffer.destroy()
after = gpu.memory()["kv"] - before["kv"]
[same, held, after]
""",
    )
    assert list(same) == [True, True, True]
    assert (held, after) == (1 << 20, 0)


def test_a_refused_kernel_is_named_with_its_line(gpu_page: GpuPage) -> None:
    message = ask(
        gpu_page,
        """
broken = Kernels(gpu, {"broken": "@compute @workgroup_size(1)\\nfn main() { let a = nothing; }"})
await error_of(broken.prepare(broken.variant("broken", {}, [])))
""",
    )
    assert "kernel broken was refused: broken.wgsl line 2: " in str(message)
    assert "nothing" in str(message)


def test_scope_names_the_stage(gpu_page: GpuPage) -> None:
    message = ask(
        gpu_page,
        """
async def wrong():
    buffer = gpu.buffer(16, "kv", "small")
    async with gpu.scope("upload of blk.3.ffn_up"):
        gpu.write(buffer, 12, bytes(8))
await error_of(wrong())
""",
    )
    assert str(message).startswith("upload of blk.3.ffn_up: GPUValidationError")


def test_errors_outside_scopes_surface_at_the_next_read(gpu_page: GpuPage) -> None:
    first, second = ask(
        gpu_page,
        """
buffer = gpu.buffer(16, "kv", "small")
gpu.write(buffer, 12, bytes(8))
part = Slice(buffer, 0, 16)
[await error_of(gpu.read(part)), await error_of(gpu.read(part))]
""",
    )
    assert first.startswith("the GPU refused work: GPUValidationError")
    assert second == "no error"


def test_too_large_buffers_and_adapters_too_small(gpu_page: GpuPage) -> None:
    buffer, device = ask(
        gpu_page,
        """
async def large():
    gpu.buffer(gpu.limits["maxBufferSize"] + 4, "weights", "token_embd.weight")
limits = {"maxStorageBufferBindingSize": 1 << 50}
[await error_of(large()), await error_of(Gpu.open(limits))]
""",
    )
    assert buffer.startswith("token_embd.weight: ")
    assert "more than the" in buffer
    assert device.startswith("this adapter is too small: maxStorageBufferBindingSize is ")


@pytest.mark.parametrize(
    ("gpu_object", "words"),
    [
        ("undefined", "this browser offers no WebGPU here"),
        ("{ requestAdapter: async () => null }", "WebGPU found no adapter"),
    ],
)
def test_no_webgpu_and_no_adapter(gpu_page: GpuPage, gpu_object: str, words: str) -> None:
    define = "Object.defineProperty(navigator, 'gpu', { value: %s, configurable: true })"
    gpu_page.run_js(f"() => {{ {define % gpu_object} }}")
    message = ask(gpu_page, "await error_of(Gpu.open())")
    gpu_page.run_js("() => { delete navigator.gpu; }")
    assert words in str(message)


def test_subgroups_that_are_no_runs_are_left_alone(gpu_page: GpuPage) -> None:
    """Kernels take them for runs of local invocation indices: a probe finds out."""
    if "subgroups" not in gpu_page.features:
        pytest.skip("the adapter has none")
    here, there, before, after = ask(
        gpu_page,
        """
from doppler.gpu.kernels import Device
from doppler.gpu.lanes import are_runs, forgo_scattered_subgroups
other = await Gpu.open()
source = json.loads(js.kernelSources)["lanes"]
backwards = source.replace("lane == index", "size - 1u - lane == index")
here, there = Device(gpu, kernels), Device(other, Kernels(other, {"lanes": backwards}))
before = "subgroups" in other.features
await forgo_scattered_subgroups(there)
after = "subgroups" in other.features
result = [await are_runs(here), await are_runs(there), before, after]
other.destroy()
result
""",
    )
    assert [here, there, before, after] == [True, False, True, False]


def test_lost_device(gpu_page: GpuPage) -> None:
    """The reason is kept, the callback called, and reading says so."""
    told, lost, message, scope = ask(
        gpu_page,
        """
other = await Gpu.open()
buffer = other.buffer(16, "kv", "small")
told = []
other.on_lost = told.append
other.destroy()
await other.until_lost()
async def staged():
    async with other.scope("loading"):
        pass
reading = await error_of(other.read(Slice(buffer, 0, 16)))
[told, other.lost, reading, await error_of(staged())]
""",
    )
    assert list(told) == [lost]
    assert lost.startswith("destroyed")
    assert "the GPU device was lost (destroyed" in message
    assert scope.startswith("loading: the GPU device was lost")
