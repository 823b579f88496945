"""What the api needs of the place that it runs in: page/host.py has it in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from doppler.api.asked import Asked
from doppler.api.inspection import Candidate
from doppler.api.messages import (
    DamagedModel,
    Emit,
    FilesTaken,
    ProgressEvent,
    StorageUse,
    StoredModel,
)
from doppler.engine.segments import SegmentFolder
from doppler.gpu.kernels import Device
from doppler.plan.matvec_configs import Cut, Cuts
from doppler.store.shards import ShardStore
from doppler.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Amount:
    """How much of a model may be stored, in bytes of weights, and in shards of how many bytes.

    budget: None is all; of a model that is larger, none are stored yet. shard_bytes: None is the
    cut in which it is stored, or comes.
    """

    budget: int | None
    shard_bytes: int | None

    def of(self, whole: int) -> int:
        """Bytes of a model that may be stored."""
        return whole if self.budget is None else min(self.budget, whole)


class Stored(Protocol):
    """A stored model."""

    @property
    def store(self) -> ShardStore:
        """Its weights, which can be read for as long as the model is stored."""

    async def tokenizer(self) -> Tokenizer | None:
        """The verified tokenizer; None where the model has none."""


class Library(Protocol):
    """Stored models, by identity: what is stored, gets stored, and goes."""

    async def usage(self) -> StorageUse:
        """Bytes that may be used and that are used."""

    async def models(self) -> list[StoredModel | DamagedModel]:
        """Every stored model, whole or not."""

    async def delete(self, identity: str) -> None:
        """Removes a model."""

    async def download(
        self, url: str, wanted: str | None, amount: Amount, emit: Emit[ProgressEvent]
    ) -> str:
        """Makes the model of a manifest's address whole, or where it is larger than a budget of
        storage, ready to be loaded; its identity.
        """

    async def download_from_peers(
        self, identity: str, amount: Amount, emit: Emit[ProgressEvent]
    ) -> str:
        """The same for a model that the page shares, from its peers; its identity."""

    async def give_files(
        self, identity: str, files: Sequence[Any], emit: Emit[ProgressEvent]
    ) -> FilesTaken:
        """Stores what shard files of a stored model have that it lacks."""

    async def inspect(self, asked: Asked) -> tuple[list[Candidate], int]:
        """A model that is stored or could be, and bytes that are free. Raises SeveralModels."""

    async def import_given(self, asked: Asked, emit: Emit[ProgressEvent]) -> str:
        """Converts the model of an address or of files; its identity."""

    def open(self, identity: str, budget: int | None = None) -> AbstractAsyncContextManager[Stored]:
        """A stored model, whose files are let go at the end: what reads the store later opens them
        again. budget: bytes of weights that may be stored of it from now on. Raises SourceError
        where there is none.
        """

    async def write_scratch(self, name: str, rows: AsyncIterator[npt.NDArray[np.float32]]) -> str:
        """Writes float32 rows into a file that can be fetched; its name."""


class Kept(Protocol):
    """Keys and values of conversations with models; anything of it may be gone at any time."""

    async def size(self, identity: str, conversation: str) -> int:
        """Bytes that are kept of it."""

    def open(self, identity: str, conversation: str) -> AbstractAsyncContextManager[SegmentFolder]:
        """What is kept of it, to read and to write."""

    async def most(self) -> int:
        """Bytes that may be kept."""

    async def make_room(self, identity: str, conversation: str) -> None:
        """After something was kept of this one, or failed to be: others go where it is too much."""

    async def forget(self, conversation: str) -> None:
        """Nothing is kept of a conversation any more."""

    async def drop(self, identity: str) -> None:
        """Nothing is kept of conversations with that model any more."""


class KeptCuts(Protocol):
    """The matvec cuts that were measured on one device with one set of kernels."""

    async def read(self) -> dict[str, Cut]:
        """What is kept; nothing where nothing can be read."""

    async def write(self, cuts: Cuts) -> None:
        """Keeps them all, if there is room."""


class Stops(Protocol):
    """Stops that were asked for while nobody could hear."""

    def hear(self) -> None:
        """What was asked for until now is no news."""

    def pending(self) -> bool:
        """Whether one was asked for since."""


class Host(Protocol):
    """All of it."""

    @property
    def library(self) -> Library: ...

    @property
    def stops(self) -> Stops: ...

    @property
    def kept(self) -> Kept: ...

    def kept_cuts(self, device: Device) -> KeptCuts:
        """Those of this device."""

    async def load_numpy(self) -> None:
        """Makes NumPy there to be imported. Raises SourceError."""
