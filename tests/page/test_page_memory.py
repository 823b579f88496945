"""Budgets of memory, set in the page, and its panel of what a model takes and brings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from accessible import assert_accessible
from app_page import App, convert_all, watched
from doppler.store.manifest import MANIFEST_FILE
from swarm_site import until
from tiny_models import EXPERTS, LAYERS, USED, write_mixture
from visited import Visited

NAME = "tiny-mixture"
LOADS = "calls.filter((call) => call.method === 'load').length"
SET_BUDGET = """(n) => import("/app/store.js").then(({ state, set }) =>
  set({ settings: { ...state.settings, gpu_budget: n } }))"""
TOLD = "(n) => calls.some((call) => call.args.host_budget === n && call.result)"
COUNTS = """(n) => calls.some(({ method, args, result }) =>
  ["load", "set_budgets"].includes(method) && args.gpu_budget === n && result && !result.load)"""
AUTOMATIC = """() => {
  const { args, result } = calls.findLast(({ method }) => method === "set_budgets");
  return args.host_budget === null && Boolean(result);
}"""
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixture")


@pytest.fixture(scope="module")
def app(visited: Visited, folder: Path) -> Iterator[App]:
    """The page with a mixture stored, and nothing loaded."""
    models = convert_all({NAME: write_mixture(folder / f"{NAME}.gguf")}, folder / "models")
    with watched(models, folder / "server", visited.port) as server, visited.opened() as context:
        app = App(context.pages[0], server.url).open()
        app.set(greedy=True, max_tokens="12", context="512")
        app.call("download", url=f"models/{NAME}/{MANIFEST_FILE}")
        yield app


def bytes_of(text: str) -> float:
    """What "1.5 MB" means."""
    found = re.search(r"([\d.]+) (\w+)", text)
    assert found is not None, text
    return float(found[1]) * UNITS[found[2]]


def assert_shows(where: Locator, size: float) -> None:
    """The first size in a text, to the three digits that are shown: soon, since the panel asks once
    a second.
    """
    until(
        lambda: bytes_of(where.inner_text()), lambda shown: shown == pytest.approx(size, rel=6e-3)
    )


def settled(app: App) -> Any:
    """Where the model is, once the host's memory has been filled as far as it is."""
    told, before = app.call("residency"), None
    while told != before:
        app.page.wait_for_timeout(300)
        told, before = app.call("residency"), told
    return told


def half_of(app: App) -> tuple[dict[str, Any], int]:
    """The fit of the stored mixture, and a budget that holds about half of its experts."""
    (stored,) = app.call("models")
    (choice,) = app.call("inspect", id=stored["id"], context=512)["choices"]
    (fit,) = (it for it in choice["fits"] if it["context"] == 512)
    return fit, (fit["least"] + fit["whole"]) // 2


def test_the_card_says_how_it_would_run(app: App, folder: Path) -> None:
    """With the slider, by keyboard; below the least it cannot be set, elsewhere it could."""
    fit, half = half_of(app)
    app.pick(folder / f"{NAME}.gguf")
    slider = app.offer.get_by_test_id("set-gpu_budget")
    expect(slider).to_have_attribute("aria-valuetext", "Automatic")
    verdict = app.offer.get_by_test_id("verdict")
    expect(verdict).to_contain_text("It should fit.")
    slider.focus()
    for _ in range(5):
        app.page.keyboard.press("PageDown")
    expect(verdict).to_contain_text("Does not fit: runs by paging at about")
    expect(verdict).to_contain_text("tokens a second.")
    budget = app.page.evaluate("import('/app/store.js').then((s) => s.state.settings.gpu_budget)")
    assert abs(budget - half) < 0.1 * half
    foreseen = app.last("foresee")
    assert foreseen["args"]["gpu_budget"] == budget
    assert foreseen["args"]["gb_s"] > 0
    assert foreseen["result"]["way"] == "experts"
    speed = float(f"{foreseen['result']['tok_s']:.2g}")
    expect(verdict).to_contain_text(f"at about {speed:,g} tokens a second")
    expect(app.offer.get_by_role("button", name="Import")).to_be_enabled()
    # Of a smaller model, say, a budget may be less than this one can do with.
    small = fit["least"] // 2
    app.page.keyboard.press("Escape")
    app.page.evaluate(SET_BUDGET, small)
    app.pick(folder / f"{NAME}.gguf")
    expect(verdict).to_contain_text("it needs at least")
    expect(app.offer.get_by_role("button", name="Import")).to_be_disabled()
    verdict.get_by_role("button", name="Set no budget").click()
    expect(verdict).to_contain_text("It should fit.")
    expect(app.offer.get_by_role("button", name="Import")).to_be_enabled()
    app.page.keyboard.press("Escape")


