"""Which model a call is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doppler.errors import RequestError
from doppler.quantization.block_types import Quant


@dataclass(frozen=True)
class Asked:
    """Which model is meant: a stored one by its id, one at an address, or one of files.

    `folder` is the name of the folder that the files are; `name` what to call the model; `quant`
    what its floats become.
    """

    id: str | None = None
    url: str | None = None
    files: Sequence[Any] = ()
    folder: str | None = None
    name: str | None = None
    quant: Quant = "none"

    @classmethod
    def of(cls, args: Mapping[str, Any], files: Any) -> Asked:
        """What a call names, `files` being a JavaScript array or None. Raises RequestError."""
        if sum(map(bool, (args.get("id"), args.get("url"), files))) != 1:
            raise RequestError(
                "say which model: its address as url, or a list of Files as fourth argument"
            )
        names = {key: args.get(key) for key in ("id", "url", "folder", "name")}
        return cls(**names, files=files or (), quant=args.get("quant") or "none")

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for what was given before and has not changed since."""
        files = [(file.name, file.size, file.lastModified) for file in self.files]
        return self.url, tuple(files), self.folder
