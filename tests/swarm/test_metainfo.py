"""Torrents of models: what is in them, that others read them so, and that damage makes none."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import libtorrent as lt
import pytest
from bencode2 import bdecode, bencode
from blake3 import blake3

from doppler.command import torrents
from doppler.command.server import Server
from doppler.command.torrents import torrent_of
from doppler.errors import CorruptError, SourceError, UnsupportedError
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, TOKENIZER_FILE, TokenizerInfo
from doppler.swarm.metainfo import keep_torrent, kept_torrent, make_torrent, rendezvous
from storable import Storable, storable

TOKENIZER = b'{"model": {}}' * 1000


def with_tokenizer(folder: Path) -> Storable:
    """The stored noise with a tokenizer.json of 13 KB."""
    noise = storable()
    about = TokenizerInfo(
        bytes=len(TOKENIZER),
        blake3=blake3(TOKENIZER).hexdigest(),
        bos=None,
        eos=(1,),
        add_bos=False,
        chat_template=None,
    )
    noise = replace(noise, manifest=replace(noise.manifest, tokenizer=about))
    noise.save(folder)
    (folder / TOKENIZER_FILE).write_bytes(TOKENIZER)
    return noise


def test_a_piece_is_a_block_and_what_follows_the_last_one(tmp_path: Path) -> None:
    noise = with_tokenizer(tmp_path)
    torrent = make_torrent(tmp_path, noise.manifest)
    names = [shard.name for shard in noise.manifest.shards]
    assert [file.name for file in torrent.files] == [*names, TOKENIZER_FILE, MANIFEST_FILE]
    text = (tmp_path / MANIFEST_FILE).read_bytes()
    whole = noise.data + TOKENIZER + text
    pieces = [whole[at : at + BLOCK_SIZE] for at in range(0, len(whole), BLOCK_SIZE)]
    assert torrent.pieces == b"".join(hashlib.sha1(piece).digest() for piece in pieces)
    assert pieces[5] == noise.block(5)
    assert len(noise.data) % BLOCK_SIZE  # so that this shows something
    assert bdecode(torrent.info).keys() == {b"name", b"piece length", b"files", b"pieces"}


def test_libtorrent_reads_the_same_from_it(tmp_path: Path) -> None:
    noise = with_tokenizer(tmp_path)
    torrent = make_torrent(tmp_path, noise.manifest)
    tracker, seed = "ws://127.0.0.1:8642/tracker", "http://127.0.0.1:8642/seed/"
    read = lt.load_torrent_buffer(torrent.metainfo([tracker], [seed]))
    assert read.ti is not None
    assert str(read.ti.info_hash()) == torrent.infohash
    assert read.ti.name() == noise.manifest.identity
    assert read.ti.piece_length() == BLOCK_SIZE
    assert (read.trackers, read.url_seeds) == ([tracker], [seed])
    layout = read.ti.layout()
    for index, file in enumerate(torrent.files):
        assert layout.file_path(index) == f"{noise.manifest.identity}/{file.name}"
        assert layout.file_size(index) == file.bytes


def test_the_infohash_stays(tmp_path: Path) -> None:
    """That of other versions of Doppler, and of pages, is the same for the same files."""
    storable().save(tmp_path)
    torrent = make_torrent(tmp_path, storable().manifest)
    assert make_torrent(tmp_path, storable().manifest) == torrent
    assert torrent.infohash == hashlib.sha1(torrent.info).hexdigest()
    assert torrent.infohash == "31c236eec69c1f89a7946f47e0f3e01b9634700a"
    assert rendezvous("ab" * 32) == "abb78c2ca811a586f92d90114b694c2d0ea8b753"


def test_damage_makes_no_torrent(tmp_path: Path) -> None:
    noise = with_tokenizer(tmp_path)
    path = tmp_path / "shard-00001.bin"
    path.write_bytes(noise.shard(1)[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"block 7 of shard-00001\.bin"):
        make_torrent(tmp_path, noise.manifest)
    path.write_bytes(noise.shard(1)[:-1])
    with pytest.raises(SourceError, match=r"shard-00001\.bin is 1 bytes too short"):
        make_torrent(tmp_path, noise.manifest)
    path.unlink()
    with pytest.raises(SourceError, match=r"shard-00001\.bin cannot be read"):
        make_torrent(tmp_path, noise.manifest)
    path.write_bytes(noise.shard(1))
    (tmp_path / TOKENIZER_FILE).write_bytes(TOKENIZER[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"tokenizer\.json is damaged"):
        make_torrent(tmp_path, noise.manifest)
    with pytest.raises(UnsupportedError, match="power of two"):
        make_torrent(tmp_path, replace(noise.manifest, block_size=3 << 19))


def test_a_kept_torrent_is_that_of_this_manifest_or_none(tmp_path: Path) -> None:
    folder, cache = tmp_path / "noise", tmp_path / "cache"
    storable().save(folder)
    manifest = storable().manifest
    assert kept_torrent(folder, manifest, cache) is None
    torrent = torrent_of(folder, cache)
    (kept,) = cache.iterdir()
    assert kept_torrent(folder, manifest, cache) == torrent == torrent_of(folder, cache)
    for bad in (b"", b"d", bencode({"pieces": b""}), torrent.info[:-20] + b"e", b"i1e"):
        kept.write_bytes(bad)
        assert kept_torrent(folder, manifest, cache) is None, bad
    keep_torrent(folder, torrent, cache)
    renamed = replace(manifest, title="Another")
    (folder / MANIFEST_FILE).write_text(renamed.to_json())
    assert kept_torrent(folder, renamed, cache) is None
    assert torrent_of(folder, cache).infohash != torrent.infohash


def test_the_server_is_a_web_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found as BEP 19 says; a model that is damaged has no torrent."""
    noise = with_tokenizer(tmp_path / "noise")
    storable(9).save(tmp_path / "bad")
    (tmp_path / "bad" / "shard-00000.bin").write_bytes(bytes(noise.manifest.shards[0].bytes))
    with Server(tmp_path) as server:
        base, identity = f"{server.url}seed/", noise.manifest.identity
        with urllib.request.urlopen(f"{base}{identity}.torrent") as answer:
            told = bdecode(answer.read())
            assert answer.headers["Content-Type"] == "application/x-bittorrent"
        assert told[b"url-list"] == [base.encode()]
        assert told[b"announce"] == server.tracker.encode()
        torrent = make_torrent(tmp_path / "noise", noise.manifest)
        assert bencode(told[b"info"]) == torrent.info
        for file in torrent.files:
            asked = urllib.request.Request(
                f"{base}{identity}/{file.name}", headers={"Range": "bytes=5-14"}
            )
            with urllib.request.urlopen(asked) as answer:
                own = (tmp_path / "noise" / file.name).read_bytes()
                assert (answer.status, answer.read()) == (206, own[5:15])
        for path in (
            f"{identity}/none.bin",
            f"{identity}/..%2f..%2fx",
            f"{'0' * 64}.torrent",
            f"{storable(9).manifest.identity}.torrent",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(base + path)
        # Another title is another manifest.json, and so another torrent of the same model.
        renamed = replace(noise.manifest, title="Another")
        (tmp_path / "noise" / MANIFEST_FILE).write_text(renamed.to_json())
        monkeypatch.setattr(torrents, "FRESH", 0)
        with urllib.request.urlopen(f"{base}{identity}.torrent") as answer:
            assert bdecode(answer.read())[b"info"] != told[b"info"]
        with urllib.request.urlopen(f"{server.url}models.json") as answer:
            tracker = json.loads(answer.read())["tracker"]
    identities = {identity, storable(9).manifest.identity}
    assert set(tracker.pop("models")) == identities
    assert tracker == {"path": "/tracker", "all": False, "others": []}
