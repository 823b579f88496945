"""Values and options that several commands take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from doppler.command.wheel import ROOT

MODELS = ROOT / "models"
PORT = 8642
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def byte_count(text: str) -> int:
    """16777216, 16384K or 16M as a number."""
    match = re.fullmatch(r"([0-9]{1,18})([KMG]?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 16M")
    return int(match[1]) * UNITS[match[2]]


def path(text: str) -> Path:
    """A file or folder. No text is none: Path would take it for the folder that one is in."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path of a file or folder")
    return Path(text)


def count(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 256")
    return int(text)


def port_number(text: str) -> int:
    """A TCP port, or 0."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 0 and 65535")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not (number := count(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def token_ids(text: str) -> list[int]:
    """Token ids between commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,10}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not token ids such as 2,818")
    return [int(part) for part in parts]


def host_name(text: str) -> str:
    """What a Host header says of another name, without its port."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name such as box.example (without http:// or a port)"
        )
    return text


def add_page_options(command: argparse.ArgumentParser) -> None:
    """What commands take that load a model in the page: its room, and the browser."""
    from doppler.command.browser import ADAPTERS

    command.add_argument("--context", type=positive, metavar="N", help="tokens to keep room for")
    command.add_argument("--kv", choices=("f16", "f32"), help="keys and values (f16 on a GPU)")
    command.add_argument("--precision", choices=("f16", "f32"), help="products (f16 on a GPU)")
    places = ("gpu", "host", "auto")
    command.add_argument(
        "--ple", choices=places, help="per-layer embeddings (auto: the GPU, if it has room)"
    )
    command.add_argument(
        "--browser",
        metavar="PATH",
        help="the program (else DOPPLER_BROWSER, a Chromium on PATH, Chrome)",
    )
    command.add_argument(
        "--adapter", choices=ADAPTERS, default="auto", help="a GPU, or this machine's CPU (auto)"
    )
