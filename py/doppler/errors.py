"""The errors that Doppler raises, and what each asks of the person who reads it.

    DopplerError
    ├── FormatError       a file, manifest or config is not what it claims to be
    ├── UnsupportedError  it is well formed, but of a kind that Doppler does not know
    ├── CorruptError      bytes are there, and their hash is wrong
    ├── SourceError       a file or address cannot be read: absent, refused, gone
    ├── StorageError      the browser's or the disk's storage is full, locked or missing
    ├── DeviceError       no WebGPU, an adapter that is too small, a device lost, a kernel refused
    └── RequestError      what the caller asked for cannot be done: arguments, lengths, state
        └── ContextError  it has more tokens than the model's context holds

A message says what was wrong, where (file, tensor, shard, layer) and what to do about it.
Corrupt is never reported as absent. Mistakes of our own are asserts, not errors.
"""

_LONGEST = 1500  # characters of a message; what may be long in one is cut where it is put in


class DopplerError(Exception):
    """Base of every error that is meant for a person; ``str(error)`` is the message.

    It is one line of printable text, whatever a file's name or a stranger's text has put into it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    if not message.isprintable():
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message[: 2 * _LONGEST])
    return message if len(message) <= _LONGEST else message[:_LONGEST] + "…"


class FormatError(DopplerError):
    """A file, manifest or config is not what it claims to be."""


class UnsupportedError(DopplerError):
    """Well formed, but of a kind (architecture, block type, version) that Doppler does not know."""


class CorruptError(DopplerError):
    """Bytes are there and their hash is wrong."""


class SourceError(DopplerError):
    """A file or address cannot be read."""


class StorageError(DopplerError):
    """Storage is full, locked or missing."""


class DeviceError(DopplerError):
    """No WebGPU, an adapter that is too small, a device lost, or a kernel that it refused."""


class RequestError(DopplerError):
    """What the caller asked for cannot be done."""


class ContextError(RequestError):
    """A prompt has more tokens than the context holds."""
