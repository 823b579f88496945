"""What a model is and what it takes, shown before anything of it is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from accessible import assert_accessible
from app_page import App, Traffic, convert_all, watched
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, TOKENIZER_FILE, Manifest
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, write_llama
from model_server import ModelServer, model_server
from tiny_models import write_chat_folder
from visited import Visited

CHAT_FILE = "tiny-chat.gguf"
SPLIT = Path(__file__).parents[1] / "fixtures" / "llama32-like"  # an index and two parts
BINDING = "maxStorageBufferBindingSize"
SMALL = {BINDING: 3 << 18}  # less than the keys of a head at a context of 4,096
KINDS = ("weights", "kv", "activations")


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        traffic = Traffic(context)
        yield context
        traffic.assert_local()


@pytest.fixture(scope="module")
def opened(
    context: BrowserContext,
    visited: Visited,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    with watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server:
        app = App(context.pages[0], server.url).open()
        app.set(greedy=True, max_tokens="8")
        yield app


@pytest.fixture
def app(opened: App) -> Iterator[App]:
    yield opened
    if opened.offer.is_visible():  # the test has failed
        opened.page.keyboard.press("Escape")
    opened.delete_all()
    opened.page.evaluate("localStorage.removeItem('doppler.contexts')")


@pytest.fixture
def small_app(app: App) -> Iterator[App]:
    """For tests that load for a device with less: it stays open until the page is opened anew."""
    yield app
    app.open()


@pytest.fixture(scope="module")
def folder(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that chats."""
    tokenizer = tiny_models / "tiny-chat" / TOKENIZER_FILE
    return write_chat_folder(tmp_path_factory.mktemp("checkpoint") / "Tiny-Chat-HF", tokenizer)


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    """Another site, with checkpoints in folders."""
    shutil.copytree(SPLIT, folder.parent / SPLIT.name, dirs_exist_ok=True)
    with model_server(folder.parent) as server:
        yield server


def converted(source: Path, tmp_path: Path, quant: str = "none") -> str:
    """The identity of what the command line makes of it."""
    convert_all({"it": source}, tmp_path / "converted", quant=quant)
    path = tmp_path / "converted" / "it" / MANIFEST_FILE
    return Manifest.from_json(path.read_text(encoding="utf-8"), str(path)).identity


def facts(app: App) -> dict[str, str]:
    """The card's table."""
    table = app.offer.get_by_test_id("facts")
    terms, values = (table.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(terms, values, strict=True))


def kept(app: App) -> list[str]:
    return [model["id"] for model in app.call("models")]


def get(app: App, name: str) -> str:
    stored: str = app.call("download", url=f"models/{name}/{MANIFEST_FILE}")["id"]
    return stored


def test_a_file_is_shown_then_imported(app: App, tiny_models: Path) -> None:
    app.pick(tiny_models.parent / CHAT_FILE)
    button = app.offer.get_by_role("button", name="Import")
    expect(button).to_be_enabled()
    expect(app.offer.get_by_role("heading", name="Tiny Chat")).to_be_focused()
    expect(app.offer).to_contain_text("A chat model with 2.23 M parameters. Storing it takes 8.9")
    expect(app.offer).to_contain_text("of GPU memory at a context of 4,096 tokens.")
    expect(app.offer).to_contain_text("How much memory the GPU has in all, no browser tells")
    table = facts(app)
    assert table["Architecture"] == "llama, 2 layers"
    assert table["Weights"] == "8.93 MB: F32"
    assert table["Longest context"] == "4,096 tokens"
    assert table["Licence"] == "mit"
    assert app.files() == {}
    app.offer.get_by_test_id("context").select_option("1024")
    for control in (app.offer.get_by_test_id("context"), "Cancel", "Import"):  # without a mouse
        app.page.keyboard.press("Tab")
        if isinstance(control, str):
            control = app.offer.get_by_role("button", name=control)
        expect(control).to_be_focused()
    app.page.keyboard.press("Enter")
    app.expect_loaded()
    fits = app.last("inspect")["result"]["choices"][0]["fits"]
    told = next(fit["memory"] for fit in fits if fit["context"] == 1024)
    loaded = app.last("load")["result"]
    assert loaded["context"] == 1024
    assert {kind: told[kind] for kind in KINDS} == {k: loaded["memory"][k] for k in KINDS}


