"""One's own models in the page: files and addresses, good ones and bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error, expect

from app_page import App, Traffic, watched
from doppler.store.cut import recut
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, Manifest
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, split_gguf
from model_server import ModelServer, Reply, model_server
from storable import SHARD, storable
from swarm_tab import MISSING
from visited import Visited

CHAT_FILE = "tiny-chat.gguf"
NOISE = storable()
UNREADABLE = "This file cannot be read"
UNKNOWN = "This model is of a kind that Doppler does not know"
UNFETCHED = "The model could not be fetched"


@pytest.fixture(scope="module")
def opened(visited: Visited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page on a server that has no models."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "none").mkdir()
    with (
        watched(folder / "none", folder, visited.port) as server,
        visited.opened() as context,
    ):
        traffic = Traffic(context)
        app = App(context.pages[0], server.url).open()
        app.set(greedy=True, max_tokens="8")
        yield app
        traffic.assert_local()


@pytest.fixture
def app(opened: App) -> Iterator[App]:
    yield opened
    opened.delete_all()


@pytest.fixture
def server(tiny_models: Path) -> Iterator[ModelServer]:
    """Another site, with the tiny models' files."""
    with model_server(tiny_models.parent) as server:
        yield server


def identity_of(tiny_models: Path) -> str:
    """Of the model that the whole file gives."""
    path = tiny_models / "tiny-chat" / MANIFEST_FILE
    return Manifest.from_json(path.read_text(encoding="utf-8"), str(path)).identity


def expect_works(app: App) -> None:
    """The model is loaded, answers, and is in the list with its bytes."""
    app.expect_loaded()
    app.new_chat()
    assert len(app.answer("hello").split()) == 8
    app.show_models()
    expect(app.row("tiny-chat")).to_contain_text("Tiny Chat")
    expect(app.row("tiny-chat")).to_contain_text("Loaded")
    expect(app.row("tiny-chat")).to_contain_text("mit")


def truncated(good: bytes) -> bytes:
    return good[:-1000]


def unknown_architecture(good: bytes) -> bytes:
    metadata = llama_metadata() | {"general.architecture": "mamba"}
    return gguf_bytes(metadata, llama_tensors())


def unknown_block_type(good: bytes) -> bytes:
    tensors = llama_tensors()
    _, shape, content = tensors["blk.1.ffn_up.weight"]
    return gguf_bytes(llama_metadata(), tensors | {"blk.1.ffn_up.weight": ("99", shape, content)})


def renamed_text(good: bytes) -> bytes:
    return b"Dear reader, this is no model at all, whatever its name says.\n"


def web_page(good: bytes) -> bytes:
    return b"<!doctype html><title>Sign in</title><p>Sign in to download this file.</p>\n"


