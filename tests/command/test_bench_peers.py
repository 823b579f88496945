"""scripts/bench_peers without peers: what counts as the GPU, the table, and Doppler's row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFReader
from playwright.sync_api import BrowserContext, Page, Playwright

from doppler.command.browser import Browser, launched
from doppler.command.shapes import SHAPES
from doppler.command.wheel import build_wheel
from doppler.convert.convert import convert_path
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage
from peers import bench
from peers.bench import COUNT, PeerServer, Plan, adapter_of, beyond_noise, measure, prompt_ids
from peers.synth_gguf import write
from peers.table import METRICS, Row, Use, as_json, as_table, fallback, ratios

MIB = 2**20
# Buffers of a page, of a worker made from a blob, and of a worker of that worker.
WORK = """async () => {
  const work = async (sizes) => {
    const device = await (await navigator.gpu.requestAdapter()).requestDevice();
    const make = (size) => device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST });
    const buffers = sizes.map(make);
    buffers[0].destroy();
    buffers[0].destroy();
    device.queue.submit([]);
    self.kept = [device, buffers];
  };
  const start = (code) =>
    new Promise((resolve) => {
      const blob = new Blob([code], { type: "text/javascript" });
      const worker = new Worker(URL.createObjectURL(blob), { type: "module" });
      worker.onmessage = resolve;
    });
  const inner = `await (${work})([16, 1000]); postMessage(1);`;
  const middle = `await (${work})([16, 400]); await (${start})(${JSON.stringify(inner)});`;
  await work([16, 4, 8]);
  await start(`${middle} postMessage(1);`);
}"""


@pytest.fixture(scope="module")
def server(tiny_models: Path) -> Iterator[PeerServer]:
    build_wheel()
    with PeerServer(tiny_models.parent / "tiny-base.gguf", None) as server:
        yield server


@pytest.fixture(scope="module")
def context(playwright: Playwright, browser: Browser) -> Iterator[BrowserContext]:
    with launched(playwright, browser, None) as context:
        context.add_init_script(path=COUNT)
        yield context


def blank(context: BrowserContext, server: PeerServer) -> Page:
    page = context.new_page()
    page.goto(f"{server.url}peers/page")
    return page


def test_counts_buffers_and_submits_of_page_and_workers(
    context: BrowserContext, server: PeerServer
) -> None:
    page = blank(context, server)
    assert page.evaluate("gpuCounts()") == {"bytes": 0, "submits": 0, "adapter": None}
    page.evaluate(WORK)
    counts = page.evaluate("gpuCounts()")
    assert counts["bytes"] == 4 + 8 + 400 + 1000
    assert counts["submits"] == 3
    assert counts["adapter"]
    page.close()


def test_doppler_is_counted_as_it_counts_itself(
    context: BrowserContext,
    server: PeerServer,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way of one engine; the bytes are those that its own accounting has."""
    monkeypatch.setattr(bench, "SETTLE_MS", 0)
    gguf = tiny_models.parent / "tiny-base.gguf"
    site = {"gguf": f"/models/{gguf.name}", "context": 64}
    plan = Plan(12, 6, 4, 1, 120, False, site, {"doppler": gguf.stat().st_size})
    row = measure(context, server.url, "doppler", plan)
    assert row.problem is None
    # So few tokens may take no longer than one, where the machine is busy.
    assert ("decode_tok_s" in row.figures) == (row.unmeasured is None)
    assert {*row.figures, "decode_tok_s"} == set(METRICS)
    assert all(value > 0 for value in row.figures.values())
    assert row.use is not None
    assert row.use.adapter is not None
    page = context.new_page()
    page.goto(server.url)
    page.evaluate("import('/peers/engines.js').then((it) => it.load('doppler', {context: 64}))")
    own = page.evaluate("doppler.call('memory')")
    assert page.evaluate("gpuCounts()")["bytes"] == own["total"]
    page.close()


def test_an_engine_that_fails_has_a_row_that_says_so(
    context: BrowserContext, server: PeerServer
) -> None:
    plan = Plan(12, 6, 4, 1, 60, False, {"gguf": "/models/no.gguf", "context": 64}, {"doppler": 1})
    row = measure(context, server.url, "doppler", plan)
    assert row.figures == {}
    assert row.problem is not None
    assert "404" in row.problem
    assert "--onnx" in (measure(context, server.url, "transformers", plan).problem or "")


