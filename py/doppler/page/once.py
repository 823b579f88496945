"""One after another: what two tabs, or two calls in one, would otherwise store twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import doppler_runtime as runtime

from doppler.api.messages import Emit, ProgressEvent

if TYPE_CHECKING:
    from doppler.convert.outline import Outline
    from doppler.page.input import Given

WAITING: ProgressEvent = {
    "type": "progress",
    "stage": "waiting",
    "done": 0,
    "total": 1,
    "rate": 0,
}


@asynccontextmanager
async def turn(name: str, emit: Emit[ProgressEvent]) -> AsyncIterator[bool]:
    """What only one at a time may do, in all tabs; yields whether somebody else did it before.

    Where that one fails or its tab is closed, it is the next one's turn.
    """
    mine = runtime.turn(name)
    try:
        waited = not await mine.takeNow()
        if waited:
            emit(WAITING)
            await mine.take()
        yield waited
    finally:
        mine.leave()


@dataclass(frozen=True)
class Making:
    """What tells one import from another before any weight is read.

    is_sure: whether equal keys mean equal models at any time, since every file told its version.
    Of two that run at once they do in any case.
    """

    key: str
    is_sure: bool

    @classmethod
    async def of(cls, outline: Outline, given: Given) -> Making:
        versions = await given.versions()
        manifest, vocabulary = outline.manifest.to_json(), outline.vocabulary
        digest = hashlib.sha256(json.dumps([manifest, given.folder, versions]).encode())
        if vocabulary is not None:
            digest.update(vocabulary.json)
            digest.update(repr(replace(vocabulary, json=b"")).encode())
        return cls(digest.hexdigest(), all(version for *_, version in versions))
