"""gpu/staging.py in the browser: what goes through the ring arrives, in order, and is counted."""

from __future__ import annotations

from gpu_page import GpuPage

SETUP = """
from pyodide.ffi import to_js
from doppler.errors import DeviceError
from doppler.gpu.staging import StagingRing

def pattern(length, seed):
    return bytes((seed + 7 * i + i // 256) % 256 for i in range(length))
"""


def ask(page: GpuPage, code: str) -> object:
    return page.run_python(SETUP + code)


def test_a_ring_that_goes_round(gpu_page: GpuPage) -> None:
    """Lengths that are no multiples of a buffer, parts of arrays, several targets at once."""
    right = ask(
        gpu_page,
        """
ring = StagingRing(gpu, 64, 3)
lengths = (4, 60, 64, 68, 1000, 192)
targets = [gpu.buffer(1024, "weights", "target") for _ in lengths]
arrays = [pattern(length + 12, seed) for seed, length in enumerate(lengths)]
await asyncio.gather(*(
    ring.upload(target, 8, to_js(array), 5, length)
    for target, array, length in zip(targets, arrays, lengths)
))
right = []
for target, array, length in zip(targets, arrays, lengths):
    expected = bytes(8) + array[5 : 5 + length]
    right.append(await gpu.read(Slice(target, 0, 1024)) == expected.ljust(1024, b"\\0"))
    target.destroy()
ring.destroy()
right
""",
    )
    assert right == [True] * 6


def test_order_on_the_queue(gpu_page: GpuPage) -> None:
    """A dispatch sees what was uploaded before it, and not what is uploaded after it; the array
    may change in between.
    """
    sums, copied = ask(
        gpu_page,
        """
from doppler.gpu.grids import MOST_AT_ONCE
ring = StagingRing(gpu, 4096, 2)
size = 16384
data = gpu.buffer(size, "staging", "data")
sums = gpu.buffer(4 * 256 * MOST_AT_ONCE, "staging", "sums")
other = gpu.buffer(size, "staging", "other")
bindings = {"data": Slice(data, 0, size), "sums": Slice(sums, 0, sums.size)}
params = {"tiles": 1}
grid = kernels.grid("bandwidth", params)
recording = kernels.record([kernels.dispatch("bandwidth", {}, bindings, params, grid, "sum")])
array = js.Uint32Array.new(size // 4)
words = js.Uint8Array.new(array.buffer)
found = []
for value in (3, 5):
    array.fill(value)
    await ring.upload(data, 0, words, 0, size)
    kernels.run(recording)
    gpu.copy(Slice(data, 0, size), other, 0)
    found.append(gpu.start_read(Slice(sums, 0, 4 * 256)))
    array.fill(9)
await ring.upload(data, 0, words, 0, size)
copied = np.frombuffer(await gpu.read(Slice(other, 0, size)), "u4")
sums_of = [int(np.frombuffer(await each, "u4").sum()) for each in found]
for buffer in (data, sums, other):
    buffer.destroy()
recording.destroy()
ring.destroy()
[sums_of, [int(copied.min()), int(copied.max())]]
""",
    )
    assert sums == [3 * 4096, 5 * 4096]
    assert copied == [5, 5]


def test_it_is_counted_and_given_back(gpu_page: GpuPage) -> None:
    held, after = ask(
        gpu_page,
        """
before = gpu.memory()["staging"]
ring = StagingRing(gpu, 1 << 16, 3)
held = gpu.memory()["staging"] - before
target = gpu.buffer(1 << 18, "kv", "target")
await ring.upload(target, 0, js.Uint8Array.new(1 << 18), 0, 1 << 18)
ring.destroy()  # buffers that are being mapped, too
target.destroy()
[held, gpu.memory()["staging"] - before]
""",
    )
    assert (held, after) == (3 << 16, 0)


def test_a_copy_past_the_end_is_told(gpu_page: GpuPage) -> None:
    message, again = ask(
        gpu_page,
        """
ring = StagingRing(gpu, 64, 2)
target = gpu.buffer(64, "kv", "small")
async def wrong():
    async with gpu.scope("experts"):
        await ring.upload(target, 32, js.Uint8Array.new(64), 0, 64)
try:
    await wrong()
    message = "no error"
except DeviceError as error:
    message = str(error)
for n in range(3):
    await ring.upload(target, 0, to_js(pattern(64, n)), 0, 64)
again = await gpu.read(Slice(target, 0, 64)) == pattern(64, 2)
target.destroy()
ring.destroy()
[message, again]
""",
    )
    assert str(message).startswith("experts: GPUValidationError")
    assert again is True


def test_a_lost_device(gpu_page: GpuPage) -> None:
    """It is told, whether it is lost between uploads or while one waits."""
    messages = ask(
        gpu_page,
        """
messages = []
for waits in (False, True):
    other = await Gpu.open()
    ring = StagingRing(other, 64, 2)
    target = other.buffer(1 << 16, "kv", "target")
    await ring.upload(target, 0, js.Uint8Array.new(256), 0, 256)
    uploading = ring.upload(target, 0, js.Uint8Array.new(1 << 16), 0, 1 << 16)
    if waits:
        uploading = asyncio.ensure_future(uploading)
        await asyncio.sleep(0)
    other.destroy()
    try:
        await uploading
        messages.append("no error")
    except DeviceError as error:
        messages.append(str(error))
    ring.destroy()
messages
""",
    )
    for message in messages:
        assert message.startswith("the GPU device was lost (destroyed"), message