def test_adapter_is_told(context: BrowserContext, server: PeerServer) -> None:
    assert isinstance(adapter_of(context, server.url)["f16"], bool)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (Use(260 * MIB, 300, "nvidia"), None),
        (Use(260 * MIB, 10, "nvidia"), None),  # 32 tokens a submit
        (Use(260 * MIB, 9, "nvidia"), "9 GPU submits for 300 tokens"),
        (Use(102 * MIB, 300, "nvidia"), "102 MiB of GPU buffers for 241 MiB of weights"),
        (Use(0, 0, None), "made no GPU buffer"),
    ],
)
def test_fallback(use: Use, told: str | None) -> None:
    reason = fallback(use, 241 * MIB, 300, True)
    assert (reason is None) == (told is None)
    if told is not None and reason is not None:
        assert told in reason
        assert "shader-f16" not in reason
        assert "shader-f16" in (fallback(use, 241 * MIB, 300, False) or "")


@pytest.mark.parametrize(
    ("one", "whole", "more", "is_told"),
    [
        ([10, 20, 30], [15, 25, 35], 5, True),  # however slow the machine becomes meanwhile
        ([10, 10, 10], [15, 15, 900], 5, True),
        ([10], [15], 5, True),
        ([10], [10], 0, False),
        ([10, 12, 11], [9, 11, 10], -1, False),
        ([10, 90, 10], [90, 10, 14], 4, False),
    ],
)
def test_a_difference_that_is_noise(
    one: list[float], whole: list[float], more: float, is_told: bool
) -> None:
    assert beyond_noise(one, whole) == (more, is_told)


def row(engine: str, scale: float, problem: str | None = None) -> Row:
    figures = {name: scale * (number + 1) for number, name in enumerate(METRICS)}
    return Row(engine, figures, Use(1, 1, "nvidia"), problem)


def test_ratio_is_ours_by_theirs() -> None:
    found = ratios(row("Doppler", 1000), row("wllama", 100))
    assert found == dict.fromkeys(METRICS, 10)
    table = as_table([row("Doppler", 1000), row("wllama", 100)])
    assert "| Doppler ÷ wllama | 10× | 10× | 10× | 10× | 10× |" in table
    assert "| Doppler | 1,000 | 2,000 | 3,000 | 4,000 | 5,000 |" in table


def test_what_is_lost_in_the_noise_is_no_figure() -> None:
    ours, noisy = row("Doppler", 1000), row("wllama", 100)
    few = {name: figure for name, figure in noisy.figures.items() if name != "decode_tok_s"}
    noisy = replace(noisy, figures=few, unmeasured="decode is lost in the noise")
    table = as_table([ours, noisy])
    assert "| wllama | 100 | 200 | – | 400 | 500 |" in table
    assert "| Doppler ÷ wllama | 10× | 10× | – | 10× | 10× |" in table
    assert "wllama: decode is lost in the noise" in table
    told = as_json([ours, noisy])["engines"]["wllama"]
    assert (told["on_gpu"], told["unmeasured"]) == (True, "decode is lost in the noise")


def test_no_ratio_with_what_ran_on_the_cpu() -> None:
    ours, cpu = row("Doppler", 1), row("wllama", 9, "ran on the CPU")
    table = as_table([ours, cpu])
    assert "| wllama (not on the GPU) | 9 | 18 | 27 | 36 | 45 |" in table
    assert "| Doppler ÷ wllama | – | – | – | – | – |" in table
    assert "wllama: ran on the CPU" in table
    assert as_json([ours, cpu])["ratios"] == {"wllama": None}
    assert ratios(replace(ours, problem="failed"), row("wllama", 9)) is None


def test_synthetic_gguf_is_of_its_shape(tiny_models: Path, tmp_path: Path) -> None:
    vocabulary = tiny_models.parent / "tiny-base.gguf"
    tokens = len(GGUFReader(vocabulary).fields["tokenizer.ggml.tokens"].data)
    whole = SHAPES["gemma-3-1b"]
    config = replace(whole, layers=whole.layers[:1], vocab=tokens, hidden=256, ffn=512)
    config = replace(config, embedding_scale=16.0)
    write(config, vocabulary, tmp_path / "one.gguf")
    storage, buffers = FolderStorage(tmp_path / "one"), MemoryBuffers()
    manifest = asyncio.run(convert_path(tmp_path / "one.gguf", storage, buffers))
    assert manifest.config == config
    assert manifest.quantization == "Q4_0"


def test_prompts_differ_and_have_their_length() -> None:
    prompts = [prompt_ids(number, 64) for number in range(6)]
    assert {len(prompt) for prompt in prompts} == {64}
    assert len({tuple(prompt[:8]) for prompt in prompts}) == 6
    assert prompts[0] == prompt_ids(0, 64)
