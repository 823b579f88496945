"""The time of a token whose experts are paged: what it takes resident, and what it waits for.

    token = resident + halts * round trip + bytes missed / rate + bytes ahead / rate - hidden

A halt is a layer that lacks an expert: the GPU stops, the host is told, brings what lacks, and the
token goes on from that layer's router. What is brought ahead of its layer, by prediction, goes over
the same links while the GPU computes: as much of it as the resident time covers is hidden.

The simulator, the page's card before an import, and comparisons with measured runs all use this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from doppler.errors import RequestError
from doppler.residency.tiers import Tier

ByTier = Mapping[Tier, float]


@dataclass(frozen=True)
class Rates:
    """Bytes a second of each link, and seconds of a halt. Measured ones go in their place.

    Those here were measured in headless Chromium 156 on an H200 (docs/paging.md), but for `remote`,
    which is a line of 100 Mbit/s.
    """

    upload: float = 6.5e9  # host memory to GPU, by a ring of mapped staging buffers
    storage: float = 1.1e9  # the browser's storage to host memory, by several readers
    remote: float = 12.5e6
    round_trip: float = 0.35e-3  # all that a halt takes beside its bytes: 0.2 to 0.5 ms
    overlap: float = 1.0  # share of the resident time in which what comes ahead is brought

    def __post_init__(self) -> None:
        if min(self.upload, self.storage, self.remote) <= 0 or self.round_trip < 0:
            raise RequestError(f"rates must be positive, and a round trip not negative: {self}")
        if not 0 <= self.overlap <= 1:
            raise RequestError(f"overlap is a share of the resident time, 0 to 1: {self.overlap}")

    def seconds(self, tier: Tier, size: float) -> float:
        """For that many bytes from `tier` to the GPU.

        What is not in host memory yet is read whole, and verified, before it is uploaded.
        """
        upload = size / self.upload
        if tier == "storage":
            return size / self.storage + upload
        if tier == "remote":
            return size / self.remote + upload
        return upload


DEFAULT_RATES = Rates()
DISPATCH = 9e-6  # seconds of a kernel beside its reads: the mean of six shapes (docs/paging.md)


def resident_speed(reads: int, dispatches: int, bandwidth: float) -> float:
    """Tokens a second of a model that is all on a GPU which reads `bandwidth` bytes a second, of
    which a token reads so many, by so many kernels.
    """
    return 1 / (reads / bandwidth + dispatches * DISPATCH)


@dataclass(frozen=True)
class Demand:
    """What a token asks of paging, on average: halts, and bytes by the tier that they come from."""

    halts: float = 0.0
    missed: ByTier = field(default_factory=dict)  # the token waits for them
    ahead: ByTier = field(default_factory=dict)  # brought before their layer's turn, rightly or not

    @property
    def moved(self) -> float:
        """Bytes that come to the GPU."""
        return sum(self.missed.values()) + sum(self.ahead.values())


@dataclass(frozen=True)
class TokenTime:
    """Seconds of a token, by what they are spent on."""

    resident: float
    halts: float
    waiting: ByTier  # for what was missed
    ahead: float  # for what is brought ahead and is not hidden

    @property
    def total(self) -> float:
        """Seconds from one token to the next."""
        return self.resident + self.halts + sum(self.waiting.values()) + self.ahead

    @property
    def tokens_a_second(self) -> float:
        """The speed of a text that asks the same of every token."""
        return 1 / self.total


def token_time(resident_speed: float, demand: Demand, rates: Rates = DEFAULT_RATES) -> TokenTime:
    """The time of a token of a model that makes `resident_speed` tokens a second when it fits.

    Raises RequestError where that is not positive.
    """
    if not resident_speed > 0:
        raise RequestError(f"a resident speed of {resident_speed} tokens a second is not positive")
    resident = 1 / resident_speed
    ahead = sum(rates.seconds(tier, size) for tier, size in demand.ahead.items())
    return TokenTime(
        resident=resident,
        halts=demand.halts * rates.round_trip,
        waiting={tier: rates.seconds(tier, size) for tier, size in demand.missed.items()},
        ahead=ahead - min(ahead, rates.overlap * resident),
    )
