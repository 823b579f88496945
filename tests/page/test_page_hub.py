"""A model hub's repository in the page: what it holds is listed, and one of it is chosen.

The server answers as the hub's API does; of the hub's own name it is asked through Playwright.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from app_page import App, watched
from doppler.page.addresses import HUB
from gguf_files import split_gguf, write_llama
from model_server import ModelServer, Reply, model_server
from visited import Visited

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "llama32-like"
ROWS = """(list) => [...list.children].map((row) => row.innerText.replaceAll(/\\s+/g, " "))"""


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        yield context


@pytest.fixture(scope="module")
def opened(
    context: BrowserContext, visited: Visited, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    """The page on a server that has no models."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "none").mkdir()
    with watched(folder / "none", folder, visited.port) as server:
        yield App(context.pages[0], server.url).open()


@pytest.fixture
def app(opened: App) -> Iterator[App]:
    yield opened
    if opened.offer.is_visible():
        opened.page.keyboard.press("Escape")
    for model in opened.call("models"):
        opened.call("delete", id=model["id"])


@pytest.fixture
def hub(tmp_path: Path, context: BrowserContext) -> Iterator[ModelServer]:
    """ORG/ggufs has a small model whole, in parts and below a folder; org/both a checkpoint too."""
    files = tmp_path / "org" / "ggufs" / "resolve" / "main"
    files.mkdir(parents=True)
    write_llama(files / "tiny.Q4_K.gguf")
    write_llama(files / "tiny.F32.gguf", "F32")
    (files / "mmproj-tiny.gguf").write_bytes(b"GGUF")
    (files / "README.md").write_text("# Tiny")
    split_gguf(files / "tiny.F32.gguf", files / "parts", 12)
    shutil.copytree(CHECKPOINT, tmp_path / "org" / "both" / "resolve" / "v1")
    shutil.copy(files / "tiny.Q4_K.gguf", tmp_path / "org" / "both" / "resolve" / "v1")
    shutil.copytree(CHECKPOINT, tmp_path / "org" / "plain" / "resolve" / "main")
    (tmp_path / "org" / "none" / "resolve" / "main").mkdir(parents=True)
    (tmp_path / "org" / "none" / "resolve" / "main" / "pytorch_model.bin").write_bytes(b"PK")
    with model_server(tmp_path) as server:
        server.fault = as_hub(server)

        def pass_on(route: Route) -> None:
            url = route.request.url.replace(f"https://{HUB}/", server.url)
            route.fulfill(response=route.fetch(url=url))

        context.route(f"https://{HUB}/**", pass_on)
        yield server
        context.unroute(f"https://{HUB}/**")


def as_hub(server: ModelServer, page: int = 4) -> Callable[[Reply], None]:
    """Lists a repository's files as the hub does: so many a page, large ones with their lfs."""

    def answer(reply: Reply) -> None:
        if not reply.name.startswith("api/models/"):
            return
        repo, _, rest = reply.name.removeprefix("api/models/").partition("/tree/")
        revision, _, below = rest.partition("/")
        top = server.folder / repo / "resolve" / revision
        if not top.is_dir():
            reply.status = 401 if repo == "org/secret" else 404
            reply.body = b'{"error":"Repository not found"}'
            return
        assert "recursive=true" in reply.query
        items = [described(path, top) for path in sorted((top / below).rglob("*"))]
        start = int(reply.query.partition("cursor=")[2] or 0)
        if start + page < len(items):
            following = f"/{reply.name}?recursive=true&cursor={start + page}"
            reply.headers["Link"] = f'<{following}>; rel="next"'
        reply.status = 200
        reply.headers["Content-Type"] = "application/json; charset=utf-8"
        reply.body = json.dumps(items[start : start + page]).encode()

    return answer


def described(path: Path, top: Path) -> dict[str, Any]:
    item: dict[str, Any] = {"oid": "0" * 40, "path": path.relative_to(top).as_posix()}
    if path.is_dir():
        return item | {"type": "directory", "size": 0}
    size = path.stat().st_size
    item |= {"type": "file", "size": size}
    if path.suffix in (".gguf", ".safetensors"):
        item["lfs"] = {"oid": "0" * 64, "size": size, "pointerSize": 134}
    return item


def rows(app: App) -> list[str]:
    """Name and size of what is offered."""
    offered = app.offer.get_by_test_id("offered")
    expect(offered).to_be_visible()
    found: list[str] = offered.evaluate(ROWS)
    return found


