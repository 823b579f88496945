"""Blocks that are kept for others: which to get of those that few have, and which give way to them.

The rule is that of doppler.swarm.churn, a block at a time. Whoever has room gets a block that fewer
than R peers have, the rarest first; where the room is full, one that more than R have gives way,
with a chance that leaves R of them. Many peers see the same at once: each gets a block by a lot
that has as many of them get it as copies are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

AT_ONCE = 8  # blocks that are on their way
LOT_SECONDS = 20.0  # until a block is drawn for again: those who get it have it by then, mostly
PATIENCE = 300.0  # seconds, with a block that does not come
UNUSED_SECONDS = 60.0  # before a block may give way
REST_SECONDS = 60.0  # after a block could not be stored


@dataclass(frozen=True)
class Pledge:
    """What a person lets this page keep for others. copies: R; 0: nothing is got for others.
    room: bytes of weights of the model that may be stored; None: all of it.
    """

    copies: int = 0
    room: int | None = None


@dataclass(frozen=True)
class Sight:
    """What is seen of others. copies: how many of the `peers` hold each block."""

    copies: Sequence[int] = b""
    peers: int = 0


class Blocks(Protocol):
    """The blocks of the model that are stored here."""

    @property
    def room(self) -> int:
        """Blocks that can come, and none leaves for them."""
        ...

    def has(self, index: int) -> bool:
        """Whether a block is stored."""
        ...

    def unused(self, seconds: float) -> list[int]:
        """Blocks that can leave, and were not used for so long."""
        ...

    def let_leave(self, index: int) -> None:
        """Gives one up."""
        ...


class Peers(Protocol):
    """Those who are asked."""

    def ask(self, index: int) -> None:
        """For a block, when there is nothing else to get."""
        ...

    def ask_no_more(self, index: int) -> None:
        """Takes that back."""
        ...


def rarest(sight: Sight, copies: int, lacking: Iterable[int], chance: Random) -> list[int]:
    """Of the blocks that are not here, those of which others have some, and fewer than `copies`:
    the rarest first, equals in any order.
    """
    rare = [it for it in lacking if 0 < sight.copies[it] < copies]
    chance.shuffle(rare)
    return sorted(rare, key=lambda it: sight.copies[it])


def wins(sight: Sight, copies: int, index: int, chance: Random) -> bool:
    """Whether this page is to get a rare block. With this chance, those who lack it get as many
    copies as are missing, if all of them volunteer.
    """
    seen = sight.copies[index]
    return chance.random() * (sight.peers + 1 - seen) < copies - seen


def surplus(sight: Sight, copies: int, held: Iterable[int], chance: Random) -> int | None:
    """Of the blocks that are here and could leave, one that gives way: of the most copies, this
    page's counted, if these are more than `copies`. With this chance `copies` of them are left, if
    all who have it do the same now.
    """
    many = [it for it in held if sight.copies[it] + 1 > copies]
    if not many:
        return None
    most = max(many, key=lambda it: (sight.copies[it], chance.random()))
    seen = sight.copies[most] + 1
    return most if chance.random() * seen < seen - copies else None


class Volunteer:
    """Of one model. `look` is to be called once in a while; `now`: seconds of a clock."""

    def __init__(
        self, count: int, blocks: Blocks, peers: Peers, now: Callable[[], float], chance: Random
    ) -> None:
        self._count, self._blocks, self._peers = count, blocks, peers
        self._now, self._chance = now, chance
        self._asked = dict[int, float]()  # blocks on their way, and when each was asked for
        self._lost = dict[int, float]()  # those that others are to get, and until when
        self._rests_until = 0.0

    def has_asked(self, index: int) -> bool:
        """Whether a block is on its way."""
        return index in self._asked

    def look(self, pledge: Pledge, sight: Sight) -> None:
        """Asks for what is rare now, and no more for what is not."""
        self._ask_no_more(lambda it: not self._is_rare(it, pledge.copies, sight))
        if self._now() < self._rests_until or len(sight.copies) != self._count:
            return
        room = self._blocks.room - len(self._asked)
        for index in self._rarest(pledge.copies, sight):
            if len(self._asked) == AT_ONCE or room < 0:
                return
            if not self._wins(sight, pledge.copies, index):
                continue
            if room == 0 and not self._makes_room(sight, pledge.copies):
                return
            room -= 1  # less than nothing where one gave way: what others do about it is seen first
            self._ask(index)

    def came(self, index: int, *, stored: bool) -> None:
        """A block came, for whomever."""
        if self._asked.pop(index, None) is not None and not stored:
            self._rests_until = self._now() + REST_SECONDS

    def end(self) -> None:
        """Nothing is asked for any more."""
        self._ask_no_more(lambda index: True)

    def _rarest(self, copies: int, sight: Sight) -> list[int]:
        now = self._now()
        self._lost = {index: until for index, until in self._lost.items() if now < until}
        lacking = [it for it in range(self._count) if self._is_drawn_for(it)]
        return rarest(sight, copies, lacking, self._chance)

    def _wins(self, sight: Sight, copies: int, index: int) -> bool:
        won = wins(sight, copies, index, self._chance)
        if not won:
            self._lost[index] = self._now() + LOT_SECONDS
        return won

    def _makes_room(self, sight: Sight, copies: int) -> bool:
        leaver = surplus(sight, copies, self._blocks.unused(UNUSED_SECONDS), self._chance)
        if leaver is not None:
            self._blocks.let_leave(leaver)
        return leaver is not None

    def _is_drawn_for(self, index: int) -> bool:
        return not (self._blocks.has(index) or index in self._asked or index in self._lost)

    def _is_rare(self, index: int, copies: int, sight: Sight) -> bool:
        """Whether a block on its way is still to come."""
        seen = sight.copies[index] if index < len(sight.copies) else 0
        return 0 < seen < copies and self._now() < self._asked[index] + PATIENCE

    def _ask(self, index: int) -> None:
        self._asked[index] = self._now()
        self._peers.ask(index)

    def _ask_no_more(self, unwanted: Callable[[int], bool]) -> None:
        for index in [it for it in self._asked if unwanted(it)]:
            del self._asked[index]
            self._peers.ask_no_more(index)
