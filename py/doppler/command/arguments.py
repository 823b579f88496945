"""Values and options that several commands take."""

from __future__ import annotations

import argparse
import re
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from doppler.command.wheel import ROOT

MODELS = ROOT / "models"
PORT = 8642
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"


def byte_count(text: str) -> int:
    """16777216, 16384K, 16M, 16MiB (all the same) or 1.5GB (of 1000 MB) as a number."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([KMG]?(?:I?B)?)", text.upper())
    if not match or ("." in match[1] and not match[2].strip("IB")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 16M or 1.5GB")
    unit = match[2].replace("IB", "") if "I" in match[2] else match[2]
    return int(Decimal(match[1]) * UNITS["" if unit == "B" else unit])


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


def infohash(text: str) -> str:
    """A torrent's infohash as 40 hexadecimal digits in lower case, or "all"."""
    if text != "all" and not re.fullmatch(r"[0-9A-Fa-f]{40}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is neither an infohash of 40 hexadecimal digits nor all"
        )
    return text.lower()


def author_key(text: str) -> str:
    """An author's public key: 64 hexadecimal digits, in lower case."""
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is no author's public key of 64 hexadecimal digits"
        )
    return text.lower()


def tracker_url(text: str) -> str:
    """The address of a WebTorrent tracker: ws:// or wss://, a host, perhaps a port and a path."""
    if not re.fullmatch(rf"wss?://{_HOST}(/[!-~]*)?", text) or not _is_port(text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is no tracker's address such as ws://127.0.0.1:{PORT}/tracker"
        )
    return text


def page_address(text: str) -> str:
    """Where the page is served: http:// or https://, a host, perhaps a port and a path."""
    if not re.fullmatch(rf"https?://{_HOST}(/[!-\"$->@-~]*)?", text) or not _is_port(text):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is no address of a page such as http://127.0.0.1:{PORT}/"
        )
    return text


def _is_port(url: str) -> bool:
    """Whether its port, if it has one, can be connected to."""
    try:
        return urlsplit(url).port != 0
    except ValueError:  # above 65535, or brackets around what is no address
        return False


def listen_address(text: str) -> str:
    """HOST:PORT where a peer is reached: an IP address of this machine, IPv6 ones in brackets."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    try:
        if match and int(match[3]) <= 65535:
            _ = IPv6Address(match[1]) if match[1] else IPv4Address(match[2])
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r:.80} is no IP address and port such as 127.0.0.1:6881"
    )


def add_page_options(command: argparse.ArgumentParser) -> None:
    """What commands take that load a model in the page: its room, and the browser."""
    from doppler.command.browser import ADAPTERS
    from doppler.plan.cache import CacheType

    command.add_argument("--context", type=positive, metavar="N", help="tokens to keep room for")
    command.add_argument(
        "--kv", choices=get_args(CacheType), help="keys and values (f16 on a GPU; q8 takes half)"
    )
    command.add_argument("--precision", choices=("f16", "f32"), help="products (f16 on a GPU)")
    places = ("gpu", "host", "auto")
    command.add_argument(
        "--ple", choices=places, help="per-layer embeddings (auto: the GPU, if it has room)"
    )
    budgets = (
        ("gpu", "GPU memory"),
        ("host", "host memory for what is not there"),
        ("storage", "weights in the browser's storage"),
    )
    for where, what in budgets:
        command.add_argument(
            f"--{where}-budget",
            type=byte_count,
            metavar="SIZE",
            help=f"{what} at most, such as 6GB or 512MiB",
        )
    command.add_argument(
        "--browser",
        metavar="PATH",
        help="the program (else DOPPLER_BROWSER, a Chromium on PATH, Chrome)",
    )
    command.add_argument(
        "--adapter", choices=ADAPTERS, default="auto", help="a GPU, or this machine's CPU (auto)"
    )