def test_a_repository_is_listed(app: App, hub: ModelServer) -> None:
    """ORG/NAME alone is the hub's. One is chosen, shown and imported; nothing else is read."""
    app.enter("org/ggufs")
    expect(app.offer.get_by_role("heading", name="ggufs")).to_be_focused()
    listed = rows(app)
    assert [row.split()[0] for row in listed] == ["tiny.Q4_K", "tiny.F32", "parts/tiny.F32"]
    assert listed[0].endswith(" kB")
    assert listed[2].endswith(" in 3 parts")
    assert {name.split("/")[0] for name, _ in hub.requests} == {"api"}
    assert len(hub.requests) == 2  # pages
    app.offer.get_by_role("button", name="tiny.Q4_K").click()
    expect(app.offer.get_by_test_id("facts")).to_contain_text("llama, 2 layers")
    assert [asked for name, asked in hub.requests if "resolve" in name] == ["bytes=0-65535"]
    app.take()
    app.expect_loaded()


def test_parts_below_a_folder(app: App, hub: ModelServer) -> None:
    app.enter(f"{hub.url}org/ggufs/tree/main/parts")
    expect(app.offer.get_by_test_id("facts")).to_contain_text("llama, 2 layers")
    read = {name.rpartition("/")[2] for name, asked in hub.requests if asked}
    assert read == {f"tiny.F32-0000{number}-of-00003.gguf" for number in (1, 2, 3)}


def test_both_kinds_at_a_revision(app: App, hub: ModelServer) -> None:
    app.enter(f"{hub.url}org/both/tree/v1")
    assert [row.rpartition(" ")[0].rpartition(" ")[0] for row in rows(app)] == [
        "tiny.Q4_K",
        "both (safetensors)",
    ]
    app.offer.get_by_role("button", name="both (safetensors)").click()
    expect(app.offer.get_by_role("radio")).to_have_count(3)


def test_a_repository_with_one_model(app: App, hub: ModelServer) -> None:
    (choice, *_) = app.call("inspect", url="org/plain")["choices"]
    assert choice["title"] == "plain"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "org/secret",
            "org/secret at revision main is not at https://huggingface.co, or is",
        ),
        ("org/absent", "the hub answered 404; check its name"),
        ("https://huggingface.co/org/both/tree/v2", "org/both at revision v2 is not at"),
        ("org/none", "org/none holds no model that Doppler reads"),
    ],
)
def test_repositories_without_a_model(
    app: App, hub: ModelServer, address: str, message: str
) -> None:
    problem = app.call("inspect", url=address)["problem"]
    assert message in problem["message"]


def test_several_are_not_imported(app: App, hub: ModelServer) -> None:
    """By its own address, each of them is."""
    script = (
        """(url) => window.doppler.call("import_url", { url }).catch(({ message }) => message)"""
    )
    message = app.page.evaluate(script, "org/ggufs")
    assert message.startswith("org/ggufs holds several models: tiny.Q4_K, ")
    assert app.files() == {}


def test_a_list_that_goes_astray(app: App, hub: ModelServer) -> None:
    """To another site, or down for ever."""
    plain = hub.fault

    def astray(reply: Reply) -> None:
        plain(reply)
        reply.headers["Link"] = '<https://elsewhere.example/list>; rel="next"'

    def endless(reply: Reply) -> None:
        plain(reply)
        reply.headers["Link"] = f'</{reply.name}?recursive=true>; rel="next"'

    def deep(reply: Reply) -> None:
        plain(reply)
        reply.body = b"[" * 100_000

    app.run("import doppler.page.hub as hub; hub.MOST_PAGES = 5")
    address = f"https://{HUB}/org/plain"
    elsewhere, no_list = "goes on at another site", "is no list of files as a model hub gives it"
    for fault, told in ((astray, elsewhere), (endless, "more than 5 pages"), (deep, no_list)):
        hub.fault = fault
        assert told in app.call("inspect", url=address)["problem"]["message"]
    app.run("hub.MOST_PAGES = 100")


def test_a_phone(app: App, hub: ModelServer) -> None:
    app.enter("org/ggufs")
    assert len(rows(app)) == 3
    app.page.set_viewport_size({"width": 360, "height": 640})
    try:
        wide = "dialog => dialog.querySelector('.offer-body').scrollWidth > dialog.clientWidth"
        assert not app.offer.evaluate(wide)
    finally:
        app.page.set_viewport_size({"width": 1280, "height": 720})
