"""Who made an adapter: Ed25519 keys, signatures over an identity, and versions that only go up.

A signature is of the 32 bytes of the identity. Keys are 32 bytes and signatures 64, as WebCrypto
has them. `cryptography` is on CPython alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from doppler.adapters.manifest import AdapterManifest, Signature
from doppler.errors import CorruptError, FormatError, RequestError, SourceError, StorageError
from doppler.inputs.fields import shown

Line = tuple[str, str]  # the author's key and the adapter's name: versions of one another

_FILE = re.compile(r"doppler-ed25519-private ([0-9a-f]{64})\n?")
_LONGEST_FILE = 1000


def write_new_key(path: Path) -> str:
    """Makes a key, which only this user can read; returns its public half.

    Raises StorageError where a file is there already: a key that is lost cannot be made again.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    text = f"doppler-ed25519-private {key.private_bytes_raw().hex()}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        except OSError:
            path.unlink()  # half a key would be in the way of a whole one
            raise
    except FileExistsError as error:
        raise StorageError(
            f"{path} is there already, and a key is never written over: give another name"
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    return key.public_key().public_bytes_raw().hex()


def signed(manifest: AdapterManifest, key_file: Path) -> AdapterManifest:
    """The same with the signature of a key that write_new_key wrote."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(_private(key_file))
    author = key.public_key().public_bytes_raw().hex()
    signature = key.sign(bytes.fromhex(manifest.identity)).hex()
    return replace(manifest, signed=Signature(author, signature))


def _private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            text = file.read(_LONGEST_FILE).decode("ascii", "replace")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    match = _FILE.fullmatch(text)
    if match is None:
        raise FormatError(f"{path} is no key's file; doppler adapter key -o FILE makes one")
    # As ssh does: not of a file of somebody else, who may have given it to this user to read.
    if os.name == "posix" and about.st_uid == os.getuid() and about.st_mode & 0o077:
        raise RequestError(
            f"{path} has mode {about.st_mode & 0o777:o}, so that others than you may use the key: "
            f"chmod 600 {path}, or make a new one if somebody may have read it"
        )
    return bytes.fromhex(match[1])


def check_signature(manifest: AdapterManifest, where: str) -> None:
    """CorruptError for a signature that its author's key did not make; none is none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if manifest.signed is None:
        return
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(manifest.signed.author))
        key.verify(bytes.fromhex(manifest.signed.signature), bytes.fromhex(manifest.identity))
    except (InvalidSignature, ValueError) as error:
        raise CorruptError(
            f"{where}: the signature is not that of {manifest.signed.author} over this adapter; "
            "it was signed anew or changed by somebody else: get it again from its author"
        ) from error


def check_author(manifest: AdapterManifest, author: str, where: str) -> None:
    """Raises RequestError for an adapter that nobody signed, or another than `author`."""
    if manifest.signed is None:
        raise RequestError(f"{where} is not signed, and a signature of {author} is asked for")
    if manifest.signed.author != author:
        raise RequestError(
            f"{where} is signed by {manifest.signed.author}, and a signature of {author} is asked "
            "for"
        )


def check_version(manifest: AdapterManifest, known: Mapping[Line, int], where: str) -> None:
    """RequestError for an older version than one that is known of the same author and name.

    `known` has the newest of each line. Without a signature there is no line: anybody can take a
    name.
    """
    line = line_of(manifest)
    newest = known.get(line, 0) if line is not None else 0
    if manifest.terms.version < newest:
        raise RequestError(
            f"{where} is version {manifest.terms.version} of {shown(manifest.name)}, of which "
            f"version {newest} is known here; an older one is not taken again"
        )


def line_of(manifest: AdapterManifest) -> Line | None:
    """Whose versions follow one another; None for what nobody signed."""
    return None if manifest.signed is None else (manifest.signed.author, manifest.name)
