"""A stored model that is used: its shards, its tokenizer, and where they can be had again."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urljoin

import doppler_runtime as runtime
from pyodide.ffi import JsException

from doppler.errors import CorruptError, FormatError
from doppler.inputs.buffers import Buffer
from doppler.page.http import fetch_bytes
from doppler.page.tokenizer import PageEncoding
from doppler.store.manifest import TOKENIZER_FILE, TokenizerInfo
from doppler.store.shards import ShardStore
from doppler.text.templates import open_template
from doppler.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class OpfsModel:
    """Its shards, and the address of the manifest that it came from."""

    store: ShardStore
    url: str | None

    async def tokenizer(self) -> Tokenizer | None:
        """The verified tokenizer, fetched again if it is damaged; None where the model has none."""
        info = self.store.manifest.tokenizer
        if info is None:
            return None
        data = await self.tokenizer_bytes(info)
        try:
            encoding = PageEncoding(await runtime.openTokenizer(data))
        except JsException as error:
            raise FormatError(
                f"{self.store.manifest.title}: its tokenizer cannot be used: {error.message}"
            ) from error
        return Tokenizer(encoding, info, *open_template(info.chat_template))

    async def tokenizer_bytes(self, info: TokenizerInfo) -> Buffer:
        """tokenizer.json, verified; fetched again where it is missing or damaged."""
        if await self.store.storage.size(TOKENIZER_FILE) == info.bytes:
            data = await self.store.storage.read(TOKENIZER_FILE, 0, info.bytes)
            if self.store.buffers.blake3(data) == info.blake3:
                return data
        return await self._fetch_tokenizer(info)

    async def _fetch_tokenizer(self, info: TokenizerInfo) -> Buffer:
        """Gets tokenizer.json from where the model came from, verifies it and stores it."""
        if self.url is None:
            raise CorruptError(
                f"{TOKENIZER_FILE} of {self.store.manifest.title} is damaged where it is stored, "
                "and there is no address to get it from again; delete the model and import it again"
            )
        url = urljoin(self.url, TOKENIZER_FILE)
        data = await fetch_bytes(url, TOKENIZER_FILE)
        digest = self.store.buffers.blake3(data)
        if digest != info.blake3:
            raise CorruptError(
                f"{url}: its BLAKE3 is not the manifest's; the file there is "
                "damaged: have it mended, or get the model from elsewhere"
            )
        await self.store.storage.truncate(TOKENIZER_FILE, 0)
        await self.store.storage.write(TOKENIZER_FILE, 0, data)
        await self.store.storage.flush(TOKENIZER_FILE)
        return data