def test_cancelled(app: App, tiny_models: Path) -> None:
    for leave in (
        lambda: app.offer.get_by_role("button", name="Cancel").click(),
        lambda: app.page.keyboard.press("Escape"),
    ):
        app.pick(tiny_models.parent / CHAT_FILE)
        expect(app.offer.get_by_role("button", name="Import")).to_be_enabled()
        leave()
        app.expect_nothing_kept()


def test_cancelled_while_it_is_read(app: App, server: ModelServer, folder: Path) -> None:
    server.stall_after = 1000
    app.enter(f"{server.url}{folder.name}/model.safetensors")
    expect(app.offer).to_contain_text("Reading what this is")
    app.page.keyboard.press("Escape")
    app.expect_nothing_kept()
    expect(app.errors).to_be_empty()


def assert_memory_is_as_told(app: App, stored: str, args: dict[str, Any]) -> None:
    loaded = app.call("load", id=stored, **args)
    asked = {key: value for key, value in args.items() if key != "limits"}
    (choice,) = app.call("inspect", id=stored, **asked)["choices"]
    assert choice["wanted_context"] == loaded["context"]
    told = next(fit for fit in choice["fits"] if fit["context"] == loaded["context"])
    assert told["problem"] is None
    assert {kind: told["memory"][kind] for kind in KINDS} == {
        kind: loaded["memory"][kind] for kind in KINDS
    }


@pytest.mark.parametrize("name", ["tiny-chat", "tiny-base"])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"context": 1000, "batch": 1, "kv": "f16"},
        {"context": 300, "adapter": {"is_cpu": False, "subgroup_size": 4}},
    ],
    ids=str,
)
def test_memory_is_what_a_load_reports(app: App, name: str, args: dict[str, Any]) -> None:
    assert_memory_is_as_told(app, get(app, name), args)


def test_a_folder_is_picked_and_chats(app: App, folder: Path, tmp_path: Path) -> None:
    app.pick(folder)
    expect(app.offer.get_by_role("heading", name="Tiny-Chat-HF")).to_be_visible()
    expect(app.offer.get_by_role("radio")).to_have_count(3)
    app.take()
    app.expect_loaded()
    app.new_chat()
    assert len(app.answer("hello").split()) == 8
    assert kept(app) == [converted(folder, tmp_path)]


def test_a_folder_is_dropped_and_quantised(app: App, folder: Path, tmp_path: Path) -> None:
    """A folder around it, with a file of no model, is looked through."""
    outer = tmp_path / "outer"
    shutil.copytree(folder, outer / "deep" / folder.name)
    (outer / "notes.txt").write_text("none of the model's")
    app.drop(outer)
    app.offer.get_by_role("radio", name="Q8_0").check()
    expect(app.offer.get_by_test_id("facts")).to_contain_text("Q8_0")
    app.take()
    app.expect_loaded()
    assert kept(app) == [converted(folder, tmp_path, "q8_0")]


def test_a_folder_with_a_gguf(app: App, tmp_path: Path, tiny_models: Path) -> None:
    source = tmp_path / "with-one"
    source.mkdir()
    shutil.copy(tiny_models.parent / CHAT_FILE, source)
    (source / "README.md").write_text("# A model")
    app.drop(source)
    expect(app.offer.get_by_role("heading", name="Tiny Chat")).to_be_visible()
    app.page.keyboard.press("Escape")
    write_llama(source / "other.gguf")
    app.drop(source)
    app.expect_refused("with-one holds 2 GGUF models (other, tiny-chat)")


