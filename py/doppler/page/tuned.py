"""What engine/autotune.py found on this device, kept in the browser's storage."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import doppler_runtime as runtime

from doppler.errors import DopplerError
from doppler.gpu.device import Gpu
from doppler.inputs.fields import parse_json
from doppler.page.buffers import PageBuffers
from doppler.page.opfs import OpfsRoot, explained
from doppler.plan.matvec_configs import Cut, Cuts

MOST_BYTES = 1 << 20


class OpfsCuts:
    """The cuts of one device with one set of kernels: others find a file of their own."""

    def __init__(self, gpu: Gpu, kernels: str) -> None:
        about = json.dumps([gpu.info, sorted(gpu.features), kernels])
        self._file = hashlib.sha256(about.encode()).hexdigest()[:16] + ".json"

    async def read(self) -> dict[str, Cut]:
        """What is kept; nothing where there is none, or none that can be read."""
        try:
            with explained(self._file):
                data = await runtime.readSmall("tuning", self._file, MOST_BYTES)
            if data is None:
                return {}
            cuts = parse_json(bytes(data.to_bytes()), self._file)
            return {str(kind): Cut.checked(*cut) for kind, cut in cuts.items()}
        except Exception:
            return {}  # whatever was kept, it is measured again

    async def write(self, cuts: Cuts) -> None:
        """Keeps them all, if there is room; without, the next visit measures again."""
        with suppress(DopplerError):
            storage = await OpfsRoot().tuning()
            try:
                data = PageBuffers().from_bytes(json.dumps(cuts).encode())
                await storage.truncate(self._file, 0)
                await storage.write(self._file, 0, data)
                await storage.flush(self._file)
            finally:
                await storage.close()
