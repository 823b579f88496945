"""After which tokens the recurrent state is kept, and in which slot.

Keys can be cut at any position; such a state cannot, and after an answer it is beyond the answer's
end, since steps are queued ahead. So a prompt goes on from a copy that was made on the way:

- TAIL tokens before the end of each prompt. Whoever asks again goes on from there, and so does the
  next prompt of a conversation where the answer, or the thought before it, is not in it as it was
  written, or where the prompt ended with marks that are left out later.
- At ends of chunks, where they are SPACING tokens apart: for a prompt that is edited.
- Within an answer, in the ANSWERS last slots by turns: for a prompt that goes on behind it. One may
  be beyond the answer's end, and is of no use then; the other is not.
"""

from __future__ import annotations

from itertools import pairwise

TAIL = 8  # tokens: more than the marks that templates end a prompt with, and later leave out
LEAST = 32  # tokens that are run again rather than to keep a state, which takes a chunk of its own
SPACING = 256  # tokens between ends of chunks
ANSWERS = 2  # slots

Kept = list[tuple[int, int]]  # position and slot, in the order of positions


class Checkpoints:
    """Those that are kept, each with its position and slot.

    slots: at least two more than ANSWERS. Where there is none, nothing is ever kept.
    """

    def __init__(self, slots: int) -> None:
        self._has_slots = slots > 0
        self._free = list(range(slots - ANSWERS))
        self._free_of_answers = list(range(slots - ANSWERS, slots))
        self._kept: Kept = []
        self._in_answer: Kept = []

    def __bool__(self) -> bool:
        """Whether there may be some: sequences cannot do without."""
        return self._has_slots

    @property
    def last(self) -> tuple[int, int | None]:
        """Position and slot of the last; 0 and None where there is none."""
        return max(self._kept[-1:] + self._in_answer[-1:], default=(0, None))

    def last_until(self, length: int) -> int:
        """The position of the last after at most `length` tokens; 0 where there is none."""
        places = [at for at, _ in (*self._kept, *self._in_answer) if at <= length]
        return max(places, default=0)

    def hold(self, position: int) -> None:
        """There is none but one after so many tokens, from now on."""
        self.cut(0)
        self._kept.append((position, self._free.pop()))

    def cut(self, length: int) -> None:
        """Forgets those after more than `length` tokens."""
        for kept, free in (
            (self._kept, self._free),
            (self._in_answer, self._free_of_answers),
        ):
            while kept and kept[-1][0] > length:
                free.append(kept.pop()[1])

    def stop(self, at: int, end: int) -> int:
        """Up to which position to run a prompt of `end` tokens, from `at` on, before one is kept;
        `end` where it need not stop.
        """
        place = end - TAIL
        is_worth_it = self._has_slots and at < place and place - self._last_of_prompts >= LEAST
        return place if is_worth_it else end

    def keep(self, at: int, end: int) -> int | None:
        """The slot for the state after `at` of a prompt's `end` tokens; None: it is not kept."""
        place = end - TAIL
        apart = LEAST if at == place else SPACING
        if not self._has_slots or at > place or at - self._last_of_prompts < apart:
            return None
        slot = self._free.pop() if self._free else self._given_up()
        self._kept.append((at, slot))
        return slot

    def keep_of_answer(self, at: int, steps: int) -> int | None:
        """The slot for the state after `at` tokens, the last `steps` of which are queued at once;
        None: it is not kept.

        About as many are queued before these are read: the one before is not beyond the end.
        """
        if not self._has_slots or at - self.last[0] < max(LEAST, 2 * steps):
            return None
        free = self._free_of_answers
        slot = free.pop() if free else self._in_answer.pop(0)[1]
        self._in_answer.append((at, slot))
        return slot

    @property
    def _last_of_prompts(self) -> int:
        return self._kept[-1][0] if self._kept else 0

    def _given_up(self) -> int:
        """The slot of the one that spares the fewest tokens beside the one before it.

        Not of the last: whoever edits what he just asked goes on from there.
        """
        positions = [0, *(position for position, _ in self._kept)]
        gaps = [after - before for before, after in pairwise(positions[:-1])]
        return self._kept.pop(gaps.index(min(gaps)))[1]