def empty(good: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("make", "title", "message"),
    [
        (truncated, UNREADABLE, "is truncated: 1000 bytes are missing at its end"),
        (unknown_architecture, UNKNOWN, "does not know the architecture 'mamba'"),
        (unknown_block_type, UNKNOWN, "'blk.1.ffn_up.weight' has block type number 99"),
        (renamed_text, UNREADABLE, "It looks like text. Choose a .gguf file"),
        (web_page, UNREADABLE, "It looks like a web page"),
        (empty, UNREADABLE, "it has only 0 bytes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_are_refused(
    app: App,
    tiny_models: Path,
    tmp_path: Path,
    make: Callable[[bytes], bytes],
    title: str,
    message: str,
) -> None:
    path = tmp_path / "picked.gguf"
    path.write_bytes(make((tiny_models.parent / CHAT_FILE).read_bytes()))
    app.pick(path)
    app.expect_refused(title, "picked.gguf", message)


def test_a_file_of_this_disk(app: App, tiny_models: Path) -> None:
    app.pick(tiny_models.parent / CHAT_FILE)
    app.take()
    expect_works(app)


def test_files_that_are_parts_of_one(app: App, tiny_models: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_models.parent / CHAT_FILE, tmp_path / "split", 6)
    assert len(parts) > 3
    app.pick(parts[1])
    alone = f"{parts[1].name} is part 2 of {len(parts)}, and part 1 ({parts[0].name}), 3 ("
    app.expect_refused(UNREADABLE, alone, "choose all of them at once in the page")
    app.pick(*reversed(parts))
    app.take()
    expect_works(app)
    assert [model["id"] for model in app.call("models")] == [identity_of(tiny_models)]


def test_files_that_are_dropped(app: App, tiny_models: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_models.parent / CHAT_FILE, tmp_path / "split", 12)
    app.drop(*parts)
    app.take()
    expect_works(app)
    assert [model["id"] for model in app.call("models")] == [identity_of(tiny_models)]


def test_an_address_of_a_part(app: App, tiny_models: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_models.parent / CHAT_FILE, tmp_path / "split", 12)
    names = {part.name for part in parts}
    with model_server(tmp_path / "split") as server:
        content = parts[-1].read_bytes()
        parts[-1].unlink()
        app.enter(f"{server.url}{parts[0].name}?download=true")
        missing = f"{server.url}{parts[-1].name}?download=true"
        expect(app.offer).to_contain_text(UNFETCHED)
        expect(app.offer).to_contain_text(f"{missing}: the server answered 404")
        parts[-1].write_bytes(content)
        app.offer.get_by_role("button", name="Try again").click()
        app.take()
        expect_works(app)
        assert {name for name, _ in server.requests} == names
    assert [model["id"] for model in app.call("models")] == [identity_of(tiny_models)]


def test_an_address(app: App, server: ModelServer) -> None:
    app.enter(f"{server.url}{CHAT_FILE}")
    app.take()
    expect_works(app)
    assert {name for name, _ in server.requests} == {CHAT_FILE}
    server.requests.clear()
    app.open()
    app.get("tiny-chat")
    assert server.requests == []  # it is kept


def test_an_address_with_nothing_there(app: App, server: ModelServer) -> None:
    app.enter(f"{server.url}absent.gguf")
    app.expect_refused(UNFETCHED, "absent.gguf: the server answered 404. Check the address")


def test_an_address_without_ranges(app: App, server: ModelServer) -> None:
    server.ranges = False
    app.enter(f"{server.url}{CHAT_FILE}")
    app.expect_refused(UNFETCHED, "ignores range requests. Download the file and open it")


def test_an_address_whose_server_breaks_off(app: App, server: ModelServer) -> None:
    server.cut_after = 0
    app.enter(f"{server.url}{CHAT_FILE}")
    app.expect_refused(UNFETCHED, CHAT_FILE)
    server.cut_after = None
    app.enter(f"{server.url}{CHAT_FILE}")
    expect(app.offer.get_by_role("button", name="Import")).to_be_enabled()
    server.cut_after = 64 << 10
    app.take()
    expect(app.errors).to_contain_text(UNFETCHED)
    app.expect_nothing_kept()
    server.cut_after = None
    app.errors.get_by_role("button", name="Try again").click()
    expect_works(app)


def test_an_address_whose_server_is_gone(app: App, tmp_path: Path) -> None:
    with model_server(tmp_path) as server:
        url = f"{server.url}model.gguf"
    app.enter(url)
    app.expect_refused(UNFETCHED, f"{url} cannot be reached")


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[ModelServer]:
    """A site with the model of noise, whose last two shards cannot be had."""
    NOISE.save(tmp_path / "noise")
    with model_server(tmp_path / "noise") as server:
        server.fault = without_the_end
        yield server


def without_the_end(reply: Reply) -> None:
    if reply.name in ("shard-00002.bin", "shard-00003.bin"):
        reply.status, reply.body = 503, b""


def shards_of(app: App) -> dict[str, int]:
    """The shard files that are stored, and their bytes."""
    files = {path.rsplit("/", 1)[-1]: size for path, size in app.files().items()}
    return {name: size for name, size in files.items() if name.startswith("shard-") and size}


def test_another_cut_of_a_served_model(app: App, broken: ModelServer) -> None:
    """It goes on in the cut in which it began, with what is missing; a third one is refused."""
    url, fine = f"{broken.url}manifest.json", recut(NOISE.manifest, BLOCK_SIZE)
    with pytest.raises(Error, match=r"shard-0000[23]"):
        app.call("download", url=url, shard_bytes=BLOCK_SIZE)
    assert shards_of(app).keys() < {shard.name for shard in fine.shards}
    with pytest.raises(Error, match=f"stored in shards of {BLOCK_SIZE} bytes, and {SHARD} are"):
        app.call("download", url=url, shard_bytes=SHARD)
    missing: list[int] = json.loads(app.run(MISSING.format(identity=fine.identity)))
    wanted = {NOISE.manifest.shards[block * BLOCK_SIZE // SHARD].name for block in missing}
    assert wanted >= {"shard-00002.bin", "shard-00003.bin"}
    broken.fault = lambda reply: None
    broken.requests.clear()
    assert app.call("download", url=url) == {"id": fine.identity}
    assert shards_of(app) == {shard.name: shard.bytes for shard in fine.shards}
    assert {name for name, _ in broken.requests} == {"manifest.json", *wanted}
    (model,) = app.call("models")
    assert (model["id"], model["complete"], model["url"]) == (fine.identity, True, url)


def test_files_that_are_given_to_a_model(app: App, broken: ModelServer, tmp_path: Path) -> None:
    """What is good of them is stored, what is not is named; then all of it is there."""
    with pytest.raises(Error, match="shard-0000"):
        app.call("download", url=f"{broken.url}manifest.json")
    NOISE.save(tmp_path / "stick")
    files = [tmp_path / "stick" / shard.name for shard in NOISE.manifest.shards]
    third, fourth = files[2:]
    third.write_bytes(b"?" + NOISE.shard(2)[1:])
    fourth.write_bytes(NOISE.shard(3)[:-9])

    def give(*paths: Path) -> None:
        with app.page.expect_file_chooser() as chooser:
            app.row("noise-0").get_by_role("button", name="Files of Noise 0").click()
        chooser.value.set_files(paths)

    app.show_models()
    give(fourth, third)
    expect(app.errors).to_contain_text("shard-00002.bin: 1 of its 4 blocks are not the manifest's")
    expect(app.errors).to_contain_text("shard-00003.bin: it is cut off")
    third.write_bytes(NOISE.shard(2))
    fourth.write_bytes(NOISE.shard(3))
    give(*reversed(files))
    expect(app.row("noise-0").get_by_role("button", name="Files of Noise 0")).to_have_count(0)
    (model,) = app.call("models")
    assert (model["id"], model["complete"]) == (NOISE.manifest.identity, True)


def test_the_folder_of_a_converted_model(app: App, tiny_models: Path) -> None:
    """Its shards are stored as they are: nothing is converted."""
    app.pick(tiny_models / "tiny-chat")
    app.take()
    expect_works(app)
    assert [model["id"] for model in app.call("models")] == [identity_of(tiny_models)]
