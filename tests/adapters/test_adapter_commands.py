"""`doppler adapter`: make, key, verify and show; and each reason not to trust an adapter."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_files import random_pair, write_peft
from checkpoint_files import write_checkpoint
from doppler.adapters.manifest import ADAPTER_FILE, AdapterManifest, Signature, Terms
from doppler.adapters.signing import check_version
from doppler.cli import main
from doppler.errors import RequestError
from expert_files import converted

HIDDEN, RANK, ALPHA = 96, 4, 8
LAYER = "model.layers.0."
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "mlp.down_proj": (HIDDEN, 80),
}
Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command's result as JSON; of one that fails, what it says."""

    def call(*words: object) -> Any:
        code = main(["adapter", *map(str, words), "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (code == 0) == ("error" not in told)
        return told if code == 0 else told["error"]["message"]

    return call


@pytest.fixture
def base(tmp_path: Path) -> Path:
    converted(write_checkpoint(tmp_path / "checkpoint", 64), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def peft(tmp_path: Path) -> Path:
    pairs = {LAYER + it: random_pair(shape, RANK, 3) for it, shape in MODULES.items()}
    return write_peft(tmp_path / "peft", pairs, alora_invocation_tokens=[7, 8])


@pytest.fixture
def made(run: Run, tmp_path: Path, base: Path, peft: Path) -> Path:
    """A signed one."""
    run("key", "-o", tmp_path / "key")
    words = ("--name", "pirate", "--version", 3, "--note", "Says arr.", "--license", "MIT")
    run("make", peft, "--base", base, "-o", tmp_path / "made", "--key", tmp_path / "key", *words)
    return tmp_path / "made"


def stored(folder: Path) -> AdapterManifest:
    return AdapterManifest.from_json((folder / ADAPTER_FILE).read_text(), "x")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes adapter.json, whatever that makes of it."""
    data = json.loads((folder / ADAPTER_FILE).read_text())
    change(data)
    (folder / ADAPTER_FILE).write_text(json.dumps(data))


def test_what_is_made_is_shown_and_verified(
    run: Run, made: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run("show", made)
    pairs = {it: random_pair(shape, RANK, 3) for it, shape in MODULES.items()}
    norms = [np.linalg.norm(ALPHA / RANK * (b @ a)) for a, b in pairs.values()]
    assert [it["name"] for it in told["deltas"]] == [
        *("blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"),
    ]
    np.testing.assert_allclose([it["norm"] for it in told["deltas"]], norms, rtol=1e-5)
    (layer,) = told["layers"]
    np.testing.assert_allclose(layer["norm"], np.linalg.norm(norms), rtol=1e-5)
    wanted = {"name": "pirate", "version": 3, "note": "Says arr.", "license": "MIT"}
    wanted |= {"ranks": [RANK], "modules": ["attn_q", "attn_v", "ffn_down"], "matrices": 3}
    wanted |= {"invocation_tokens": [7, 8], "id": stored(made).identity}
    assert {key: told[key] for key in wanted} == wanted
    author = told["author"]
    assert run("verify", made, "--base", base, "--key-hex", author.upper())["author"] == author
    assert main(["adapter", "show", str(made)]) == 0
    text = capsys.readouterr().out
    for words in (
        f"signed by {author}",
        "licence: MIT",
        "  Says arr.",
        "from these tokens on: 7, 8",
    ):
        assert words in text


def test_a_key_is_for_its_owner_and_never_written_over(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = run("key", "-o", path)
    assert len(first["author"]) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert first["author"] not in text
    assert "is there already, and a key is never written over" in run("key", "-o", path)
    assert path.read_text() == text


def test_the_identity_covers_what_a_person_judges_by(made: Path) -> None:
    one = stored(made)
    first = one.deltas[0]
    others = [
        *(
            replace(one, terms=replace(one.terms, **{key: value}))
            for key, value in (
                ("name", "x"),
                ("version", 4),
                ("note", "y"),
                ("license", None),
            )
        ),
        replace(one, base="0" * 64),
        replace(one, invocation_tokens=None),
        replace(one, invocation_tokens=(7, 9)),
        replace(one, deltas=(replace(first, scale=2.5), *one.deltas[1:])),
        replace(one, deltas=(replace(first, name="blk.0.attn_k.weight"), *one.deltas[1:])),
        replace(one, blocks=("0" * 64,)),
    ]
    identities = {it.identity for it in (one, *others)}
    assert len(identities) == len(others) + 1
    assert replace(one, signed=None).identity == one.identity  # who signs it makes no other


def test_a_flipped_byte(run: Run, made: Path) -> None:
    shard = made / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    assert "block 0 of shard-00000.bin (bytes 0 to " in run("verify", made)
    assert "is damaged: its BLAKE3 is not the manifest's; get the adapter again" in run(
        "show", made
    )
    shard.write_bytes(data[:-1])
    assert "bytes instead of" in run("verify", made)
    shard.unlink()
    assert "shard-00000.bin is missing; get the adapter again" in run("verify", made)


def test_a_wrong_base(run: Run, made: Path, tmp_path: Path) -> None:
    converted(write_checkpoint(tmp_path / "other-checkpoint", 65), tmp_path / "other")
    told = run("verify", made, "--base", tmp_path / "other")
    assert "is an adapter of the model " in told
    assert "its matrices have the same shapes and other numbers" in told
    converted(write_checkpoint(tmp_path / "wide-checkpoint", 64, 128), tmp_path / "wide")
    told = run("verify", made, "--base", tmp_path / "wide")
    assert "'blk.0.attn_q.weight' of shape (96, 96); the base has it as (128, 128)" in told


def test_signatures(run: Run, made: Path, base: Path, peft: Path, tmp_path: Path) -> None:
    author = run("show", made)["author"]
    assert "a signature of 0000" in run("verify", made, "--key-hex", "0" * 64)

    def flip(data: dict[str, Any]) -> None:
        first = data["signature"][0]
        data["signature"] = ("1" if first == "0" else "0") + data["signature"][1:]

    edit(made, flip)
    assert f"the signature is not that of {author} over this adapter" in run("verify", made)
    edit(made, lambda data: data.update(author="1" * 64))
    assert "the signature is not that of 1111" in run("show", made)
    edit(made, lambda data: data.update(signature="12"))
    assert "none of 128 hexadecimal digits" in run("show", made)
    edit(made, lambda data: data.update(signature=None))
    assert "signature is missing" in run("show", made)
    edit(made, lambda data: data.update(author=None))
    assert run("verify", made)["author"] is None
    told = run("verify", made, "--key-hex", author)
    assert f"is not signed, and a signature of {author} is asked for" in told
    (tmp_path / "no-key").write_text("x")
    words = ("--base", base, "-o", tmp_path / "second", "--key", tmp_path / "no-key")
    assert "is no key's file" in run("make", peft, *words)
    assert not (tmp_path / "second").exists()


def test_what_was_changed_after_it_was_made(run: Run, made: Path) -> None:
    edit(made, lambda data: data["description"].update(note="Says nothing."))
    assert "it was changed after it was made" in run("verify", made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doppler_adapter": 2}, "format has version 2, and Doppler reads 1; update Doppler"),
        ({"identity": "x"}, "it was changed after it was made"),
        ({"version": 0}, "its version is 0"),
        ({"name": "a\nb"}, "its name is 'a.*nb', and must be a line"),
        ({"base": "x"}, "the identity of its base is 'x'"),
        ({"deltas": []}, "it changes nothing"),
        ({"blocks": []}, "0 blocks of"),
        ({"bytes": 1 << 50}, "its byte space at 1125899906842624"),
        ({"block_size": 0}, "blocks of 0 bytes"),
    ],
)
def test_descriptions_that_lie(run: Run, made: Path, change: dict[str, Any], words: str) -> None:
    def apply(data: dict[str, Any]) -> None:
        for key, value in change.items():
            (data if key in data else data["description"])[key] = value

    edit(made, apply)
    told = run("show", made)
    assert str(made / ADAPTER_FILE) in told
    assert re.search(words, told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 5}, "cannot have"),
        ({"rank": 1 << 20}, "from 1 to 4096"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"rows": 1 << 30}, "cannot have"),
        ({"name": "blk.0.attn_v.weight"}, "is listed twice"),
    ],
)
def test_matrices_that_lie(run: Run, made: Path, change: dict[str, Any], words: str) -> None:
    edit(made, lambda data: data["description"]["deltas"][0].update(change))
    assert words in run("show", made)


def test_older_versions_are_not_taken_again(made: Path) -> None:
    one = stored(made)
    assert one.signed is not None
    line = (one.signed.author, "pirate")
    for known in ({}, {line: 2}, {line: 3}, {("0" * 64, "pirate"): 9}, {(line[0], "other"): 9}):
        check_version(one, known, "x")
    words = "version 3 of 'pirate', of which version 4 is known here; an older one is not taken"
    with pytest.raises(RequestError, match=words):
        check_version(one, {line: 4}, "x")
    check_version(replace(one, signed=None), {line: 4}, "x")  # nobody's line


def test_what_a_key_signs_is_the_identity(made: Path) -> None:
    """As WebCrypto would check it: raw keys, and the identity's 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    one = stored(made)
    assert isinstance(one.signed, Signature)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(one.signed.author))
    key.verify(bytes.fromhex(one.signed.signature), bytes.fromhex(one.identity))


def test_what_is_there_stays_and_bad_words_are_told(
    run: Run, made: Path, base: Path, peft: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    told = run("make", peft, "--base", base, "-o", new)
    assert (told["name"], told["version"], told["author"]) == ("new", 1, None)
    assert run("verify", new, "--base", base)["id"] == told["id"]
    assert stored(new).terms == Terms("new", 1)
    for there in (new, base):  # an adapter, a model
        assert "already: give another folder" in run("make", peft, "--base", base, "-o", there)
    assert run("verify", new)["id"] == told["id"]
    named = run("make", peft, "--base", base, "-o", tmp_path / "named", "--name", "a\tb")
    assert "its name is" in named
    assert "holds the adapter to read" in run("make", peft, "--base", base, "-o", peft)
    missing = run("make", tmp_path / "none", "--base", base, "-o", tmp_path / "named")
    assert "is not there: give a folder that PEFT saved" in missing
    assert "has no adapter.json" in run("show", peft)


def test_a_key_that_others_may_read_is_not_used(
    run: Run, base: Path, peft: Path, tmp_path: Path
) -> None:
    run("key", "-o", tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    words = ("make", peft, "--base", base, "-o", tmp_path / "new", "--key", tmp_path / "key")
    assert (
        f"key has mode 644, so that others than you may use the key: chmod 600 {tmp_path}"
        in run(*words)
    )
    assert not (tmp_path / "new").exists()
    (tmp_path / "key").chmod(0o400)
    assert run(*words)["author"]


def test_messages_name_the_folder(
    run: Run, made: Path, base: Path, peft: Path, tmp_path: Path
) -> None:
    (made / "shard-00000.bin").write_bytes(bytes(stored(made).bytes))
    assert f"{made}: block 0 of shard-00000.bin" in run("verify", made)
    words = ("--base", base, "-o", tmp_path / "new")
    config = peft / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"lora_alpha": 1e308}))
    told = run("make", peft, *words)
    assert told == (
        f"{config}: lora_alpha is 1e+308, and must be a number of at most 3.4e+38, which float32 "
        "can hold"
    )
    config.unlink()
    assert f"{peft} has no adapter_config.json" in run("make", peft, *words)
    config.write_text(text)
    (peft / "adapter_model.safetensors").write_bytes(b"x")
    assert f"{peft}/adapter_model.safetensors is not" in run("make", peft, *words)


@pytest.mark.parametrize(
    ("factor", "alpha", "words"),
    [
        (0, ALPHA, "changes nothing: its lora_alpha, or all of A or of B, is 0"),
        (1, 0, "changes nothing: its lora_alpha, or all of A or of B, is 0"),
        (1e30, ALPHA, "changes 'blk.0.attn_q.weight' by .*, which is more than float32 can hold"),
    ],
)
def test_what_changes_nothing_or_too_much(
    run: Run, base: Path, tmp_path: Path, factor: float, alpha: float, words: str
) -> None:
    a, b = random_pair((HIDDEN, HIDDEN), RANK, 3)
    pairs = {LAYER + "self_attn.q_proj": (a * np.float32(factor), b * np.float32(factor))}
    folder = write_peft(tmp_path / "odd", pairs, lora_alpha=alpha)
    told = run("make", folder, "--base", base, "-o", tmp_path / "new")
    assert re.search(words, told)
    assert told.startswith(str(folder))
    assert not (tmp_path / "new").exists()


def test_a_matrix_that_stays_is_told(
    run: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = {LAYER + it: random_pair(shape, RANK, 3) for it, shape in MODULES.items()}
    a, b = pairs[LAYER + "mlp.down_proj"]
    pairs[LAYER + "mlp.down_proj"] = a, b * 0
    folder = write_peft(tmp_path / "half", pairs)
    run("make", folder, "--base", base, "-o", tmp_path / "new")
    assert main(["adapter", "show", str(tmp_path / "new")]) == 0
    assert "matrices that it does not change, as theirs is 0: 1" in capsys.readouterr().out
