"""What the api needs of the place that it runs in: page/host.py has it in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from doppler.api.asked import Asked
from doppler.api.inspection import Candidate
from doppler.api.messages import DamagedModel, Emit, ProgressEvent, StorageUse, StoredModel
from doppler.engine.segments import SegmentFolder
from doppler.gpu.kernels import Device
from doppler.plan.matvec_configs import Cut, Cuts
from doppler.store.shards import ShardStore
from doppler.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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

    async def download(self, url: str, wanted: str | None, emit: Emit[ProgressEvent]) -> str:
        """Makes the model of a manifest's address whole; its identity."""

    async def inspect(self, asked: Asked) -> tuple[list[Candidate], int]:
        """A model that is stored or could be, and bytes that are free. Raises SeveralModels."""

    async def import_given(self, asked: Asked, emit: Emit[ProgressEvent]) -> str:
        """Converts the model of an address or of files; its identity."""

    def open(self, identity: str) -> AbstractAsyncContextManager[Stored]:
        """A stored model, whose files are let go at the end: what reads the store later opens them
        again. Raises SourceError where there is none.
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
