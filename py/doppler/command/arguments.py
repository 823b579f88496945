"""Values and options that several commands take."""

from __future__ import annotations

import argparse
import re

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def byte_count(text: str) -> int:
    """16777216, 16384K or 16M as a number."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 16M")
    return int(match[1]) * UNITS[match[2]]


def count(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 256")
    return int(text)


def port_number(text: str) -> int:
    """A TCP port, or 0."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 0 and 65535")
    return int(text)


def token_ids(text: str) -> list[int]:
    """Token ids between commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not token ids such as 2,818") from None


def add_page_options(command: argparse.ArgumentParser) -> None:
    """What commands take that load a model in the page: its room, and the browser."""
    from doppler.command.browser import ADAPTERS

    command.add_argument("--context", type=int, metavar="N", help="tokens to keep room for")
    command.add_argument("--kv", choices=("f16", "f32"), help="keys and values (f16 on a GPU)")
    command.add_argument("--precision", choices=("f16", "f32"), help="products (f16 on a GPU)")
    command.add_argument("--browser", metavar="PATH", help="else DOPPLER_BROWSER, PATH, Chrome")
    command.add_argument("--adapter", choices=ADAPTERS, default="auto")
