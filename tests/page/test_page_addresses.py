"""Addresses whose servers lie, change their minds, hang or never end: nothing of it is stored."""

from __future__ import annotations

import gzip
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app_page import App, convert_all, watched
from doppler.store.manifest import BLOCK_SIZE
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, write_llama
from model_server import ModelServer, Reply, model_server
from storable import storable
from visited import Visited

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "llama32-like"  # an index and two parts
FILE = "tiny.gguf"
TRY = """async ([method, args]) => {
  try {
    return { value: await window.doppler.call(method, args) };
  } catch ({ name, message }) {
    return { name, message };
  }
}"""
Fault = Callable[[Reply], None]


@pytest.fixture(scope="module")
def opened(visited: Visited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page on a server that has no models."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "none").mkdir()
    with (
        watched(folder / "none", folder, visited.port) as server,
        visited.opened() as context,
    ):
        yield App(context.pages[0], server.url).open()


@pytest.fixture
def app(opened: App) -> Iterator[App]:
    yield opened
    for model in opened.call("models"):
        opened.call("delete", id=model["id"])


@pytest.fixture
def impatient(app: App) -> Iterator[App]:
    """Waits for a second where people wait for a minute."""
    app.run("import doppler.page.http as source; source.SECONDS = 1.0")
    yield app
    app.run("source.SECONDS = 60.0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    """Another site, with a model of 0.7 MB: its header is asked for first, then all the rest."""
    write_llama(tmp_path / FILE)
    with model_server(tmp_path) as server:
        server.headers = {"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        yield server


def tried(app: App, method: str, **args: Any) -> dict[str, Any]:
    """What a method gives, or the error's name and message."""
    answer: dict[str, Any] = app.page.evaluate(TRY, [method, args])
    return answer


def expect_refused(app: App, answer: dict[str, Any], *texts: str) -> None:
    """It failed as it should, and nothing is left."""
    name = "FormatError" if "may have" in texts[0] else "SourceError"
    assert answer.get("name") == name, answer
    for text in texts:
        assert text in answer["message"]
    assert len(answer["message"]) < 400
    assert not any(model["complete"] for model in app.call("models"))
    assert app.files() == {}


def with_headers(**headers: str | None) -> Fault:
    """Other headers, or none: `_` stands for a hyphen."""

    def fault(reply: Reply) -> None:
        for key, value in headers.items():
            reply.headers.pop(key.replace("_", "-"), None)
            if value is not None:
                reply.headers[key.replace("_", "-")] = value

    return fault


def shifted(reply: Reply) -> None:
    """Sixteen bytes further on, and it says so."""
    first, last, size = ranged(reply)
    reply.headers["Content-Range"] = f"bytes {first + 16}-{last + 16}/{size + 16}"
    reply.body = reply.body[16:] + bytes(16)


def shorter(reply: Reply) -> None:
    reply.body = reply.body[:-16]


def longer(reply: Reply) -> None:
    reply.body += bytes(16)


def longer_without_length(reply: Reply) -> None:
    reply.body += bytes(16)
    reply.length = False


def shorter_without_length(reply: Reply) -> None:
    reply.body = reply.body[:-16]
    reply.length = False


def grown(reply: Reply) -> None:
    first, last, size = ranged(reply)
    reply.headers["Content-Range"] = f"bytes {first}-{last}/{size + 16}"


def packed(reply: Reply) -> None:
    reply.body = gzip.compress(reply.body)
    reply.headers["Content-Encoding"] = "gzip"


def packed_unseen(reply: Reply) -> None:
    packed(reply)
    reply.exposed = ""


def several_parts(reply: Reply) -> None:
    reply.headers["Content-Type"] = "multipart/byteranges; boundary=x"


def web_page(reply: Reply) -> None:
    reply.status, reply.body = 200, b"<!doctype html><title>Sign in</title>"
    reply.headers["Content-Type"] = "text/html"


def whole(reply: Reply) -> None:
    reply.status = 200


def elsewhere(reply: Reply) -> None:
    """Sent to another file of this site, which has another ETag."""
    reply.status, reply.body = 302, b""
    reply.headers = {"Location": "/other.gguf"}


def nameless_elsewhere(reply: Reply) -> None:
    elsewhere(reply)
    reply.exposed = ""


def unavailable(reply: Reply) -> None:
    reply.status, reply.body = 503, b"busy"


def ranged(reply: Reply) -> tuple[int, int, int]:
    first, last = reply.headers["Content-Range"].split()[1].split("/")[0].split("-")
    return int(first), int(last), int(reply.headers["Content-Range"].split("/")[1])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (with_headers(ETag='"two"'), "changed since it was first read"),
        (with_headers(ETag=None), "changed since it was first read"),
        (with_headers(ETag='W/"one"'), "changed since it was first read"),
        (shifted, "bytes and"),
        (with_headers(Content_Range="bytes 16-999/1000"), "has 1000 bytes and"),
        (with_headers(Content_Range="bytes 0-15/*"), "answered with bytes 0 to 15"),
        (with_headers(Content_Range="nonsense"), "answered with 'nonsense'"),
        (grown, "bytes and"),
        (shorter, "answered with"),
        (longer, "answered with"),
        (shorter_without_length, "but fewer or more"),
        (longer_without_length, "but fewer or more"),
        (packed, ""),  # the browser unpacks it, and what the page may see of that differs
        (packed_unseen, ""),
        (several_parts, "answered with several parts"),
        (web_page, "sent a web page instead"),
        (whole, "ignores range requests"),
        (elsewhere, "changed since it was first read"),
        (unavailable, "answered 503"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_server_that_lies_once_it_has_begun(
    app: App, server: ModelServer, fault: Fault, message: str
) -> None:
    """The header is right; the answer with the weights is not."""
    shutil.copy(server.folder / FILE, server.folder / "other.gguf")

    def later(reply: Reply) -> None:
        if reply.name == "other.gguf":
            reply.headers["ETag"] = '"other"'
        elif reply.number > 0:
            fault(reply)

    server.fault = later
    answer = tried(app, "import_url", url=server.url + FILE)
    expect_refused(app, answer, message, f"{server.url}{FILE}")


@pytest.mark.parametrize(
    ("headers", "exposed", "fault", "message"),
    [
        ("Last-Modified", "Content-Range", {"Last_Modified": "Tue"}, "changed since it was first"),
        ("Last-Modified", "", {"Last_Modified": "Tue"}, "changed since it was first"),
        ("ETag", "", {"ETag": '"two"'}, None),  # unseen
        ("", "", {}, None),
        ("", "Content-Range", {}, None),
    ],
)
def test_a_site_that_hides_headers(
    app: App,
    server: ModelServer,
    headers: str,
    exposed: str,
    fault: dict[str, str | None],
    message: str | None,
) -> None:
    """What the page may see is held; where it is nothing, a good model can be had all the same."""
    server.headers = {key: server.headers[key] for key in server.headers if key in headers}

    def hiding(reply: Reply) -> None:
        reply.exposed = exposed
        if reply.number > 2:
            with_headers(**fault)(reply)

    server.fault = hiding
    assert tried(app, "inspect", url=server.url + FILE)["value"]["problem"] is None
    server.requests += [("", "")] * 3
    answer = tried(app, "import_url", url=server.url + FILE)
    if message is None:
        assert "value" in answer
    else:
        expect_refused(app, answer, message)


def other_model(path: Path) -> None:
    """Of the same size and shapes, with other weights."""
    tensors = llama_tensors()
    kind, shape, data = tensors["blk.1.ffn_up.weight"]
    path.write_bytes(
        gguf_bytes(llama_metadata(), tensors | {"blk.1.ffn_up.weight": (kind, shape, data[::-1])})
    )


def test_a_file_that_changes_before_it_is_imported(app: App, server: ModelServer) -> None:
    url = server.url + FILE
    assert tried(app, "inspect", url=url)["value"]["problem"] is None
    other_model(server.folder / FILE)
    server.headers["ETag"] = '"two"'
    expect_refused(app, tried(app, "import_url", url=url), "changed since it was first read")
    first = tried(app, "import_url", url=url)["value"]["id"]
    write_llama(server.folder / FILE)
    server.headers["ETag"] = '"one"'
    assert tried(app, "inspect", url=url)["value"]["problem"] is None  # it is looked at anew
    assert tried(app, "import_url", url=url)["value"]["id"] != first


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_folder_that_changes_before_it_is_imported(
    app: App, server: ModelServer, name: str
) -> None:
    """A small file of it, or one that comes to it."""
    folder = server.folder / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    server.headers = {}
    url = f"{server.url}checkpoint/"
    assert tried(app, "inspect", url=url)["value"]["problem"] is None
    text = (folder / name).read_text() if (folder / name).exists() else "{}"
    (folder / name).write_text(text + " ")
    answer = tried(app, "import_url", url=url)
    expect_refused(app, answer, f"{url}{name}", "changed since it was first read")
    assert "value" in tried(app, "import_url", url=url)


def test_a_download_whose_model_changes(app: App, server: ModelServer) -> None:
    """What is stored cannot be completed, and stays; a server that lies adds nothing to it."""
    url, first = f"{server.url}manifest.json", storable(0)
    first.save(server.folder)
    server.cut_after = 2 * BLOCK_SIZE
    assert tried(app, "download", url=url)["name"] == "SourceError"
    server.cut_after = None
    kept = app.files()
    server.fault = lambda reply: shifted(reply) if "shard" in reply.name else None
    answer = tried(app, "download", url=url, id=first.manifest.identity)
    assert answer["name"] == "SourceError"
    assert "bytes and 4194304 were expected" in answer["message"]
    server.fault = lambda reply: None
    storable(1).save(server.folder)
    answer = tried(app, "download", url=url, id=first.manifest.identity)
    assert answer["name"] == "SourceError"
    assert "the model there changed since its download began" in answer["message"]
    assert app.files() == kept
    first.save(server.folder)
    answer = tried(app, "download", url=url, id=first.manifest.identity)
    assert answer == {"value": {"id": first.manifest.identity}}


EVENTS = """async ([method, args]) => {
  const own = (window.stages = []); // of a call that began before, nothing comes in here
  const seen = ({ stage }) => own.at(-1) === stage || own.push(stage);
  window.running = window.doppler.call(method, args, seen).then(
    (value) => ({ value }),
    ({ name, message }) => ({ name, message }),
  );
}"""


ENDED = """() => Promise.race([
  running,
  new Promise((resolve) => setTimeout(() => resolve({ name: `still ${stages}` }), 60000)),
])"""
WAITING = """async () => {
  const end = performance.now() + 60000;
  while (stages.at(-1) !== "waiting") {
    if (performance.now() > end) throw new Error(`it does not wait, but has seen: ${stages}`);
    await new Promise((again) => setTimeout(again, 20));
  }
}"""


def begun(app: App, method: str, **args: Any) -> None:
    """Begins what `ended` waits for."""
    app.page.evaluate(EVENTS, [method, args])


def ended(app: App) -> dict[str, Any]:
    answer: dict[str, Any] = app.page.evaluate(ENDED)
    return answer


def stages(app: App) -> list[str]:
    found: list[str] = app.page.evaluate("window.stages")
    return found


def until_waiting(app: App) -> None:
    app.page.evaluate(WAITING)


@pytest.fixture
def other(app: App) -> Iterator[App]:
    """A second tab of the same page."""
    page = app.page.context.new_page()
    yield App(page, app.url).open()
    if not page.is_closed():
        page.close()


class Gate:
    """Holds the first request for weights back until it is opened."""

    def __init__(self, server: ModelServer, what: str = FILE) -> None:
        self.held, self.opened = threading.Event(), threading.Event()
        self.what, self.status = what, 0
        server.fault = self.hold

    def hold(self, reply: Reply) -> None:
        is_weights = reply.name == self.what and len(reply.body) > 65536
        if is_weights and not self.held.is_set():
            self.held.set()
            self.opened.wait(60)
            reply.status = self.status or reply.status

    def wait(self) -> None:
        assert self.held.wait(60)


def weights(server: ModelServer, name: str = FILE) -> int:
    """How often more than a header was asked for."""
    return sum(file == name and asked != "bytes=0-65535" for file, asked in server.requests)


def test_two_tabs_import_the_same(app: App, other: App, server: ModelServer) -> None:
    """The second waits, and uses what the first stored; so does whoever comes later."""
    gate, url = Gate(server), server.url + FILE
    begun(app, "import_url", url=url)
    gate.wait()
    begun(other, "import_url", url=url)
    until_waiting(other)
    gate.opened.set()
    first = ended(app)
    assert "value" in first
    assert ended(other) == first
    assert stages(other) == ["waiting"]
    assert tried(other, "import_url", url=url) == first
    assert weights(server) == 1
    assert [model["complete"] for model in other.call("models")] == [True]


def test_the_first_of_two_fails(app: App, server: ModelServer) -> None:
    """The second, of the same tab, goes on itself."""
    gate, url = Gate(server), server.url + FILE
    gate.status = 503
    begun(app, "import_url", url=url)
    gate.wait()
    app.page.evaluate("void (window.first = window.running)")
    begun(app, "import_url", url=url)
    until_waiting(app)
    gate.opened.set()
    assert app.page.evaluate("window.first")["name"] == "SourceError"
    assert "value" in ended(app)
    assert stages(app) == ["waiting", "import"]


@pytest.mark.parametrize("method", ["import_url", "download"])
def test_the_tab_of_the_first_is_closed(
    app: App, other: App, server: ModelServer, method: str
) -> None:
    what = {"import_url": FILE, "download": "manifest.json"}[method]
    storable(0).save(server.folder)
    gate = Gate(server, {"import_url": FILE, "download": "shard-00000.bin"}[method])
    begun(other, method, url=server.url + what)
    gate.wait()
    begun(app, method, url=server.url + what)
    until_waiting(app)
    other.page.close()
    assert "value" in ended(app)
    gate.opened.set()
    assert [model["complete"] for model in app.call("models")] == [True]


def test_one_who_waits_gives_up(app: App, other: App, server: ModelServer) -> None:
    gate, url = Gate(server), server.url + FILE
    begun(app, "import_url", url=url)
    gate.wait()
    begun(other, "import_url", url=url)
    until_waiting(other)
    other.call("cancel")
    assert ended(other)["name"] == "RequestError"
    gate.opened.set()
    assert "value" in ended(app)


def test_two_downloads_of_the_same(app: App, server: ModelServer) -> None:
    model = storable(0)
    model.save(server.folder)
    gate, url = Gate(server, "shard-00000.bin"), f"{server.url}manifest.json"
    begun(app, "download", url=url)
    gate.wait()
    app.page.evaluate("void (window.first = window.running)")
    begun(app, "download", url=url)
    until_waiting(app)
    gate.opened.set()
    told = {"value": {"id": model.manifest.identity}}
    assert app.page.evaluate("window.first") == ended(app) == told
    shards = [name for name, _ in server.requests if name.startswith("shard")]
    assert sorted(shards) == [shard.name for shard in model.manifest.shards]


def test_an_import_of_what_is_stored(app: App, server: ModelServer) -> None:
    """By another way, and open: what is there stays as it is. An unfinished one is replaced."""
    shutil.copy(server.folder / FILE, server.folder / "again.gguf")
    convert_all({"made": server.folder / FILE}, server.folder, BLOCK_SIZE)
    first = tried(app, "import_url", url=server.url + FILE)["value"]["id"]
    kept = app.files()
    assert tried(app, "import_url", url=f"{server.url}again.gguf")["value"]["id"] == first
    assert app.files() == kept
    url = f"{server.url}made/manifest.json"
    assert tried(app, "download", url=url)["value"]["id"] == first
    assert app.files().items() >= kept.items()
    app.call("delete", id=first)
    server.fault = unavailable_shards
    assert tried(app, "download", url=url)["name"] == "SourceError"
    server.fault = lambda reply: None
    assert [model["complete"] for model in app.call("models")] == [False]
    assert tried(app, "import_url", url=server.url + FILE)["value"]["id"] == first
    assert [model["complete"] for model in app.call("models")] == [True]
    assert app.files() == kept


def unavailable_shards(reply: Reply) -> None:
    if reply.name.endswith(".bin"):
        unavailable(reply)


def endless(reply: Reply) -> None:
    reply.body, reply.length = b" " * (9 << 20), False


def told_to_be_endless(reply: Reply) -> None:
    reply.body = b" " * (9 << 20)


@pytest.mark.parametrize("fault", [endless, told_to_be_endless])
def test_a_small_file_that_is_not_small(app: App, server: ModelServer, fault: Fault) -> None:
    shutil.copytree(CHECKPOINT, server.folder / "checkpoint")
    server.fault = lambda reply: fault(reply) if reply.name.endswith("/config.json") else None
    answer = tried(app, "import_url", url=f"{server.url}checkpoint/")
    expect_refused(app, answer, "8,388,608 bytes that a config.json may have")


def hanging(reply: Reply) -> None:
    reply.pause = 60


def trickling(reply: Reply) -> None:
    reply.pause = 0.05


@pytest.mark.parametrize("fault", [hanging, trickling])
@pytest.mark.parametrize("what", [FILE, "checkpoint/", "manifest.json"])
def test_a_server_that_is_too_slow(
    impatient: App, server: ModelServer, fault: Fault, what: str
) -> None:
    """The headers come; of the body nothing does, or a byte now and then."""
    shutil.copytree(CHECKPOINT, server.folder / "checkpoint")
    (server.folder / "manifest.json").write_text("{}" + " " * 1000)
    server.fault = fault
    method = "download" if what == "manifest.json" else "import_url"
    answer = tried(impatient, method, url=server.url + what)
    expect_refused(impatient, answer, "too slow or hangs", "bytes came in 1 seconds")


def test_a_header_takes_small_requests(app: App, server: ModelServer) -> None:
    """Of a tiny file one; of a vocabulary of 10 MB a few, which grow."""
    assert tried(app, "inspect", url=server.url + FILE)["value"]["problem"] is None
    assert [asked for _, asked in server.requests] == ["bytes=0-65535"]
    metadata = llama_metadata()
    metadata["general.description"] = "x" * (10 << 20)
    path = server.folder / "wordy.gguf"
    path.write_bytes(gguf_bytes(metadata, llama_tensors()) + bytes(16 << 20))
    server.requests.clear()
    assert tried(app, "inspect", url=f"{server.url}wordy.gguf")["value"]["problem"] is None
    ranges = [asked.removeprefix("bytes=").split("-") for _, asked in server.requests]
    assert len(ranges) < 12
    assert sum(int(last) - int(first) + 1 for first, last in ranges) < 21 << 20