def test_the_panel_shows_what_the_engine_says(app: App) -> None:
    """Loaded whole, then again with a budget that was set by keyboard in the settings."""
    fit, half = half_of(app)
    page, panel = app.page, app.page.get_by_test_id("memory-panel")
    app.get(NAME)
    panel.locator("summary").first.click()
    expect(panel).to_contain_text("All of the model is on the GPU.")
    expect(panel.get_by_test_id("tier-host")).to_have_count(0)
    app.new_chat()
    whole = app.answer("hello")
    page.get_by_role("button", name="Settings").click()
    settings = page.get_by_test_id("settings")
    expect(settings).to_contain_text("This model runs in")
    slider = settings.get_by_test_id("set-gpu_budget")
    slider.focus()
    for key in ("Home", *["PageUp"] * 4, "ArrowLeft"):
        page.keyboard.press(key)
    budget = int(slider.input_value())
    assert fit["least"] < budget < half
    verdict = settings.get_by_test_id("budget-verdict")
    expect(verdict).to_contain_text("With this budget it runs by paging at about")
    page.wait_for_function(COUNTS, arg=budget)  # it was loaded again by itself
    settings.get_by_role("button", name="Close settings").click()
    app.expect_loaded()
    expect(panel.get_by_test_id("tier-gpu")).to_contain_text(" of ")
    expect(app.answers.last).to_contain_text(whole.split()[0])  # the conversation is still there
    app.new_chat()
    assert app.answer("hello") == whole
    told = settled(app)
    last, memory = told["last"], told["memory"]
    assert memory["peak"] <= budget == told["gpu_budget"]
    assert last["written"] == 12
    assert [it["layer"] for it in told["layers"]] == list(range(LAYERS))
    for layer in told["layers"]:
        assert USED <= len(layer["resident"]) < EXPERTS == len(layer["uses"])
        assert sum(layer["uses"]) >= 11 * USED  # the first token is the prompt's
    assert sum(len(it["resident"]) for it in told["layers"]) == told["paging"]["slots"]
    assert_shows(panel.get_by_test_id("tier-gpu").locator("b"), memory["total"])
    assert_shows(panel.get_by_test_id("tier-host").locator("b"), told["host_bytes"])
    writing = last["writing"]
    share = writing["hits"] / (writing["hits"] + writing["misses"])
    expect(panel.get_by_test_id("paging-hits")).to_have_text(f"{100 * share:.0f} %")
    brought = sum(writing["bytes"].values()) / 12
    assert_shows(panel.get_by_test_id("paging-brought"), brought)
    expect(panel.get_by_test_id("paging-waited")).to_contain_text(" ms")
    panel.get_by_text("In words").click()
    assert_accessible(page)
    first = told["layers"][0]
    text = f"Layer 0: {len(first['resident'])} of {EXPERTS} experts on the GPU, busiest "
    expect(panel.get_by_role("listitem").first).to_contain_text(text)
    calls = "calls.filter((call) => call.method === 'residency').length"
    panel.locator("summary").first.click()  # while it is closed nobody asks
    before = page.evaluate(calls)
    app.answer("again")
    assert page.evaluate(calls) == before


def test_the_gpu_budget_changes_while_it_is_loaded(app: App) -> None:
    """Of a mixture with some of its experts there: nothing is loaded, nor read again."""
    page, settings = app.page, app.page.get_by_test_id("settings")
    before, loads = app.call("residency"), page.evaluate(LOADS)
    page.get_by_role("button", name="Settings").click()
    slider = settings.get_by_test_id("set-gpu_budget")
    slider.focus()
    page.keyboard.press("PageUp")
    budget = int(slider.input_value())
    assert budget > before["gpu_budget"]
    page.wait_for_function(COUNTS, arg=budget)
    settings.get_by_role("button", name="Close settings").click()
    after = app.call("residency")
    assert after["gpu_budget"] == budget
    assert after["paging"]["slots"] > before["paging"]["slots"]
    app.answer("and more")
    assert app.last("chat")["result"]["reused_tokens"] > 12
    assert app.call("memory")["peak"] <= budget
    assert page.evaluate(LOADS) == loads


def test_the_host_budget_changes_while_it_is_loaded(app: App) -> None:
    page, settings = app.page, app.page.get_by_test_id("settings")
    held = settled(app)["host_bytes"]
    assert held > 3 << 20
    page.get_by_role("button", name="Settings").click()
    slider = settings.get_by_test_id("set-host_budget")
    expect(slider).to_be_visible()
    slider.focus()
    for key in ("Home", "PageUp"):
        page.keyboard.press(key)
    budget = int(slider.input_value())
    page.wait_for_function(TOLD, arg=budget)
    told = settled(app)
    assert told["host_budget"] == budget < held
    assert told["host_bytes"] <= budget
    loads = page.evaluate(LOADS)
    settings.get_by_role("button", name="Back to automatic").last.click()
    expect(slider).to_be_focused()
    page.wait_for_function(AUTOMATIC)
    told = settled(app)  # it is filled again
    assert (told["host_budget"], told["host_bytes"]) == (2 << 30, held)
    assert page.evaluate(LOADS) == loads
    settings.get_by_role("button", name="Close settings").click()
    app.open()  # budgets are kept
    app.get(NAME)
    assert app.call("residency")["gpu_budget"] == app.last("load")["args"]["gpu_budget"]
