"""The page's ends of shards and sources in a real Chromium: OPFS, fetch and hashing in a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from playwright.sync_api import BrowserContext

from doppler.command.server import WEB, Server
from doppler.store.manifest import BLOCK_SIZE
from doppler.store.stored import damaged_title
from model_server import ModelServer, model_server
from storable import storable
from visited import Visited
from worker_tab import Tab

MODEL = storable()
LAST = len(MODEL.manifest.blocks) - 1
# The files that sw.js has, once there is one of each name among them.
KEPT = """async (names) => {
  for (;;) {
    const urls = (await (await caches.open("doppler-app")).keys()).map((request) => request.url);
    if (names.every((name) => urls.some((url) => url.includes(name)))) return urls;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}"""


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        yield context


@pytest.fixture(scope="module")
def bare_site(visited: Visited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("models"), visited.port) as server:
        yield server


@pytest.fixture(scope="module")
def booted(context: BrowserContext, bare_site: Server) -> Tab:
    return Tab(context.pages[0], bare_site.url + "models.json")


@pytest.fixture
def tab(booted: Tab) -> Iterator[Tab]:
    """The tab, with empty storage."""
    yield booted
    booted.run("for model in await root.models(): await root.delete(model)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    MODEL.save(tmp_path)
    with model_server(tmp_path) as server:
        yield server


def download(tab: Tab, server: ModelServer) -> None:
    """Stores the whole model."""
    tab.run(f"""
        storage, store = await opened("{server.url}")
        try: await store.download(quiet)
        finally: await storage.close()
    """)


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_buffers(tab: Tab) -> None:
    """The page's blocks hash and copy like Python's own; the digests are those of the packages."""
    shard = MODEL.manifest.shards[0]
    code = """
        data = buffers.from_bytes(bytes(range(256)) * 16)
        copy = buffers.empty(4096)
        buffers.put(copy, 96, buffers.part(data, 0, 4000))
        head = buffers.to_bytes(buffers.part(copy, 90, 100))
        [buffers.length(copy), head.hex(), buffers.blake3(data), await buffers.sha256(data)]
    """
    from hashlib import sha256

    from blake3 import blake3

    data = bytes(range(256)) * 16
    expected = [4096, "00000000000000010203", blake3(data).hexdigest(), sha256(data).hexdigest()]
    assert tab.run(code) == expected
    assert shard.blake3 == blake3(MODEL.shard(0)).hexdigest()


def test_download_is_stored_and_survives_a_reload(tab: Tab, server: ModelServer) -> None:
    download(tab, server)
    tab.load()
    server.requests.clear()
    code = f"""
        storage, store = await opened("{server.url}")
        blocks = [await store.block(i) for i in range({LAST + 1})]
        digests = [buffers.blake3(block) for block in blocks]
        answer = [digests, await store.stored_bytes(), len(await store.missing())]
        await storage.close()
        answer
    """
    assert tab.run(code) == [list(MODEL.manifest.blocks), MODEL.manifest.bytes, 0]
    assert [name for name, _ in server.requests] == ["manifest.json"], "weights were asked for"


def test_reload_during_a_download_resumes(tab: Tab, server: ModelServer) -> None:
    server.stall_after = 2 * BLOCK_SIZE + 1000
    tab.run(f"""
        storage, store = await opened("{server.url}")
        running = asyncio.ensure_future(store.download(quiet))
        while await store.stored_bytes() < 6 * {BLOCK_SIZE}: await asyncio.sleep(0.05)
    """)
    tab.load()
    server.stall_after = None
    server.requests.clear()
    download(tab, server)
    weights = sorted(request for request in server.requests if request[0] != "manifest.json")
    sizes = [shard.bytes for shard in MODEL.manifest.shards]
    starts = [2 * BLOCK_SIZE, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE, 0]
    assert weights == [
        (f"shard-{i:05}.bin", f"bytes={starts[i]}-{sizes[i] - 1}") for i in range(len(sizes))
    ]


def test_a_server_that_ignores_ranges_still_gives_shards(tab: Tab, server: ModelServer) -> None:
    server.cut_after = BLOCK_SIZE
    message = tab.fails(f"""
        storage, store = await opened("{server.url}")
        try: await store.download(quiet)
        finally: await storage.close()
    """)
    assert message.startswith("doppler.errors.SourceError"), message
    server.cut_after, server.ranges = None, False
    download(tab, server)
    assert (
        tab.run(f"""
        storage, store = await opened("{server.url}")
        try: stored = await store.stored_bytes()
        finally: await storage.close()
        stored
    """)
        == MODEL.manifest.bytes
    )


def test_a_damaged_stored_block_is_fetched_again(tab: Tab, server: ModelServer) -> None:
    download(tab, server)
    tab.run(f"""
        storage, store = await opened("{server.url}")
        at = {BLOCK_SIZE + 17}
        byte = buffers.to_bytes(await storage.read("shard-00001.bin", at, 1))[0]
        await storage.write("shard-00001.bin", at, buffers.from_bytes(bytes([byte ^ 1])))
        await storage.close()
    """)
    server.requests.clear()
    code = f"""
        storage, store = await opened("{server.url}")
        digests = [buffers.blake3(await store.block(5)) for _ in range(2)]
        await storage.close()
        digests
    """
    assert tab.run(code) == [MODEL.manifest.blocks[5]] * 2
    wanted = ("shard-00001.bin", f"bytes={BLOCK_SIZE}-{2 * BLOCK_SIZE - 1}")
    assert server.requests == [("manifest.json", ""), wanted]


def test_a_damaged_server_is_named(tab: Tab, server: ModelServer) -> None:
    flip(server.folder / "shard-00003.bin", 3)
    message = tab.fails(f"""
        storage, store = await opened("{server.url}")
        try: await store.download(quiet)
        finally: await storage.close()
    """)
    start = f"doppler.errors.CorruptError: block 12 of shard-00003.bin from {server.url}shard-00003"
    assert message.startswith(start), message


def test_storage_that_is_too_small(
    tab: Tab, server: ModelServer, context: BrowserContext, bare_site: Server
) -> None:
    download(tab, server)
    devtools = context.new_cdp_session(tab.page)
    origin = bare_site.url.rstrip("/")
    used = tab.page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
    quota = {"origin": origin, "quotaSize": used + (10 << 20)}
    devtools.send("Storage.overrideQuotaForOrigin", quota)
    try:
        message = tab.fails(f"await reserve({100 << 20}, 'Noise')")
        assert message.startswith("doppler.errors.StorageError: Noise does not fit"), message
        assert "100.0 MiB more are needed" in message
        title = damaged_title(MODEL.manifest.identity)  # only its shards were stored
        assert f"delete a model: {title} takes" in message
        message = tab.fails(f"""
            storage = await root.make("other")
            data = buffers.empty({BLOCK_SIZE})
            try:
                for i in range(40): await storage.write("shard-00000.bin", i * {BLOCK_SIZE}, data)
            finally: await storage.close()
        """)
        assert message.startswith("doppler.errors.StorageError: shard-00000.bin cannot be written")
        assert "storage is full" in message
        # Not even a folder can be made above the quota; the browser's own error would hang Python.
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 1 << 20})
        message = tab.fails("await root.make('third')")
        assert message.startswith("doppler.errors.StorageError"), message
        message = tab.fails("await reserve(1 << 20, 'Noise')")
        assert message.startswith("doppler.errors.StorageError: Noise does not fit"), message
    finally:
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin})
        devtools.detach()


@pytest.mark.parametrize("length", [0, 1, 64, 65, 1023, 1024, 1025, 2048, 3073, 7000, 100_001])
def test_blake3_equals_the_package(tab: Tab, length: int) -> None:
    data = os.urandom(length)
    code = f"from doppler.store.digest import blake3_hex\nblake3_hex(bytes.fromhex('{data.hex()}'))"
    assert tab.run(code) == blake3(data).hexdigest()


def test_two_tabs(tab: Tab, server: ModelServer, context: BrowserContext) -> None:
    """Both may read a model; what one writes is locked for the other, and it is told so."""
    download(tab, server)
    other = Tab(context.new_page(), tab.url)
    read = f"""
        storage, store = await opened("{server.url}")
        buffers.blake3(await store.block(0))
    """
    assert tab.run(read) == other.run(read) == MODEL.manifest.blocks[0]
    write = "await storage.write('shard-00000.bin', 0, await store.block(0))"
    assert "in use by another tab" in other.fails(write)
    tab.run("await storage.close()")
    other.run(write)
    assert "in use by another tab" in tab.fails(read)
    assert "in use by another tab" in tab.fails("await root.delete(store.manifest.identity)")
    tab.run("await storage.close()")
    other.page.close()
    time.sleep(0.2)


ALL_AT_ONCE = """
import itertools, random

storage = await root.make("crowded")
random, names = random.Random(7), ["a", "b"]

async def change(name):
    match random.randrange(5):
        case 0: await storage.write(name, 0, buffers.from_bytes(bytes(1000)))
        case 1: await storage.flush(name)
        case 2: await storage.remove(name)
        case 3: await storage.size(name)
        case 4: await storage.gather([(it, 0, 0) for it in names * 4])

errors = []
for _ in range(40):
    for name in names:
        await storage.write(name, 0, buffers.from_bytes(b"x"))
    asked = [asyncio.ensure_future(change(random.choice(names))) for _ in range(12)]
    await asyncio.sleep(0)
    asked[random.randrange(12)].cancel()
    if random.random() < 0.5:
        await storage.close()
        storage = await root.make("crowded")
    found = await asyncio.gather(*asked, return_exceptions=True)
    errors += [str(it) for it in found if isinstance(it, Exception)]
await storage.close()
await root.delete("crowded")
sorted({it for it in errors if "is not in the browser's storage" not in it})
"""


def test_a_folder_does_not_shut_itself_out(tab: Tab) -> None:
    """Whatever is asked of two files at once, some of it given up, and the folder closed in it."""
    assert tab.run(ALL_AT_ONCE) == []


SIDE_BY_SIDE = """
from pyodide.ffi import to_js
large = 4 << 20  # bytes, from which on reads go side by side on such a machine
eight = to_js({"value": 8, "configurable": True}, dict_converter=js.Object.fromEntries)
js.Object.defineProperty(js.navigator, "hardwareConcurrency", eight)

def is_beside(name):
    return bool(storage._folder.open.get(name).file)

async def digests():
    "Of the first four blocks."
    data = await storage.read("shard-00000.bin", 0, large)
    return [buffers.blake3(buffers.part(data, at << 20, (at + 1) << 20)) for at in range(4)]
"""


def test_large_reads_side_by_side(tab: Tab, server: ModelServer, context: BrowserContext) -> None:
    """They give what other reads give, keep writers of other tabs out, and see what is written."""
    download(tab, server)
    tab.run(SIDE_BY_SIDE)
    blocks = list(MODEL.manifest.blocks)
    tab.run(f'storage, store = await opened("{server.url}")')
    assert tab.run("await digests(), is_beside('shard-00000.bin')") == [blocks[:4], True]
    data = tab.run("buffers.blake3(await store.unverified(2, 9))")
    assert data == blake3(MODEL.data[2 * BLOCK_SIZE : 11 * BLOCK_SIZE]).hexdigest()
    message = tab.fails("await storage.read('shard-00000.bin', 17, large)")
    assert f"{4 * BLOCK_SIZE - 17} are there" in message
    other = Tab(context.new_page(), tab.url)
    write = f"""
        storage, store = await opened("{server.url}")
        await storage.write('shard-00000.bin', 5, buffers.from_bytes(b"other"))
    """
    assert "in use by another tab" in other.fails(write)
    tab.run("await storage.close()")
    other.run(write)
    assert "was closed" in tab.fails("await digests()")
    tab.run(f'storage, store = await opened("{server.url}")')
    assert "in use by another tab" in tab.fails("await digests()")
    other.run("await storage.close()")
    assert tab.run("(await digests())[1:]") == blocks[1:4]
    assert tab.run("(await digests())[0]") != blocks[0]
    other.page.close()
    server.requests.clear()
    mended = """
        reads = [store.block(0), *(digests() for _ in range(6))]
        block, *found = await asyncio.gather(*reads)
        [buffers.blake3(block), [each[1:] for each in found], await digests()]
    """
    assert tab.run(mended) == [blocks[0], [blocks[1:4]] * 6, blocks[:4]]
    assert server.requests == [("shard-00000.bin", f"bytes=0-{BLOCK_SIZE - 1}")]
    tab.run("await storage.flush('shard-00000.bin')")
    assert tab.run("await digests(), is_beside('shard-00000.bin')") == [blocks[:4], True]
    tab.run("await storage.close()")
    tab.run("await root.delete(store.manifest.identity)")


def test_an_import_is_kept_or_leaves_nothing(tab: Tab) -> None:
    tab.run("""
        async with root.importing() as unfinished:
            await unfinished.storage.write("shard-00000.bin", 0, buffers.from_bytes(b"weights"))
            await unfinished.storage.write("manifest.json", 0, buffers.from_bytes(b"{}"))
            await root.tidy()  # must not touch what is in the making
            await unfinished.keep("abc")
    """)
    assert tab.run("await root.models()") == ["abc"]
    assert tab.run("(await root.small('abc', 'manifest.json')).decode()") == "{}"
    assert tab.run("await root.usage('abc')") == len("weights{}")
    tab.run("""
        leftover = root.importing()
        unfinished = await leftover.__aenter__()
        await unfinished.storage.write("shard-00000.bin", 0, buffers.from_bytes(b"half"))
        nothing = await root.make("no-manifest")
    """)
    tab.load()  # as if the tab had been closed in the middle
    count = """
        import doppler_runtime
        [len(await doppler_runtime.folders("imports")), list(await root.models())]
    """
    assert tab.run(count) == [1, ["abc", "no-manifest"]]
    tab.run("await root.tidy()")
    assert tab.run(count) == [0, ["abc"]]


DAMAGE = f"""
import json
from doppler.page.host import load_numpy
from doppler.page.library import OpfsLibrary
library = OpfsLibrary(load_numpy)
sound = bytes.fromhex("{MODEL.manifest.to_json().encode().hex()}")
bad = {{
    "empty": b"", "cut": sound[:900], "deep": b"[" * 100_000, "latin": b"\\xff\\xfe" + sound,
    "types": sound.replace(b'"heads": 4', b'"heads": [[]]'), "other": sound,
}}
async def put(folder, name, data):
    storage = await root.make(folder)
    await storage.truncate(name, 0)
    await storage.write(name, 0, buffers.from_bytes(data))
    await storage.close()

async def plant():
    for name, data in bad.items():
        await put(name, "manifest.json", data)
    place = await js.navigator.storage.getDirectory()
    for name in ("doppler", "models"):
        place = await place.getDirectoryHandle(name)
    odd = await place.getDirectoryHandle("..odd name", create=True)
    await odd.getFileHandle("manifest.json", create=True)
    folder = await place.getDirectoryHandle("folder", create=True)
    await folder.getDirectoryHandle("manifest.json", create=True)
    shard = await place.getDirectoryHandle("{MODEL.manifest.identity}", create=True)
    await place.getFileHandle("stray", create=True)
    await place.getDirectoryHandle("ghost", create=True)

async def folders():
    import doppler_runtime
    return sorted(await doppler_runtime.folders("models"))
"""


def get(tab: Tab, server: ModelServer) -> None:
    """Stores the model as the page does, with its manifest."""
    tab.run(DAMAGE)
    tab.run(f"""
        from doppler.api.host import Amount
        whole = Amount(None, None)
        await library.download('{server.url}manifest.json', None, whole, lambda *_: None)
    """)


def test_one_damaged_model_costs_itself(tab: Tab, server: ModelServer) -> None:
    """Whatever lies among the models: the others are listed, and it can be deleted."""
    get(tab, server)
    tab.run("await plant()")
    listed = tab.run("""
        models = await library.models()
        {m["id"]: [m["problem"] is None, m["complete"], m["title"]] for m in models}
    """)
    identity = MODEL.manifest.identity
    assert listed.pop(identity) == [True, True, "Noise 0"]
    names = ["..odd name", "cut", "deep", "empty", "folder", "latin", "other", "types"]
    assert sorted(listed) == names
    for name, (usable, complete, title) in listed.items():
        assert [usable, complete, title] == [False, False, f"Damaged model {name[:8]}…"]
    assert "ghost" not in tab.run("await folders()")
    assert tab.run("(await library.usage())['used']") > MODEL.manifest.bytes
    for name in names:
        message = tab.fails(f"async with library.open({name!r}): pass")
        assert "\n" not in message.strip(), message
        tab.run(f"await library.delete({name!r})")
    assert tab.run("await folders()") == [identity]


@pytest.mark.parametrize("origin", ["", '{"url": "htt', '["no"]', "\\xff", '{"url": 5}'])
def test_a_damaged_origin_costs_the_address_only(
    tab: Tab, server: ModelServer, origin: str
) -> None:
    identity = MODEL.manifest.identity
    get(tab, server)
    tab.run(f"await put('{identity}', 'origin.json', b'{origin}')")
    told = "[it[key] for key in ('complete', 'problem', 'url', 'note')]"
    ((complete, problem, url, note),) = tab.run(f"[{told} for it in await library.models()]")
    assert (complete, problem, url) == (True, None, None)
    assert "origin.json is damaged" in note
    digest = tab.run(f"""
        async with library.open("{identity}") as stored:
            digest = buffers.blake3(await stored.store.block(0))
        digest
    """)
    assert digest == MODEL.manifest.blocks[0]


def test_getting_a_damaged_model_again_mends_it(tab: Tab, server: ModelServer) -> None:
    """A manifest as long as the sound one, too."""
    get(tab, server)
    identity = MODEL.manifest.identity
    tab.run(f"await put('{identity}', 'manifest.json', sound[:-9] + b'.' * 9)")
    assert tab.run("[m['problem'] is None for m in await library.models()]") == [False]
    server.requests.clear()
    get(tab, server)
    assert tab.run("[m['problem'] for m in await library.models()]") == [None]
    assert {name for name, _ in server.requests} == {"manifest.json"}


def test_reading_makes_nothing_and_meets_what_is_being_deleted(tab: Tab) -> None:
    """Lists, sizes, loads and inspections while another deletes: no error, and no ghost."""
    tab.run(DAMAGE)
    failures = tab.run("""
        from doppler.errors import SourceError
        from doppler.api.asked import Asked
        from doppler.page.opfs import usage
        identity = json.loads(sound)["identity"]
        failures = []

        async def loads():
            async with library.open(identity) as stored:
                await stored.store.missing()
                await stored.store.block(0)

        for turn in range(12):
            await put(identity, "manifest.json", sound)
            asked = [library.models(), usage(), library.inspect(Asked(id=identity)), loads()]
            later = [library.models(), library.usage(), library.inspect(Asked(id=identity))]
            later.append(loads())
            if turn % 2:
                asked.insert(turn % 3, library.delete(identity))
            else:
                asked.append(library.delete(identity))
            answers = await asyncio.gather(*asked, *later, return_exceptions=True)
            failures += [repr(a) for a in answers if isinstance(a, Exception)
                         and not isinstance(a, SourceError) and "was deleted" not in str(a)]
            if await folders():
                failures.append(f"turn {turn}: {await folders()}")
        failures
    """)
    assert failures == []


def test_a_second_tab_leaves_the_first_ones_work_alone(tab: Tab, context: BrowserContext) -> None:
    """Its start tidies up: not what another tab is importing, nor what it offers for download."""
    tab.run("""
        from doppler.page.host import load_numpy
        from doppler.page.library import OpfsLibrary
        import doppler_runtime
        await doppler_runtime.loadNumpy()
        import numpy
        library = OpfsLibrary(load_numpy)
        async def rows(): yield numpy.zeros(4, "f4")
        await library.write_scratch("logits.f32", rows())
        making = root.importing()
        unfinished = await making.__aenter__()
        await unfinished.storage.write("shard-00000.bin", 0, buffers.from_bytes(b"half"))
    """)
    look = """
        import doppler_runtime
        from doppler.page.host import load_numpy
        from doppler.page.library import OpfsLibrary
        await OpfsLibrary(load_numpy).models()
        imports = await doppler_runtime.folders("imports")
        [len(imports), await doppler_runtime.folderSize("tmp")]
    """
    other = Tab(context.new_page(), tab.url)
    assert other.run(look) == [1, 16]
    assert other.run(look) == [1, 16]
    tab.load()  # the first one is gone, in the middle of it
    assert other.run(look) == [0, -1]
    other.page.close()


def test_a_file_that_was_picked(tab: Tab) -> None:
    code = """
        from pyodide.ffi import to_js
        file = js.File.new(to_js([to_js(bytes(range(100)))]), "tiny.gguf")
        source = BlobSource(file)
        [source.name, await source.size(), (await source.read(7, 3)).to_bytes().hex()]
    """
    assert tab.run(code) == ["tiny.gguf", 100, "070809"]
    message = tab.fails("await source.read(98, 3)")
    assert message.startswith("doppler.errors.SourceError: tiny.gguf: 3 bytes were asked"), message


def test_an_address_is_read_by_ranges(tab: Tab, server: ModelServer) -> None:
    (server.folder / "big.gguf").write_bytes(MODEL.data)
    around = 8 << 20  # weights are read 8 MiB at a time: that read needs two requests
    code = f"""
        source = HttpSource("{server.url}big.gguf?download=true", buffers)
        inner = await source.read(100, 50)
        across = await source.read({around - 10}, 20)
        source.request = 8 << 20
        again = await source.read({around - 100}, 200)
        [source.name, await source.size(), *(b.to_bytes().hex() for b in (inner, across, again))]
    """
    assert tab.run(code) == [
        "big.gguf",
        len(MODEL.data),
        MODEL.data[100:150].hex(),
        MODEL.data[around - 10 : around + 10].hex(),
        MODEL.data[around - 100 : around + 100].hex(),
    ]
    head = 64 << 10
    assert [asked for _, asked in server.requests] == [
        f"bytes=0-{head - 1}",
        f"bytes={around - head}-{around + 9}",
        f"bytes={around}-{len(MODEL.data) - 1}",
    ]
    assert "the file has only" in tab.fails(f"await source.read({len(MODEL.data) - 1}, 2)")


def test_addresses_that_do_not_work(tab: Tab, server: ModelServer) -> None:
    def message(name: str) -> str:
        text = tab.fails(f"await HttpSource('{server.url}{name}', buffers).size()")
        assert text.startswith(f"doppler.errors.SourceError: {server.url}{name}"), text
        return text

    assert "answered 404; check the address" in message("absent.gguf")
    server.status = 403
    assert "answered 403; it wants a login" in message("shard-00000.bin")
    server.status, server.ranges = None, False
    text = message("shard-00000.bin")
    assert "ignores range requests; download the file and open it from disk" in text
    server.ranges, server.cut_after = True, BLOCK_SIZE  # the connection breaks
    text = tab.fails(f"await HttpSource('{server.url}shard-00000.bin', buffers).read(0, 4000000)")
    assert text.startswith("doppler.errors.SourceError"), text


def test_a_server_that_is_gone(tab: Tab, tmp_path: Path) -> None:
    with model_server(tmp_path) as server:
        url = server.url
    assert "cannot be reached" in tab.fails(
        f"await fetch_text('{url}manifest.json', 'manifest.json')"
    )
    assert "cannot be reached" in tab.fails(f"await HttpSource('{url}a.gguf', buffers).size()")


def test_the_worker_tells_errors_by_name(tab: Tab) -> None:
    call = """(method) => worker.call(method, {}).catch((error) => [error.name, error.message])"""
    name, message = tab.page.evaluate(call, "nonsense")
    assert name == "RequestError"
    assert message.startswith("'nonsense' is not one of")


def test_the_page_opens_without_its_server(
    tab: Tab, context: BrowserContext, tmp_path: Path
) -> None:
    """On a first visit the service worker takes over before the worker starts, and keeps it all."""
    keep = """async () => (await import("/app/offline.js")).keepPage()"""
    with Server(tmp_path) as site:
        page = context.new_page()
        page.goto(site.url + "models.json")
        assert page.evaluate(keep) is True
        Tab(page, site.url + "models.json")
        page.evaluate("fetch('models/none.bin', { headers: { Range: 'bytes=0-1' } })")
        kept = page.evaluate(KEPT, ["pyodide.asm.wasm", "numpy-", "tokenizer_worker.js"])
    assert not any("/models/" in url for url in kept)
    offline = Tab(page, site.url + "models.json?again")
    assert offline.run("str(js.location.href)").startswith(site.url)
    assert page.evaluate("crossOriginIsolated") is True
    page.close()


def test_an_edited_file_shows_at_once(context: BrowserContext, tmp_path: Path) -> None:
    root = tmp_path / "web"
    for folder in ("app", "runtime"):
        (root / folder).mkdir(parents=True)
    for name in ("sw.js", "app/offline.js", "runtime/trusted.js"):
        (root / name).write_bytes((WEB / name).read_bytes())
    edited = root / "app" / "page.js"
    edited.write_text("first")
    with Server(tmp_path, root=root) as site:
        page = context.new_page()
        page.goto(site.url + "models.json")
        assert page.evaluate("async () => (await import('/app/offline.js')).keepPage()") is True
        text = "fetch('/app/page.js').then((response) => response.text())"
        assert page.evaluate(text) == "first"
        edited.write_text("second")
        assert page.evaluate(text) == "second"
        # It is kept behind the answer.
        page.wait_for_function(
            "caches.match('/app/page.js').then((kept) => kept.text()).then((it) => it === 'second')"
        )
    assert page.evaluate(text) == "second"
    page.close()


def test_a_shard_that_is_too_short(tab: Tab, server: ModelServer) -> None:
    path = server.folder / "shard-00002.bin"
    get = f"""
        storage, store = await opened("{server.url}")
        try: await store.download(quiet)
        finally: await storage.close()
    """
    path.write_bytes(MODEL.shard(2)[: BLOCK_SIZE + 9])
    start = f"doppler.errors.SourceError: {server.url}shard-00002.bin: the file there has"
    told = f"{start} {BLOCK_SIZE + 9} bytes and {4 * BLOCK_SIZE} were expected"
    assert tab.fails(get).startswith(told)
    server.ranges = False
    assert f"sent {BLOCK_SIZE + 9} bytes and not the {4 * BLOCK_SIZE}" in tab.fails(get)
