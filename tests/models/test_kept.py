"""Keys and values that are kept in storage: what is restored gives the same ids, or is not used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import load, open_client
from playwright.sync_api import BrowserContext

from app_page import EVERY_FILE, RUN, convert_all
from doppler.command.client import Client
from doppler.command.server import Server
from doppler.errors import RequestError
from fixture_sets import FIXTURES, LONG
from visited import Visited

PLAIN, SHARED, RECURRENT = "llama32-like", "gemma4-e2b-like", "lfm2-like"
NAMES = (LONG, PLAIN, SHARED, RECURRENT)
TALK = {"conversation": "talk-1"}
CHANGE = """async ([path, at]) => {
  let folder = await navigator.storage.getDirectory();
  const parts = path.split("/");
  for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part);
  const file = await folder.getFileHandle(parts.at(-1));
  const data = new Uint8Array(await (await file.getFile()).arrayBuffer());
  const out = await file.createWritable();
  if (at < data.length) data[at] ^= 1;
  await out.write(at < data.length ? data : data.slice(0, -1));
  await out.close();
}"""


HANG = """
import asyncio
from doppler.engine.segments import SegmentFolder

async def hang(*args):
    globals()["hangs"] = True
    await asyncio.sleep(1e6)

SegmentFolder.end, hangs = hang, False
"""


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return convert_all({name: FIXTURES / name for name in NAMES}, folder)


@pytest.fixture(scope="module")
def tiny(context: BrowserContext, visited: Visited, tiny_folder: Path) -> Iterator[Client]:
    with Server(tiny_folder, visited.port) as server:
        yield open_client(context, server.url)


@pytest.fixture(autouse=True)
def nothing_kept(tiny: Client) -> None:
    tiny.call("forget", TALK)
    assert kept(tiny) == {}


def kept(client: Client) -> dict[str, int]:
    """Files of the only conversation, and their bytes."""
    files: dict[str, int] = client.page.evaluate(EVERY_FILE)
    return {path: size for path, size in files.items() if path.startswith("doppler/kv/")}


def names(client: Client) -> list[str]:
    return sorted(path.rsplit("/", 1)[1] for path in kept(client))


def ids_of(count: int, seed: int = 1) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, 250, count).tolist()
    return found


def ask(client: Client, prompt: list[int], count: int = 20, **args: Any) -> tuple[int, list[int]]:
    """Ids drawn by a seed, and how many of the prompt's were not run; waits until they are kept."""
    asked = {"prompt_ids": prompt, "max_tokens": count, "ignore_eos": True, "speculate": "off"}
    found = client.call("complete", {**asked, "sampling": {"seed": 7, "temperature": 0.8}, **args})
    client.call("keep", {})
    return found["reused_tokens"], found["generated_ids"]


@pytest.mark.parametrize(
    ("name", "how"),
    [(LONG, {"kv": "f32"}), (LONG, {"kv": "f16"}), (SHARED, {}), (RECURRENT, {})],
)
def test_what_is_restored_is_what_was_there(tiny: Client, name: str, how: dict[str, Any]) -> None:
    """After two answers, the second of which adds a file: rings have wrapped by then."""
    load(tiny, name, batch=32, **how)
    prompt = ids_of(300)
    _, first = ask(tiny, prompt, 40, **TALK)
    longer = [*prompt, *first, *ids_of(60, 2)]
    _, second = ask(tiny, longer, 40, **TALK)
    last = [*longer, *second, *ids_of(9, 3)]
    there = ask(tiny, last)
    assert there[0] > len(longer) - 10
    assert len(kept(tiny)) >= 2
    load(tiny, name, batch=32, **how)
    again = ask(tiny, last, **TALK)
    assert again == there


def forgetting(client: Client) -> None:
    """Another prompt is run: nothing of the one before is left on the GPU."""
    ask(client, ids_of(2, 9), 1)


@pytest.fixture(scope="module")
def plain(tiny: Client) -> Client:
    load(tiny, PLAIN, context=512, batch=64)
    return tiny


@pytest.fixture
def talked(plain: Client) -> tuple[list[int], list[int]]:
    """A prompt that goes on from what is kept, and no longer on the GPU; the ids that answer it."""
    prompt = ids_of(260)
    _, said = ask(plain, prompt, 12, **TALK)
    longer = [*prompt, *said, 5, 6]
    reused, wanted = ask(plain, longer)
    assert (reused, names(plain)) == (271, ["0-260"])
    forgetting(plain)
    return longer, wanted


