"""The sources that decide what a KV cache holds, where it lies, and what a file of it says."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, cast

from doppler.config import layer, mixers, model, rope
from doppler.engine import checkpoints, memory, planes, prefix_cache, segments
from doppler.plan import bindings, recurrent
from doppler.plan import cache as cache_types

if TYPE_CHECKING:
    from importlib.abc import InspectLoader

OF_MODELS = (layer, mixers, model, rope, bindings, recurrent, cache_types)
OF_CACHES = (checkpoints, memory, planes, prefix_cache, segments)


@cache
def code_digest() -> str:
    """SHA-256 of all of them: what other code kept is not read as if this had."""
    digest = hashlib.sha256()
    for module in (*OF_MODELS, *OF_CACHES):
        loader = cast("InspectLoader", module.__loader__)  # of a folder; in the page, of a wheel
        source = loader.get_source(module.__name__)
        assert source is not None, f"{module.__name__} has no source"
        digest.update(hashlib.sha256(source.encode()).digest())
    return digest.hexdigest()
