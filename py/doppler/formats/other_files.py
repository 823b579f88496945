"""What a file is that was taken for a GGUF file, as far as its first bytes tell."""

from __future__ import annotations

from doppler.inputs.fields import shown

_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file that it stands for",
    b"<": "a web page: take the address of the file itself",
    b"PK\x03\x04": "a ZIP archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
}


def what_it_is(name: str, first: bytes, size: int) -> str:
    """What to say of a file of `size` bytes that begins with `first`."""
    if size < 24:
        return f"{name} is not a GGUF file: it has only {size} bytes"
    kind = next((text for start, text in _KINDS.items() if first.lstrip().startswith(start)), None)
    if kind is None:
        kind = "text" if _is_text(first) else "of some other kind"
    return (
        f"{name} is not a GGUF file: it begins with {shown(first[:24], 100)}, not with b'GGUF'. "
        f"It looks like {kind}; choose a .gguf file"
    )


def _is_text(data: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in data)