def test_what_is_damaged_is_not_used_and_is_removed(
    plain: Client, talked: tuple[list[int], list[int]]
) -> None:
    """A bit of the keys, one of what the file says of itself, and its last byte."""
    prompt, wanted = talked
    for at in (1000, -1, 1 << 40):
        [(path, size)] = kept(plain).items()
        plain.page.evaluate(CHANGE, [path, at % size if at < size else at])
        assert ask(plain, prompt, **TALK) == (0, wanted)
        assert names(plain) == [f"0-{len(prompt)}"]  # it was kept anew
        forgetting(plain)
        assert ask(plain, prompt, **TALK) == (len(prompt) - 1, wanted)
        forgetting(plain)


def test_a_tab_that_is_closed_in_a_save(
    context: BrowserContext, plain: Client, talked: tuple[list[int], list[int]]
) -> None:
    """All keys are written then, but not what says so: they are never used, and go."""
    prompt, wanted = talked
    tab = open_client(context, plain.page.url)
    load(tab, PLAIN, context=512, batch=64)
    tab.page.evaluate(RUN, HANG)
    tab.call("complete", {"prompt_ids": [*prompt, *ids_of(150, 4)], "max_tokens": 2, **TALK})
    while not tab.page.evaluate(RUN, "hangs"):
        tab.page.wait_for_timeout(20)
    assert names(plain) == ["0-260", "260-424"]
    tab.page.close()
    assert ask(plain, prompt, **TALK) == (260, wanted)
    forgetting(plain)
    assert ask(plain, prompt, **TALK) == (len(prompt) - 1, wanted)  # it may have been held a while
    assert names(plain) == ["0-260", "260-293"]


def test_edits_and_other_answers(plain: Client, talked: tuple[list[int], list[int]]) -> None:
    """What a prompt shares with what is kept is used; what took another course is replaced."""
    prompt, _ = talked
    edited = [*prompt[:257], 9, 8, 7]
    reused, said = ask(plain, edited, **TALK)
    assert reused == 257
    assert names(plain) == ["0-260"]
    forgetting(plain)
    assert ask(plain, edited)[1] == said


def test_a_prompt_that_comes_first_ends_a_save(plain: Client) -> None:
    prompt = ids_of(260, 5)
    asked = {"prompt_ids": prompt, "max_tokens": 2, **TALK}
    plain.call("complete", asked)
    plain.call("complete", {"prompt_ids": ids_of(3), "max_tokens": 1})
    plain.call("keep", {})
    assert kept(plain) == {}


def test_another_context(tiny: Client, talked: tuple[list[int], list[int]]) -> None:
    """The file fits a cache of any size that its ids fit."""
    prompt, _ = talked
    load(tiny, PLAIN, context=1024, batch=32)
    wanted = ask(tiny, prompt)[1]
    forgetting(tiny)
    assert ask(tiny, prompt, **TALK) == (260, wanted)
    load(tiny, PLAIN, context=1024, batch=32, kv="f16")
    assert ask(tiny, prompt, **TALK)[0] == 0  # kept otherwise


def test_what_was_kept_longest_ago_makes_room(plain: Client) -> None:
    """Within a budget of two conversations; one that takes it all is not added to."""
    each = sum_of_one(plain)
    plain.page.evaluate(RUN, f"from doppler.page import kept\nkept.MOST_BYTES = {int(2.5 * each)}")
    try:
        for talk in ("b", "c", "d"):
            _, said = ask(plain, ids_of(260), 2, conversation=talk)
        assert sorted(path.split("/")[3] for path in kept(plain)) == ["c", "d"]
        longer = [*ids_of(260), *said, *ids_of(200)]
        ask(plain, longer, 2, conversation="d")
        assert names(plain) == ["0-260", "260-462"]
        plain.page.evaluate(RUN, f"kept.MOST_BYTES = {int(1.8 * each)}")
        ask(plain, [*longer, *ids_of(40)], 2, conversation="d")
        assert names(plain) == ["0-260", "260-462"]
    finally:
        plain.page.evaluate(RUN, "kept.MOST_BYTES = 1 << 30")
        for talk in ("b", "c", "d"):
            plain.call("forget", {"conversation": talk})


def sum_of_one(client: Client) -> int:
    ask(client, ids_of(260), 2, **TALK)
    client.call("forget", TALK)
    ask(client, ids_of(260), 2, **TALK)
    [(_, size)] = kept(client).items()
    client.call("forget", TALK)
    return size


def test_names_of_conversations(plain: Client) -> None:
    for name in ("", "..", "a/b", "ä", 3, "a" * 65):
        with pytest.raises(RequestError, match="must be a name of 1 to 64 letters"):
            ask(plain, [1, 2], conversation=name)
        with pytest.raises(RequestError, match="must be a name of 1 to 64 letters"):
            plain.call("forget", {"conversation": name})
