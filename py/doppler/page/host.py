"""The browser, as the api's host."""

from __future__ import annotations

import doppler_runtime as runtime
from pyodide.ffi import JsException

from doppler.errors import SourceError
from doppler.gpu.kernels import Device
from doppler.page.kept import OpfsKept
from doppler.page.library import OpfsLibrary
from doppler.page.stops import SharedStops
from doppler.page.tuned import OpfsCuts


class PageHost:
    """What lies in this browser's storage for this site, and what its page asks for."""

    def __init__(self) -> None:
        self.library, self.stops = OpfsLibrary(load_numpy), SharedStops()
        self.kept = OpfsKept()

    def kept_cuts(self, device: Device) -> OpfsCuts:
        return OpfsCuts(device.gpu, device.kernels.digest())

    async def load_numpy(self) -> None:
        await load_numpy()


async def load_numpy() -> None:
    """Raises SourceError where it cannot be had."""
    try:
        await runtime.loadNumpy()
    except JsException as error:
        raise SourceError(str(error.message)) from error
