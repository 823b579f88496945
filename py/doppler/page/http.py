"""Sources of the page: a file that a person picked, and addresses.

An address is read in three ways: anywhere by ranges (a .gguf to import), as shards, each from some
block to its end, or whole where it is a small file. What answers must be what was asked for
(inputs/answers.py), or nothing of it is used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import doppler_runtime as runtime
from pyodide.ffi import JsException

from doppler.errors import FormatError, SourceError
from doppler.inputs.answers import (
    DISK,
    Answer,
    check_range,
    check_same,
    check_whole,
    refused,
)
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.small import LIMITS, too_long
from doppler.store.places import Place, Places
from doppler.store.sources.source import AT_ONCE, Urgency

if TYPE_CHECKING:
    from doppler.store.manifest import Manifest

HEAD = 64 << 10  # bytes a request while headers are read: most are no longer
PAGE = 8 << 20  # and while weights are: tensors are small, and each request is a round trip
PAGES_KEPT = 3  # neighbouring tensors are not always read in the order in which they lie
SECONDS = 60.0  # that a server may take to answer, and for each LEAST of a body
LEAST = 64 << 10  # bytes
RUN_BYTES = 1 << 20  # of a shard, verified and stored at once: blocks of mixtures are smaller

Pages: TypeAlias = "OrderedDict[tuple[str, int], Buffer]"  # by address and start


class BlobSource:
    """A File that a person picked or dropped."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.name: str = file.name

    @property
    def version(self) -> str:
        """What tells this version of the file from others."""
        return str(self.file.lastModified)

    async def size(self) -> int:
        return int(self.file.size)

    async def read(self, offset: int, length: int) -> Buffer:
        if offset + length > self.file.size:
            raise SourceError(
                f"{self.name}: {length} bytes were asked for at {offset} and the file has only "
                f"{self.file.size}; it is cut short, get it again"
            )
        try:
            return await runtime.readBlob(self.file, offset, offset + length)
        except JsException as error:
            raise SourceError(
                f"{self.name} cannot be read ({error.message}); it was moved or changed since it "
                "was picked: pick it again"
            ) from error


class HttpSource:
    """A file at an address whose server answers range requests.

    The first answer says which version of the file it is; any later one of another is an error.
    """

    def __init__(self, url: str, buffers: Buffers, pages: Pages | None = None) -> None:
        """`pages` may be shared, so that the parts of a model take no more memory than one."""
        self.url = url
        self.name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or url
        self.request = HEAD  # bytes that are asked for at once, at least
        self._buffers = buffers
        self._size: int | None = None
        self._first: Answer | None = None
        self._pages: Pages = OrderedDict() if pages is None else pages

    @property
    def version(self) -> str:
        """What tells this version of the file from others; empty where the server does not."""
        return "" if self._first is None else self._first.version

    async def size(self) -> int:
        if self._size is None:
            await self._fetch(0, self.request)
        assert self._size is not None
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        size = await self.size()
        if offset + length > size:
            raise SourceError(
                f"{self.url}: {length} bytes were asked for at {offset} and the file has only "
                f"{size}; it is cut short where it comes from"
            )
        if length == 0:
            return self._buffers.empty(0)
        at, end = offset, offset + length
        start, page = await self._page(at, end)
        if end <= start + self._buffers.length(page):
            return self._buffers.part(page, at - start, end - start)
        data = self._buffers.empty(length)
        while at < end:
            start, page = await self._page(at, end)
            stop = min(end, start + self._buffers.length(page))
            self._buffers.put(data, at - offset, self._buffers.part(page, at - start, stop - start))
            at = stop
        return data

    async def _page(self, at: int, end: int) -> tuple[int, Buffer]:
        """Some bytes with that at `at` among them, and their start; the last few are kept."""
        for (url, start), page in self._pages.items():
            if url == self.url and start <= at < start + self._buffers.length(page):
                self._pages.move_to_end((url, start))
                return start, page
        start = at - at % self.request
        stop = min(max(end, start + self.request), start + PAGE, await self.size())
        return start, await self._fetch(start, stop)

    async def _fetch(self, start: int, end: int) -> Buffer:
        """Bytes [start, end), or up to the file's end where its size is not known yet."""
        async with _opened(self.url, start, end) as (stream, answer):
            size = check_range(self.url, answer, start, end, self._size)
            if self._first is None:
                self._size = size if size is not None else await self._told_size()
                self._first = answer
            check_same(self.url, self._first, answer)
            assert self._size is not None
            length = min(end, self._size) - start
            data = await stream.next(length)
            if self._buffers.length(data) != length or not await stream.ended():
                raise SourceError(
                    f"{self.url}: the server did not send the {length} bytes at {start} that were "
                    "asked for, but fewer or more; try again"
                )
        self._pages[self.url, start] = data
        while len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return data

    async def _told_size(self) -> int:
        """The length that is told for the whole file, where Content-Range cannot be seen."""
        with _explained(self.url):
            answer = Answer.of(await runtime.askAbout(self.url, SECONDS))
        if answer.status != 200 or answer.length is None or answer.is_encoded:
            raise SourceError(f"{self.url}: the server does not tell the length; {DISK}")
        return answer.length