def test_a_folder_without_a_tokenizer_is_told(app: App, tmp_path: Path) -> None:
    source = tmp_path / "no-tokenizer"
    shutil.copytree(SPLIT, source)
    (source / "tokenizer.model").write_bytes(b"SentencePiece's own")
    app.drop(source)
    told = "Note: There is no tokenizer.json (tokenizer.model cannot be read): the model has no"
    expect(app.offer.get_by_test_id("warnings")).to_contain_text(told)
    app.page.keyboard.press("Escape")


def test_folders_of_which_one_has_to_be_chosen(app: App, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / "many" / name)
    app.drop(tmp_path / "many")
    app.expect_refused(
        "The folder many holds several models: one, two. Choose one of these folders."
    )


@pytest.mark.parametrize("file", ["", "config.json", "model.safetensors.index.json?k=1"])
def test_an_address_of_a_folder(app: App, server: ModelServer, tmp_path: Path, file: str) -> None:
    address = f"{server.url}{SPLIT.name}/{file}"
    (choice, *_) = app.call("inspect", url=address)["choices"]
    assert (choice["title"], choice["tokenizer"]) == (SPLIT.name, False)
    assert "there is no tokenizer.json" in choice["warnings"][0]
    assert app.call("import_url", url=address)["id"] == converted(SPLIT, tmp_path)


