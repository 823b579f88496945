"""The page's transport, as the exchange hears it and speaks to it."""

from __future__ import annotations

import json
from typing import Any

import doppler_runtime as runtime
from pyodide.ffi import create_proxy

from doppler.inputs.buffers import Buffer
from doppler.page.buffers import PageBuffers
from doppler.swarm_exchange.exchange import Exchange
from doppler.swarm_exchange.shared_model import Shelf


def listening(shelf: Shelf) -> Exchange:
    """The exchange, from now on at the port's end; its models lie on that shelf."""
    exchange = Exchange(shelf, _tell, PageBuffers())

    def hear(message: str, data: Buffer | None) -> None:
        exchange.hear(json.loads(message), data)

    runtime.hearPeers(create_proxy(hear))
    return exchange


def _tell(message: dict[str, Any], name: str | None, data: Buffer | None) -> None:
    runtime.tellPeers(json.dumps(message), name, data)
