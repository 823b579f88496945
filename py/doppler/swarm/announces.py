"""What peers say to a WebTorrent tracker: JSON text -> an announce or an answer, checked.

Infohashes and ids of peers and offers are bytes that the protocol writes as characters of Latin-1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

ID = 20  # bytes of an infohash, and of a peer's id
LONGEST_OFFER_ID = 64
LONGEST_SDP = 16 << 10  # a browser with a dozen addresses writes some 3 KiB
MOST_OFFERS = 10  # of one announce: the rest is not looked at
EVENTS = ("", "started", "completed", "stopped", "update", "paused", "empty")


class Malformed(Exception):
    """A message that no client of the protocol sends; the text says what is wrong with it."""


@dataclass(frozen=True)
class Session:
    """One side of a WebRTC handshake."""

    type: Literal["offer", "answer"]
    sdp: str


@dataclass(frozen=True)
class Announce:
    """A peer is there. `offers`: handshakes for whoever takes them, by their ids."""

    info_hash: str
    peer_id: str
    event: str
    seeds: bool
    offers: dict[str, Session]


@dataclass(frozen=True)
class Answer:
    """The other half of a handshake, for the peer that offered it."""

    info_hash: str
    peer_id: str
    to_peer_id: str
    offer_id: str
    answer: Session


def parse(text: str) -> Announce | Answer:
    """Raises Malformed for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is no JSON") from error
    if not isinstance(data, dict):
        raise Malformed("it is no JSON object")
    if data.get("action") != "announce":
        raise Malformed("action is not announce")
    info_hash, peer_id = _id(data, "info_hash"), _id(data, "peer_id")
    if data.get("answer") is not None:
        answer = _session(data["answer"], "answer")
        to_peer_id = _id(data, "to_peer_id")
        return Answer(info_hash, peer_id, to_peer_id, _offer_id(data), answer)
    event = data.get("event") or ""
    if event not in EVENTS:
        raise Malformed("event is none of the protocol's")
    return Announce(info_hash, peer_id, event, _is_zero(data.get("left")), _offers(data))


def _is_zero(left: Any) -> bool:
    """Whether nothing is left to get. What is left may be unknown: null, or not there."""
    return isinstance(left, int | float) and not isinstance(left, bool) and left == 0


def _offers(data: dict[str, Any]) -> dict[str, Session]:
    offers = data.get("offers") or []
    if not isinstance(offers, list):
        raise Malformed("offers is no list")
    found = {}
    for item in offers[:MOST_OFFERS]:
        if not isinstance(item, dict):
            raise Malformed("an offer is no object")
        found[_offer_id(item)] = _session(item.get("offer"), "offer")
    return found


def _id(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or len(value) != ID or not _is_latin(value):
        raise Malformed(f"{key} is not {ID} bytes")
    return value


def _offer_id(data: dict[str, Any]) -> str:
    value = data.get("offer_id")
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_OFFER_ID or not _is_latin(value):
        raise Malformed(f"offer_id is not 1 to {LONGEST_OFFER_ID} bytes")
    return value


def _session(value: Any, kind: Literal["offer", "answer"]) -> Session:
    sdp = value.get("sdp") if isinstance(value, dict) else None
    if not isinstance(sdp, str) or value.get("type") != kind or not 0 < len(sdp) <= LONGEST_SDP:
        raise Malformed(f"an {kind} is no session description of at most {LONGEST_SDP} characters")
    return Session(kind, sdp)


def _is_latin(text: str) -> bool:
    return text.isascii() or max(text) < "\u0100"
