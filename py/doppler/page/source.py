"""Sources of the page: a file that a person picked, and addresses.

An address is read in two ways: anywhere by ranges (a .gguf to import), or as shards, each from
some block to its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import doppler_runtime as runtime
from pyodide.ffi import JsException

from doppler.buffers import Buffer, Buffers
from doppler.errors import FormatError, SourceError

if TYPE_CHECKING:
    from doppler.manifest import Shard

PAGE = 8 << 20  # bytes a request of HttpSource: tensors are small, and each request is a round trip
PAGES_KEPT = 3  # neighbouring tensors are not always read in the order in which they lie

Pages: TypeAlias = "OrderedDict[tuple[str, int], Buffer]"  # by address and number


class BlobSource:
    """A File that a person picked or dropped."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.name: str = file.name

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
    """A file at an address whose server answers range requests."""

    def __init__(self, url: str, buffers: Buffers, pages: Pages | None = None) -> None:
        """`pages` may be shared, so that the parts of a model take no more memory than one."""
        self.url = url
        self.name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or url
        self._buffers = buffers
        self._size: int | None = None
        self._pages: Pages = OrderedDict() if pages is None else pages

    async def size(self) -> int:
        if self._size is None:
            try:
                answer = await runtime.probe(self.url)
            except JsException as error:
                raise unreachable(self.url, error) from error
            _check_ranges(self.url, answer.status)
            if answer.size < 0:
                raise SourceError(f"{self.url}: the server does not tell the length; {DISK}")
            self._size = int(answer.size)
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        size = await self.size()
        if offset + length > size:
            raise SourceError(
                f"{self.url}: {length} bytes were asked for at {offset} and the file has only "
                f"{size}; it is cut short where it comes from"
            )
        first, last = offset // PAGE, (offset + max(length, 1) - 1) // PAGE
        if first == last:
            page = await self._page(first)
            return self._buffers.part(page, offset - first * PAGE, offset - first * PAGE + length)
        data = self._buffers.empty(length)
        for index in range(first, last + 1):
            page, start = await self._page(index), index * PAGE
            begin, end = max(offset - start, 0), min(offset + length - start, PAGE)
            part = self._buffers.part(page, begin, end)
            self._buffers.put(data, start + begin - offset, part)
        return data

    async def _page(self, index: int) -> Buffer:
        """Bytes [index * PAGE, …) of the file; the last few pages are kept."""
        key = self.url, index
        if key not in self._pages:
            start, end = index * PAGE, min((index + 1) * PAGE, await self.size())
            self._pages[key] = await self._fetch(start, end)
            while len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        self._pages.move_to_end(key)
        return self._pages[key]

    async def _fetch(self, start: int, end: int) -> Buffer:
        stream = None
        try:
            stream = await runtime.openStream(self.url, start, end)
            _check_ranges(self.url, stream.status)
            data = await stream.next(end - start)
        except JsException as error:
            raise unreachable(self.url, error) from error
        finally:
            if stream is not None:
                stream.close()
        if self._buffers.length(data) != end - start:
            raise SourceError(f"{self.url}: the server ended before byte {end}; try again")
        return data


def http_files(urls: Iterable[str], buffers: Buffers) -> list[HttpSource]:
    """The files of one model at their addresses."""
    pages: Pages = OrderedDict()
    return [HttpSource(url, buffers, pages) for url in urls]


class HttpShards:
    """The shards beside a manifest: `url` is the manifest's address, shards lie in its folder."""

    def __init__(self, url: str, block_size: int) -> None:
        self._block_size = block_size
        self._folder = url.split("?")[0].rsplit("/", 1)[0] + "/"

    def where(self, shard: Shard) -> str:
        """Address of a shard."""
        return self._folder + shard.name

    async def blocks(self, shard: Shard, start: int, end: int) -> AsyncGenerator[Buffer, None]:
        """Bytes [start, end) of the shard a block at a time; the last one may be shorter."""
        url, size, stream = self.where(shard), self._block_size, None
        try:
            stream = await runtime.openStream(url, start, end)
            if stream.status not in (200, 206):
                raise refused(url, stream.status)
            for at in range(start, end, size):
                piece = await stream.next(size)
                if piece.length != min(size, end - at):
                    raise SourceError(
                        f"{url}: the server ended at byte {at + piece.length} of {shard.bytes}; "
                        "what came is kept: try again, or get the whole file put there"
                    )
                yield piece
        except JsException as error:
            raise unreachable(url, error) from error
        finally:
            if stream is not None:
                stream.close()


async def fetch_bytes(url: str) -> Buffer:
    """A small file at an address, such as a tokenizer, whole. Raises SourceError."""
    try:
        answer = await runtime.fetchBytes(url)
    except JsException as error:
        raise unreachable(url, error) from error
    if answer.status != 200:
        raise refused(url, answer.status)
    return answer.data


async def fetch_text(url: str) -> str:
    """A small text file at an address, such as a manifest. Raises SourceError."""
    data = bytes((await fetch_bytes(url)).to_bytes())
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{url} is not text in UTF-8: {error.reason}") from error


DISK = "download the file and open it from disk"


def _check_ranges(url: str, status: int) -> None:
    """Nothing but 206 has the bytes that were asked for."""
    if status == 200:
        raise SourceError(f"{url}: the server ignores range requests; {DISK}")
    if status != 206:
        raise refused(url, status)


ADVICE = {  # what to do about a status that brings no bytes
    401: f"it wants a login that the page does not have: {DISK}",
    403: f"it wants a login that the page does not have: {DISK}",
    404: "check the address",
    410: "check the address",
    416: "the file there is shorter than it should be: have it mended, or get it from elsewhere",
}


def refused(url: str, status: int) -> SourceError:
    """The error for a status that brings no bytes."""
    advice = ADVICE.get(status, "try again later")
    return SourceError(f"{url}: the server answered {status}; {advice}")


def unreachable(url: str, error: JsException) -> SourceError:
    """The error for a network that fails. Browsers do not tell a page more than this."""
    return SourceError(
        f"{url} cannot be reached ({error.message}): the server is gone, there is no network, or "
        f"it does not allow other sites to read it (CORS); check the address, or {DISK}"
    )
