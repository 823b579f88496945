"""The README's console lines: what stands there can be pasted, and does what it says."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from checkpoint_files import write_checkpoint
from doppler.cli import main
from doppler.command import catalogue, models
from doppler.command.commands import parser
from doppler.command.shapes import SHAPES
from doppler.command.wheel import ROOT
from gguf_files import write_llama
from storable import storable

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?m)^    (?:\$ )?(doppler .*)$", README)
LINES = [shlex.split(line, comments=True)[1:] for line in BLOCKS]
QUICK = ("convert", "verify")


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_it_can_be_parsed_and_names_what_there_is(words: list[str]) -> None:
    args = parser().parse_args(words)
    if words[0] == "pull":
        assert [catalogue.find(name).name for name in args.name] == args.name
    if words[0] == "synth":
        assert args.shape in SHAPES
    if words[0] == "bench":
        assert args.model in SHAPES or args.model == "gemma-3-270m"


@pytest.mark.parametrize(
    "words",
    [words for words in LINES if words[0] in QUICK and "smollm2" not in words[1]],
    ids=" ".join,
)
def test_it_runs(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama(Path("FILE.gguf"))
    write_checkpoint(Path("FOLDER"), 64)
    storable().save(Path("models/gemma-3-270m"))
    monkeypatch.setattr(models, "MODELS", Path("models"))
    assert main(words) == 0, capsys.readouterr().err
    assert "all sound" in capsys.readouterr().out


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("name", commands())
def test_every_option_is_explained(name: str) -> None:
    command = commands()[name]
    assert command.description
    for action in command._actions:
        assert action.help, f"{action.option_strings or action.dest} has no help"


def test_options_in_sentences_are_real() -> None:
    known = {word for c in commands().values() for a in c._actions for word in a.option_strings}
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", README))
    assert len(named) > 8
    assert named <= known
