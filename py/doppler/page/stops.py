"""Stops that the page has asked for while the worker was too busy to hear."""

from __future__ import annotations

import doppler_runtime as runtime


class SharedStops:
    """Compares how often the page has asked with how often `cancel` was called for it."""

    def __init__(self) -> None:
        self._heard = 0

    def hear(self) -> None:
        """A call of `cancel` has come: what was asked for until now is no news."""
        self._heard = runtime.stopsAsked()

    def pending(self) -> bool:
        """Whether one was asked for whose call is still on its way."""
        return bool(runtime.stopsAsked() != self._heard)
