"""What is got for others: the rarest first, a little at a time, and not by all of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from doppler.swarm_exchange.volunteer import (
    AT_ONCE,
    LOT_SECONDS,
    PATIENCE,
    REST_SECONDS,
    Pledge,
    Sight,
    Volunteer,
    rarest,
    surplus,
    wins,
)

COPIES = 4
PLEDGE = Pledge(COPIES)
TRAVEL_SECONDS = 3  # of a block


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Room:
    """Blocks that are stored, and those that a running model uses. It is also the peers that are
    asked.
    """

    def __init__(self, size: int, here: Sequence[int] = ()) -> None:
        self.size, self.here, self.used = size, set(here), set[int]()
        self.asked, self.left = list[int](), list[int]()

    @property
    def room(self) -> int:
        return self.size - len(self.here)

    def has(self, index: int) -> bool:
        return index in self.here

    def unused(self, seconds: float) -> list[int]:
        return sorted(self.here - self.used)

    def let_leave(self, index: int) -> None:
        self.here.remove(index)
        self.left.append(index)

    def ask(self, index: int) -> None:
        assert index not in self.asked
        self.asked.append(index)

    def ask_no_more(self, index: int) -> None:
        self.asked.remove(index)


class Peer:
    """A volunteer with its room."""

    def __init__(self, count: int, size: int, here: Sequence[int] = (), seed: int = 0) -> None:
        self.clock, self.store = Clock(), Room(size, here)
        self.volunteer = Volunteer(count, self.store, self.store, self.clock, Random(seed))

    def look(self, copies: Sequence[int], pledge: Pledge = PLEDGE, peers: int = 1) -> list[int]:
        """What is asked for then."""
        self.volunteer.look(pledge, Sight(copies, peers))
        return self.store.asked

    def came(self, index: int, *, stored: bool = True) -> None:
        self.store.asked.remove(index)
        if stored:
            self.store.here.add(index)
        self.volunteer.came(index, stored=stored)


def test_the_rarest_come_first_and_equals_in_any_order() -> None:
    sight = Sight([3, 1, 2, 0, 4, 1, 5], 9)
    orders = {tuple(rarest(sight, COPIES, range(7), Random(seed))) for seed in range(20)}
    assert orders == {(1, 5, 2, 0), (5, 1, 2, 0)}
    assert rarest(sight, COPIES, [0, 3, 4], Random(0)) == [0]


def test_who_gets_a_block_is_drawn() -> None:
    """As many as are missing, on average; all, where no more of them lack it."""
    chance, sight = Random(0), Sight([1], 12)
    won = sum(wins(sight, COPIES, 0, chance) for _ in range(4000))
    assert abs(won / 4000 - 3 / 12) < 0.03
    assert all(wins(Sight([1], 3), COPIES, 0, chance) for _ in range(100))


def test_so_many_are_on_their_way_at_once() -> None:
    peer = Peer(40, 40)
    asked = [*peer.look([1] * 40)]
    assert len(set(asked)) == AT_ONCE
    assert peer.look([1] * 40) == asked
    peer.came(asked[0])
    assert len(peer.look([1] * 40)) == AT_ONCE


def test_no_more_comes_than_there_is_room_for() -> None:
    """And what is on its way has its place."""
    peer = Peer(40, 3)
    assert len(peer.look([1] * 40)) == 3
    peer.came(peer.store.asked[0])
    assert len(peer.look([1] * 40)) == 2
    peer.store.size = 1  # something else took the rest
    assert len(peer.look([1] * 40)) == 2


def test_nobody_volunteers_for_no_copies_or_before_peers_are_seen() -> None:
    peer = Peer(8, 8)
    assert peer.look([1] * 8, Pledge(0)) == []
    assert peer.look([]) == []
    assert len(peer.look([1] * 8)) == 8
    assert peer.look([1] * 8, Pledge(0)) == []
    peer.look([1] * 8)
    peer.volunteer.end()
    assert peer.store.asked == []


def test_what_is_rare_no_more_is_not_waited_for() -> None:
    peer = Peer(3, 3)
    assert len(peer.look([1, 2, 3])) == 3
    assert sorted(peer.look([4, 0, 3])) == [2]
    peer.clock.now = PATIENCE
    peer.look([4, 0, 4])
    assert peer.store.asked == []


def test_a_lot_that_was_lost_is_not_drawn_again_soon() -> None:
    peer = Peer(1, 1, seed=1)
    while peer.look([3], peers=200):
        peer.came(0, stored=False)
        peer.clock.now += REST_SECONDS
    for _ in range(300):
        assert peer.look([3], peers=3) == []
    peer.clock.now += LOT_SECONDS
    assert peer.look([3], peers=3) == [0]


def test_a_block_that_cannot_be_stored_is_no_reason_to_ask_for_others_at_once() -> None:
    peer = Peer(40, 40)
    peer.look([1] * 40)
    for index in list(peer.store.asked):
        peer.came(index, stored=False)
    assert peer.look([1] * 40) == []
    peer.clock.now += REST_SECONDS
    assert len(peer.look([1] * 40)) == AT_ONCE


def test_of_a_full_room_what_many_have_gives_way() -> None:
    """One block a look, those of the most copies first, and none that a model has just used."""
    peer = Peer(6, 4, here=[0, 1, 2, 3])
    peer.store.used = {0}
    copies = [90, 9, 60, 3, 1, 1]
    for _ in range(200):
        peer.look(copies, peers=99)
        peer.clock.now += LOT_SECONDS
    assert peer.store.left[0] == 2
    peer.came(peer.store.asked[0])
    for _ in range(1000):
        peer.look(copies, peers=99)
        peer.clock.now += LOT_SECONDS
    assert peer.store.left == [2, 1]


def test_nothing_gives_way_that_has_too_few_copies_without_it() -> None:
    assert surplus(Sight([3, 2], 9), COPIES, [0, 1], Random(0)) is None
    kept = sum(surplus(Sight([5], 9), COPIES, [0], Random(seed)) is None for seed in range(600))
    assert abs(kept / 600 - COPIES / 6) < 0.06


def simulated(peers: list[Peer], pledge: Pledge, seconds: int, seeds: int) -> list[int]:
    """Copies of each block once so many seconds have passed; the first peers only give. Each
    second all see what there was a second ago, and a block takes a while.
    """
    count = peers[0].store.size
    on_way = dict[tuple[int, int], int]()
    for second in range(seconds):
        held = [sum(peer.store.has(block) for peer in peers) for block in range(count)]
        for number, peer in enumerate(peers[seeds:]):
            peer.clock.now = second
            others = [held[block] - peer.store.has(block) for block in range(count)]
            peer.look(others, pledge, len(peers) - 1)
            for block in list(peer.store.asked):
                since = on_way.setdefault((number, block), second)
                if second - since >= TRAVEL_SECONDS:
                    del on_way[number, block]
                    peer.came(block)
            assert len(peer.store.here) <= peer.store.size
    return [sum(peer.store.has(block) for peer in peers) for block in range(count)]


def test_volunteers_come_to_the_copies_that_are_wanted() -> None:
    """Three beside one who has all: two copies of each, and not four."""
    seed = Peer(12, 12, here=range(12))
    peers = [seed, *(Peer(12, 12, seed=number) for number in range(3))]
    copies = simulated(peers, Pledge(2), 120, 1)
    assert min(copies) >= 2
    assert sum(copies) <= 1.5 * 2 * 12
    sets = [frozenset(peer.store.here) for peer in peers[1:]]
    assert len(set(sets)) == 3
    assert simulated(peers, Pledge(2), 300, 1) == copies  # nobody chases anybody


def test_room_for_half_is_filled_with_what_others_lack() -> None:
    seed = Peer(12, 12, here=range(12))
    peers = [seed, *(Peer(12, 6, seed=number) for number in range(2))]
    copies = simulated(peers, Pledge(2), 300, 1)
    assert copies == [2] * 12


def test_of_many_volunteers_few_get_the_same() -> None:
    seed = Peer(24, 24, here=range(24))
    peers = [seed, *(Peer(24, 24, seed=number) for number in range(30))]
    copies = simulated(peers, PLEDGE, 600, 1)
    assert min(copies) >= COPIES
    assert sum(copies) / 24 < 1.75 * COPIES


def test_full_rooms_make_place_for_what_is_rare() -> None:
    """All three hold the same half; what only the seed has takes the place of some of it."""
    seed = Peer(12, 12, here=range(12))
    same = (Peer(12, 6, here=range(6), seed=number) for number in range(3))
    peers = [seed, *same]
    copies = simulated(peers, Pledge(2), 1200, 1)
    assert min(copies) >= 2