async def is_there(url: str) -> bool:
    """Whether a file is at an address, which is asked without fetching it."""
    with _explained(url):
        return Answer.of(await runtime.askAbout(url, SECONDS)).status == 200


def http_files(urls: Iterable[str], buffers: Buffers) -> list[HttpSource]:
    """The files of one model at their addresses."""
    pages: Pages = OrderedDict()
    return [HttpSource(url, buffers, pages) for url in urls]


class HttpShards:
    """The shards beside a manifest: `url` is the manifest's address, shards lie in its folder.

    served: the model as it is cut there, which may be stored in another cut.
    """

    at_once, in_order = AT_ONCE, True

    def __init__(self, url: str, served: Manifest) -> None:
        self.url, self.served = url, served
        self._places = Places(served)
        self._folder = url.split("?")[0].rsplit("/", 1)[0] + "/"

    def where(self, place: Place) -> str:
        """Address of the shard that a block lies in there."""
        return self._folder + self._places[place.index].shard.name

    def has(self, index: int) -> bool:
        """All of them, as far as is known."""
        return True

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Whole blocks of about RUN_BYTES together at a time, from one file there after another.

        A server that ignores ranges and sends the whole shard will do: its start is skipped.
        """
        for there in self._places.runs([place.index for place in places]):
            async with aclosing(self._pieces(there)) as pieces:
                async for index, piece in pieces:
                    yield index, piece

    async def _pieces(self, places: Sequence[Place]) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Of neighbours in one file there."""
        shard, start, end = places[0].shard, places[0].start, places[-1].end
        url, block = self.where(places[0]), self.served.block_size
        run = max(RUN_BYTES // block, 1) * block
        async with _opened(url, start, end) as (stream, answer):
            if answer.status == 200:
                check_whole(url, answer, shard.bytes)
                await stream.skip(start)
            else:
                check_range(url, answer, start, end, shard.bytes)
            for at in range(start, end, run):
                piece, index = await stream.next(min(run, end - at)), (shard.offset + at) // block
                if piece.length == min(run, end - at):
                    yield index, piece
                    continue
                if whole := piece.length // block * block:
                    yield index, piece.subarray(0, whole)
                raise SourceError(
                    f"{url}: the server ended at byte {at + piece.length} of {shard.bytes}; "
                    "what came is kept: try again, or get the whole file put there"
                )

    def hurry(self, index: int, urgency: Urgency) -> None:
        """It comes in its turn."""

    def blame(self, index: int) -> bool:
        """The file there is damaged: asking again would give the same."""
        return False


async def fetch_small(url: str, kind: str) -> tuple[Answer, Buffer | None]:
    """A small file of a kind of LIMITS, whole; None where the status is not 200.

    Raises SourceError, and FormatError where it is longer than its kind may be.
    """
    async with _opened(url) as (stream, answer):
        if answer.status != 200:
            return answer, None
        data = await stream.whole(LIMITS[kind])
        if data is None:
            raise too_long(url, kind)
        return answer, data


async def fetch_bytes(url: str, kind: str) -> Buffer:
    """As fetch_small; any status but 200 is a SourceError."""
    answer, data = await fetch_small(url, kind)
    if data is None:
        raise refused(url, answer.status)
    return data


async def fetch_text(url: str, kind: str) -> str:
    """A small text file at an address, such as a manifest. Raises what fetch_bytes does."""
    data = bytes((await fetch_bytes(url, kind)).to_bytes())
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{url} is not text in UTF-8: {error.reason}") from error


@asynccontextmanager
async def _opened(
    url: str, start: int = 0, end: int | None = None
) -> AsyncIterator[tuple[Any, Answer]]:
    """The stream of an answer, and what it says: of bytes [start, end), else of the whole file."""
    asked = "" if end is None else f"bytes={start}-{end - 1}"
    with _explained(url):
        stream = await runtime.openStream(url, asked, SECONDS, LEAST)
        try:
            yield stream, Answer.of(stream.told)
        finally:
            stream.close()


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns errors of the network into ours. Browsers do not tell a page more than this."""
    try:
        yield
    except JsException as error:
        if error.name == "TimeoutError":
            raise SourceError(
                f"{url}: the server is too slow or hangs ({error.message}); try again later"
            ) from error
        raise SourceError(
            f"{url} cannot be reached ({error.message}): the server is gone, there is no network, "
            f"or it does not allow other sites to read it (CORS); check the address, or {DISK}"
        ) from error
