"""What a person gives the page as one model: files, a folder, or the address of either."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from doppler.errors import FormatError, SourceError
from doppler.formats.parts import part_names
from doppler.inputs.answers import changed, refused
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.fields import Fields, parse_json
from doppler.inputs.small import read_small
from doppler.inputs.source import Source
from doppler.page.addresses import (
    file_name,
    folder_name,
    in_folder,
    is_gguf,
    is_in_checkpoint,
    is_page_of_hub,
    resolved,
)
from doppler.page.http import PAGE, BlobSource, HttpSource, fetch_small, http_files, is_there
from doppler.page.hub import model_at
from doppler.quantization.block_types import QUANTS, Quant

if TYPE_CHECKING:
    from doppler.convert.outline import Outline

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
OPTIONAL = (
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
ABSENT = (403, 404, 410)  # 403: what stores answer that do not tell what they have


class Versioned(Source, Protocol):
    """A file of which it can be told, as a rule, whether it is what it was."""

    @property
    def version(self) -> str:
        """Another for another content; empty where nothing tells."""
        ...


@dataclass(frozen=True)
class Given:
    """Files by name. `folder` is the name of the folder that they are; None for files alone.

    small: BLAKE3 of the small files that were asked for, by address; None where there was none.
    """

    files: Mapping[str, Versioned]
    folder: str | None
    small: Mapping[str, str | None] = field(default_factory=dict)

    async def outlines(self, buffers: Buffers) -> dict[Quant, Outline]:
        """The model that the files are, called like them, for each of QUANTS that it can be had in.

        NumPy must have been loaded.
        """
        from doppler.convert.convert import gguf_among, model_name
        from doppler.convert.outline import outline_gguf, outline_safetensors

        parts: list[Source] = list(self.files.values())
        if self.folder is not None or self._has_checkpoint:
            parts = gguf_among(self.files, self.folder or "what was chosen")
        if parts:
            return {"none": await outline_gguf(parts, buffers, model_name(parts[0].name))}
        title = self.folder or "model"
        outlines = await outline_safetensors(self.files, buffers, model_name(title), QUANTS)
        return {
            quant: replace(outline, manifest=replace(outline.manifest, title=title))
            for quant, outline in outlines.items()
        }

    async def versions(self) -> list[tuple[str, int, str]]:
        """Name or address, size and version of every file."""
        files = sorted(self.files.items())
        return [(name, await file.size(), file.version) for name, file in files]

    async def begin(self, buffers: Buffers) -> None:
        """To be called before weights are read: from now on few large requests are made.

        Raises SourceError where a small file is no longer what it was. Large ones see to that
        themselves, so that all of the model is as it was at this moment.
        """
        for file in self.files.values():
            if isinstance(file, HttpSource):
                file.request = PAGE
        await asyncio.gather(*(self._check(url, buffers) for url in self.small))

    async def _check(self, url: str, buffers: Buffers) -> None:
        file = await _small(url, buffers)
        if _version(file) != self.small[url]:
            raise changed(url)

    @property
    def _has_checkpoint(self) -> bool:
        return any(name == CONFIG or name.endswith(".safetensors") for name in self.files)


def picked(files: Sequence[Any], folder: str | None) -> Given:
    """JavaScript Files that were picked or dropped: those of a folder, or some alone."""
    return Given({file.name: BlobSource(file) for file in files}, folder)


async def fetched(url: str, buffers: Buffers) -> Given:
    """What lies at an absolute address: a .gguf with its other parts, or a checkpoint's folder.

    Of a hub's repository that is its one model. Raises SourceError where nothing is there, and
    SeveralModels where one has to be chosen.
    """
    url = (is_page_of_hub(url) and await model_at(url)) or resolved(url)
    if not is_gguf(url):
        config = await _small(in_folder(url, CONFIG), buffers)
        if config is None and (found := await model_at(url)):
            return await fetched(found, buffers)
        if config is not None:
            return await _folder(url, config, buffers)
        if is_in_checkpoint(url):
            raise SourceError(
                f"{in_folder(url, CONFIG)} is not there; check the address: it must be that of a "
                ".gguf file, or of a folder with config.json and .safetensors"
            )
    path, mark, query = url.partition("?")
    above, slash, name = path.rpartition("/")
    addresses = [f"{above}{slash}{part}{mark}{query}" for part in part_names(name)]
    return Given({file.url: file for file in http_files(addresses, buffers)}, None)


async def _folder(url: str, config: _Fetched, buffers: Buffers) -> Given:
    """The files of a checkpoint's folder: small ones are fetched, weights are read as asked."""
    others = await asyncio.gather(*(_small(in_folder(url, name), buffers) for name in OPTIONAL))
    found = {CONFIG: config, **dict(zip(OPTIONAL, others, strict=True))}
    files: dict[str, Versioned] = {name: file for name, file in found.items() if file is not None}
    names = [SINGLE]
    if INDEX in files and not await is_there(in_folder(url, SINGLE)):
        index = files[INDEX]
        names = _named(await read_small(index, INDEX, buffers))
    weights = http_files([in_folder(url, name) for name in names], buffers)
    files |= dict(zip(names, weights, strict=True))
    small = {in_folder(url, name): _version(file) for name, file in found.items()}
    return Given(files, folder_name(url), small)


def _named(index: bytes) -> list[str]:
    """The files of its own folder that an index names; what is wrong with it is told later."""
    try:
        places = Fields(parse_json(index, INDEX), INDEX).table("weight_map")
        names = {places.text(tensor) for tensor in places}
    except FormatError:
        return []
    return [name for name in sorted(names) if "/" not in name]


class _Fetched:
    """A small file, whole."""

    def __init__(self, name: str, data: Buffer, buffers: Buffers) -> None:
        self.name, self._data, self._buffers = name, data, buffers
        self.version = buffers.blake3(data)

    async def size(self) -> int:
        return self._buffers.length(self._data)

    async def read(self, offset: int, length: int) -> Buffer:
        if offset + length > await self.size():
            raise SourceError(f"{self.name} is cut short: get it again")
        return self._buffers.part(self._data, offset, offset + length)


async def _small(url: str, buffers: Buffers) -> _Fetched | None:
    """A small file at an address; None where there is none."""
    answer, data = await fetch_small(url, file_name(url))
    if answer.status in ABSENT:
        return None
    if data is None:
        raise refused(url, answer.status)
    return _Fetched(url, data, buffers)


def _version(file: _Fetched | None) -> str | None:
    return None if file is None else file.version
