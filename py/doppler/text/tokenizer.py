"""Text <-> token ids, and chat templates.

The tokenizer itself is a kept library: Hugging Face's for the web in the page; whatever has
`encode` and `decode` will do, which on CPython is PyPI's `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from doppler.errors import RequestError
from doppler.store.manifest import TokenizerInfo
from doppler.text.channels import Channels
from doppler.text.dialects import adapted
from doppler.text.messages import Conversation
from doppler.text.parts import Plain, Reader
from doppler.text.shield import Shield
from doppler.text.textstream import REPLACEMENT, Decoder
from doppler.text.tools import NO_TOOLS, Tools

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # SentencePiece's tokens of one byte


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before all others."""

    text: str
    id: int
    special: bool  # a control token, which is no text


class Encoding(Protocol):
    """A tokenizer: text to ids without special tokens of its own, and back."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; control tokens written in it are recognised, but where shield.MARK is."""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """Text of `ids`, with or without control tokens."""

    def ids(self, pieces: Sequence[str]) -> list[int | None]:
        """Ids of pieces as the vocabulary has them, None for each that it lacks."""

    def added(self) -> list[Added]:
        """All added tokens."""


class Template(Protocol):
    """A compiled chat template, as templates.py has it."""

    def render(self, values: dict[str, Any], stopped: Callable[[], bool] = bool) -> str:
        """The conversation as text. Raises RequestError where it is refused or stopped."""


class Tokenizer:
    """One model's tokenizer with its special tokens and chat template.

    chat_problem: why the template that the model has cannot be used; None where nothing is wrong.
    """

    def __init__(
        self,
        encoding: Encoding,
        info: TokenizerInfo,
        template: Template | None,
        chat_problem: str | None = None,
    ) -> None:
        self._encoding, self._info, self._template = encoding, info, template
        self.chat_problem = chat_problem

    @cached_property
    def decoder(self) -> Decoder:
        """How ids of this vocabulary become text."""
        encoding = self._encoding
        written = [i for i in encoding.encode(REPLACEMENT) if encoding.decode([i], True).strip()]
        return Decoder(
            self.decode,
            silent=frozenset(token.id for token in encoding.added() if token.special),
            bytes=frozenset(i for i in encoding.ids(_BYTES) if i is not None),
            replacement=tuple(written),
        )

    @cached_property
    def _channels(self) -> Channels:
        return Channels.of(
            self._encoding.ids,
            self.decoder,
            lambda ids: self._encoding.decode(ids, False),
            self._info.chat_template or "",
            self._info.eos,
        )

    @cached_property
    def _shield(self) -> Shield:
        """Of control tokens, of what marks parts of an answer, and of what the template writes."""
        template = self._info.chat_template or ""
        markers = self._channels.tokens
        return Shield(
            token.text
            for token in self._encoding.added()
            if token.special or token.id in markers or token.text in template
        )

    def reader(self, prompt: Sequence[int], tools: Tools = NO_TOOLS) -> Reader:
        """Reads the answer to a chat's prompt in its parts. tools: those that it may call."""
        return self._channels.reader(prompt, tools)

    def plain_reader(self, prompt: Sequence[int]) -> Reader:
        """Reads how a text goes on."""
        return Plain(self.decoder, prompt)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template that can be used."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Ids of a text to be continued, with the begin token where the model wants one."""
        ids = self._encoding.encode(text)
        bos = self._info.bos
        if self._info.add_bos and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return ids

    def encode_chat(
        self, conversation: Conversation, stopped: Callable[[], bool] = bool
    ) -> list[int]:
        """Ids of a conversation up to where the assistant answers.

        stopped: whether nobody waits for them any more. Raises RequestError then, for a model
        without a template, and for messages that the template refuses.
        """
        if self._template is None:
            why = self.chat_problem or "this model has no chat template: it continues text"
            raise RequestError(f"{why}; use complete instead of chat")

        def render(some: Conversation) -> str:
            own = adapted(some, self._info.chat_template or "")
            return own.rendered(lambda it: self._rendered(it, stopped))

        text = render(conversation)
        _need_nothing_left_out(conversation, text, render)
        return self.encode(text)

    def _rendered(self, conversation: Conversation, stopped: Callable[[], bool]) -> str:
        assert self._template is not None
        special = {
            "bos_token": self._special(self._info.bos),
            "eos_token": self._special(self._info.eos[0] if self._info.eos else None),
        }
        values = self._shield.values(conversation.values())
        return self._shield.rendered(self._template.render({**special, **values}, stopped))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without control tokens."""
        return self._encoding.decode(ids, True) if ids else ""

    def _special(self, token: int | None) -> str:
        return "" if token is None else self._encoding.decode([token], False)


def _need_nothing_left_out(
    conversation: Conversation, text: str, render: Callable[[Conversation], str]
) -> None:
    """Raises RequestError where a template gives the same text without tools, or what they did."""
    for what, other in conversation.without():
        try:
            same = render(other) == text
        except RequestError:
            continue  # so it looks at them
        if same:
            raise RequestError(
                f"the model's chat template does not know {what}: it would leave them out; say in "
                "words what the model should know, or use a model that was taught to call tools"
            )
