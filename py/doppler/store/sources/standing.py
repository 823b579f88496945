"""How well a source has done: it decides who is asked first."""

from __future__ import annotations

from dataclasses import dataclass, field

from doppler.errors import CorruptError
from doppler.store.places import Place

FAILED_SECONDS = 5.0  # after the first failure in a row; twice as long after each further one
MOST_SECONDS = 300.0


@dataclass
class Standing:
    """Of one source. Times are seconds of one clock."""

    bad: dict[int, CorruptError] = field(default_factory=dict)  # blocks not to be asked for again
    lacks: set[int] = field(default_factory=set)  # blocks that it does not have, as far as was seen
    blamed: int = 0  # blocks that were not what they should be
    wasted: int = 0  # bytes of them
    late: int = 0  # requests that were given to others too
    good: int = 0  # blocks
    failures: int = 0  # in a row
    until: float = 0.0  # when it is asked again, where others can be

    def came(self, count: int) -> None:
        """Good blocks."""
        self.good += count
        self.failures, self.until = 0, 0.0

    def failed(self, now: float) -> None:
        """It could not be reached, ended early, or had nothing. Requests that fail together, or in
        a pause, are one failure.
        """
        if now < self.until:
            return
        wait = min(FAILED_SECONDS * 2**self.failures, MOST_SECONDS)
        self.failures += 1
        self.until = now + wait

    def blame(self, size: int) -> None:
        """A block that was not what it should be."""
        self.blamed += 1
        self.wasted += size

    def rank(self, now: float) -> tuple[bool, int]:
        """Who has the least is asked first."""
        return now < self.until, self.blamed + self.late

    def forgive(self) -> None:
        """What was wrong may have been mended."""
        self.bad.clear()
        self.failures, self.until = 0, 0.0


def wrong(place: Place, where: str) -> CorruptError:
    """What is said of a block that came from there and is not what it should be."""
    return CorruptError(
        f"{place} from {where}: its BLAKE3 is not the manifest's; the file there is damaged or "
        "belongs to another model. Have it mended there, or get the model from elsewhere"
    )
