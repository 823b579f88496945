"""The torrent of a cut of a model: metainfo, made of verified bytes only.

It is a version 1 torrent whose name is the model's identity. Its files are the shards in their
order, then tokenizer.json where the model has one, then manifest.json; a piece is as long as a
block, so that piece i is block i of the byte space. The byte space need not end with a whole block:
what its last piece lacks is the beginning of the file that follows. SHA-1 is for transport; what a
block should be is said by the manifest.

Nothing else goes into the info dictionary, so that whoever has the same files makes the same
infohash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bencode2 import bdecode, bencode

from doppler.errors import CorruptError, SourceError, UnsupportedError
from doppler.inputs.source import Progress
from doppler.store.digest import blake3_hex
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest

SHA1_BYTES = 20
LEAST_PIECE = 16 << 10  # peers ask for so much at a time


@dataclass(frozen=True)
class TorrentFile:
    """One file below the folder that the torrent names: its length in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Torrent:
    """`pieces`: the SHA-1s of all pieces, one after another, 20 bytes each."""

    identity: str
    piece_length: int
    files: tuple[TorrentFile, ...]
    pieces: bytes

    @cached_property
    def info(self) -> bytes:
        """The info dictionary, whose SHA-1 is the infohash."""
        return bencode(
            {
                "name": self.identity,
                "piece length": self.piece_length,
                "files": [{"length": file.bytes, "path": [file.name]} for file in self.files],
                "pieces": self.pieces,
            }
        )

    @cached_property
    def infohash(self) -> str:
        """40 hexadecimal digits."""
        return hashlib.sha1(self.info).hexdigest()

    def metainfo(self, trackers: Sequence[str] = (), web_seeds: Sequence[str] = ()) -> bytes:
        """A .torrent file. web_seeds: addresses that end in a slash; identity and file follow."""
        told: dict[str, Any] = {"info": bdecode(self.info)}
        if trackers:
            told |= {"announce": trackers[0], "announce-list": [[url] for url in trackers]}
        if web_seeds:
            told["url-list"] = list(web_seeds)
        return bencode(told)


def rendezvous(identity: str) -> str:
    """The infohash under which peers of all cuts of a model find each other, as 40 digits."""
    return hashlib.sha1(f"doppler swarm {identity}".encode()).hexdigest()


def torrent_files(folder: Path, manifest: Manifest) -> tuple[TorrentFile, ...]:
    """The files of a model's torrent in their order. Raises SourceError without its manifest."""
    files = [TorrentFile(shard.name, shard.bytes) for shard in manifest.shards]
    if manifest.tokenizer is not None:
        files.append(TorrentFile(TOKENIZER_FILE, manifest.tokenizer.bytes))
    path = folder / MANIFEST_FILE
    try:
        return (*files, TorrentFile(MANIFEST_FILE, path.stat().st_size))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def make_torrent(folder: Path, manifest: Manifest, progress: Progress | None = None) -> Torrent:
    """Reads a stored model once: each block is held against the manifest, each piece hashed.

    progress: called with bytes done and bytes in all. Raises CorruptError with the name of a block
    that is damaged, SourceError where bytes are missing.
    """
    size = manifest.block_size
    if size < LEAST_PIECE or size.bit_count() != 1:
        raise UnsupportedError(
            f"{manifest.title} has blocks of {size} bytes, and a torrent pieces of a power of two "
            f"from {LEAST_PIECE} on; convert the model again"
        )
    files = torrent_files(folder, manifest)
    pieces, done, total = [], 0, sum(file.bytes for file in files)
    for index, piece in enumerate(_pieces(folder, files, size)):
        _check_block(folder, manifest, index, piece)
        pieces.append(hashlib.sha1(piece).digest())
        done += len(piece)
        if progress is not None:
            progress(done, total)
    _check_tokenizer(folder, manifest)
    return Torrent(manifest.identity, size, files, b"".join(pieces))


def _pieces(folder: Path, files: Sequence[TorrentFile], length: int) -> Iterator[bytes]:
    """All files on end, cut into pieces."""
    piece = bytearray()
    for about in files:
        path, left = folder / about.name, about.bytes
        try:
            with path.open("rb") as file:
                while left and (data := file.read(min(left, length - len(piece)))):
                    left -= len(data)
                    piece += data
                    if len(piece) == length:
                        yield bytes(piece)
                        piece.clear()
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read: {error.strerror}; convert or pull the model again"
            ) from error
        if left:
            raise SourceError(f"{path} is {left} bytes too short; convert or pull the model again")
    if piece:
        yield bytes(piece)


def _check_block(folder: Path, manifest: Manifest, index: int, piece: bytes) -> None:
    start = index * manifest.block_size
    if start >= manifest.bytes:
        return
    if blake3_hex(piece[: manifest.bytes - start]) != manifest.blocks[index]:
        shard = next(it for it in manifest.shards if start < it.offset + it.bytes)
        raise CorruptError(
            f"{folder}: block {index} of {shard.name} is damaged: its BLAKE3 is not the "
            "manifest's; convert or pull the model again"
        )


def _check_tokenizer(folder: Path, manifest: Manifest) -> None:
    if manifest.tokenizer is None:
        return
    path = folder / TOKENIZER_FILE
    if blake3_hex(path.read_bytes()) != manifest.tokenizer.blake3:
        raise CorruptError(
            f"{path} is damaged: its BLAKE3 is not the manifest's; convert or pull the model again"
        )


def kept_torrent(folder: Path, manifest: Manifest, cache: Path) -> Torrent | None:
    """The torrent that `keep_torrent` wrote for this very manifest.json; None without a sound one.

    It was made of verified bytes. Those in the folder may have been damaged since.
    """
    files = torrent_files(folder, manifest)
    try:
        info = bdecode(_kept_path(folder, cache).read_bytes())
        kept = Torrent(manifest.identity, manifest.block_size, files, info[b"pieces"])
        return kept if kept.info == bencode(info) and _is_whole(kept) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):  # BencodeDecodeError is a ValueError
        return None


def keep_torrent(folder: Path, torrent: Torrent, cache: Path) -> None:
    """Writes it for `kept_torrent`, so that a model is hashed once. Raises OSError."""
    cache.mkdir(parents=True, exist_ok=True)
    path = _kept_path(folder, cache)
    half = path.with_suffix(".part")
    half.write_bytes(torrent.info)
    half.replace(path)


def _kept_path(folder: Path, cache: Path) -> Path:
    """A torrent is a function of manifest.json: of its text, and of the blocks that it names."""
    text = (folder / MANIFEST_FILE).read_bytes()
    return cache / f"{hashlib.sha256(text).hexdigest()}.info"


def _is_whole(torrent: Torrent) -> bool:
    total = sum(file.bytes for file in torrent.files)
    return len(torrent.pieces) == SHA1_BYTES * -(-total // torrent.piece_length)
