"""As much of a conversation as fits a context: the oldest turns go, never the system prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from doppler.errors import ContextError
from doppler.text.messages import Conversation, Message

ANSWER_ROOM = 256  # tokens kept free for the answer when old messages are dropped
CHARACTERS = 8  # a token, on average: more than any language has


def fitting(
    conversation: Conversation,
    encode: Callable[[Conversation], list[int]],
    context: int,
    max_tokens: int,
) -> tuple[list[int], int]:
    """Ids of the latest turns that leave room for an answer, and how many messages went.

    A turn is a user's message and what follows it. Fewer turns are taken to be fewer tokens, so
    that a few conversations are encoded and not one a turn: the newest turn, then twice as many
    each time, then the half of what is between. All of it is tried first where its characters may
    fit, as most conversations do. Raises ContextError where the last turn alone is longer than the
    context.
    """
    room = context - min(max_tokens, ANSWER_ROOM, context // 4)
    system, turns = _parted(conversation.messages)
    starts = [0, *(i for i in range(1, len(turns)) if turns[i]["role"] == "user")]
    kept: list[int] = []
    too_many, enough, step = -1, len(starts), 1  # as indices of starts
    if sum(len(message["content"] or "") for message in conversation.messages) <= CHARACTERS * room:
        ids = encode(conversation)
        if len(ids) <= room:
            return ids, 0
        too_many = 0
    while enough - too_many > 1:
        middle = max(enough - step, (too_many + enough) // 2)
        ids = encode(conversation.of([*system, *turns[starts[middle] :]]))
        if len(ids) <= room:
            kept, enough, step = ids, middle, 2 * step
        else:
            too_many = middle
    if kept:
        return kept, starts[enough]
    if len(ids) < context:
        return ids, starts[-1]  # a short answer is better than none
    with_it = " with the system prompt" if system else ""
    raise ContextError(
        f"the last message has {len(ids):,} tokens{with_it}, and the context holds"
        f" {context:,}: shorten it, or load the model with a longer context"
    )


def _parted(messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """The system prompt, if there is one, and the rest."""
    count = int(messages[0]["role"] in ("system", "developer"))
    return messages[:count], messages[count:]