def test_an_address_that_is_typed(app: App, server: ModelServer, folder: Path) -> None:
    """Without a slash at its end. It is stored under the hashes of the folder's own files; an index
    of parts that are no longer there does not matter beside a whole file."""
    older = {"weight_map": {"x.weight": "model-00001-of-00009.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(older))
    app.enter(f"{server.url}{folder.name}")
    expect(app.offer.get_by_role("button", name="Import")).to_be_enabled()
    headers = {name for name, asked in server.requests if name.endswith(".safetensors")}
    assert headers == {f"{folder.name}/model.safetensors"}
    app.take()
    app.expect_loaded()
    app.new_chat()
    assert len(app.answer("hello").split()) == 8
    app.show_models()
    expect(app.row("tiny-chat-hf")).to_contain_text("Loaded")


def test_an_address_of_no_model(app: App, server: ModelServer) -> None:
    app.enter(f"{server.url}nothing/")
    app.expect_refused("nothing/config.json is not there. Check the address")


def test_what_is_missing_in_a_folder(app: App, tmp_path: Path) -> None:
    source = tmp_path / "broken"
    shutil.copytree(SPLIT, source)
    part = source / "model-00002-of-00002.safetensors"
    part.unlink()
    app.pick(source)
    app.expect_refused("This file cannot be read", part.name, "which is missing. Fetch it too")
    (source / "config.json").unlink()
    app.pick(source)
    app.expect_refused("The folder has no config.json")


def test_a_folder_of_an_unknown_kind(app: App, tmp_path: Path) -> None:
    source = tmp_path / "unknown"
    shutil.copytree(SPLIT, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    app.pick(source)
    app.expect_refused(
        "This model is of a kind that Doppler does not know",
        "does not know the architecture 'mamba', which is nearest to llama",
    )


def test_a_device_that_is_too_small(small_app: App, tmp_path: Path) -> None:
    """What fits is offered, and loaded with."""
    app, most = small_app, 3 << 20
    app.call("load", id=get(app, "tiny-base"), context=256, limits={BINDING: most})
    metadata = llama_metadata() | {"llama.context_length": 16384}
    path = tmp_path / "long.gguf"
    path.write_bytes(gguf_bytes(metadata, llama_tensors()))
    app.set(context="16000")
    app.pick(path)
    verdict = app.offer.get_by_test_id("verdict")
    keys = 4 * 64 * 16000  # bytes of a head's, in float32
    expect(verdict).to_contain_text("does not take it at a context of 16,000 tokens.")
    expect(verdict).to_contain_text(f"Keys 0, head 0: {keys} bytes are more than the {most} that")
    expect(app.offer.get_by_role("button", name="Import")).to_be_disabled()
    verdict.get_by_role("button", name="Use 8,192 tokens").click()
    expect(verdict).to_contain_text("It should fit")
    app.take()
    app.expect_loaded()
    assert app.last("load")["args"]["context"] == 8192
    app.set(context="")


def test_a_small_device(small_app: App) -> None:
    """Matrices lie in slices there. A load that it refuses is told as it was foretold, before
    anything is uploaded.
    """
    app, stored = small_app, get(small_app, "tiny-chat")
    for each in (get(app, "tiny-base"), stored):
        assert_memory_is_as_told(app, each, {"context": 256, "batch": 64, "limits": SMALL})
    (choice,) = app.call("inspect", id=stored, batch=64)["choices"]
    told = next(fit for fit in choice["fits"] if fit["context"] == 4096)
    assert told["memory"] is None
    script = """async (args) => {
      try { await window.doppler.call("load", args); } catch (error) { return error.message; }
    }"""
    refused = app.page.evaluate(script, {"id": stored, "batch": 64, "limits": SMALL})
    assert refused == told["problem"]


def test_storage_that_is_too_small(app: App, context: BrowserContext, tiny_models: Path) -> None:
    """Deleting in the card makes room. For a file of 8.9 MB, Chromium wants room for 16 MiB."""
    get(app, "tiny-base")
    devtools = context.new_cdp_session(app.page)
    used = app.page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
    quota = {"origin": app.url.rstrip("/"), "quotaSize": used + 12 * BLOCK_SIZE}
    devtools.send("Storage.overrideQuotaForOrigin", quota)
    try:
        app.page.evaluate("import('/app/engine.js').then(({ refresh }) => refresh())")
        app.pick(tiny_models.parent / CHAT_FILE)
        verdict = app.offer.get_by_test_id("verdict")
        expect(verdict).to_contain_text("There is no room to store it: it takes 8.94 MB")
        expect(app.offer.get_by_role("button", name="Import")).to_be_disabled()
        verdict.get_by_role("button", name="Delete Tiny Base").click()
        app.page.get_by_test_id("confirm").get_by_role("button", name="Delete").click()
        expect(verdict).to_contain_text("It should fit")
        assert app.files() == {}
        app.take()
        app.expect_loaded()
    finally:
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": quota["origin"]})
        devtools.detach()


def test_what_a_stored_model_is(app: App) -> None:
    """A context that is chosen there holds for this model from then on."""
    app.get("tiny-chat")
    app.show_models()
    row = app.row("tiny-chat")
    row.get_by_text("What this model is").click()
    expect(row.get_by_test_id("facts")).to_contain_text("llama, 2 layers")
    expect(row.get_by_test_id("verdict")).to_contain_text("It should fit")
    again = row.get_by_role("button", name="Load it again with this context")
    expect(again).to_be_hidden()
    row.get_by_test_id("context").select_option("2048")
    again.click()
    expect(app.page.get_by_test_id("engine")).to_contain_text("2,048 tokens")
    expect(row.get_by_test_id("facts")).to_be_visible()  # drawn anew, and still open
    app.open()
    app.get("tiny-chat")
    assert app.last("load")["args"]["context"] == 2048
    app.set(context="1024")
    app.page.get_by_role("button", name="Settings").click()
    app.page.get_by_role("button", name="Load the model again").click()
    expect(app.page.get_by_test_id("engine")).to_contain_text("1,024 tokens")
    app.set(context="")


def test_a_phone(app: App, folder: Path) -> None:
    """Nothing is wider than the screen, and the buttons are always in reach."""
    app.page.set_viewport_size({"width": 360, "height": 640})
    try:
        app.pick(folder)
        expect(app.offer.get_by_role("button", name="Import")).to_be_in_viewport()
        expect(app.offer.get_by_role("button", name="Cancel")).to_be_in_viewport()
        wider = "dialog => dialog.querySelector('.offer-body').scrollWidth > dialog.clientWidth"
        assert not app.offer.evaluate(wider)
        box = app.offer.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 640
        assert_accessible(app.page)
        app.page.keyboard.press("Escape")
    finally:
        app.page.set_viewport_size({"width": 1280, "height": 720})
