"""Text <-> token ids, chat templates, and ids -> text as they stream.

The tokenizer itself is a kept library: Hugging Face's for the web in the page; whatever has
`encode` and `decode` will do, which on CPython is PyPI's `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from doppler.errors import RequestError
from doppler.manifest import TokenizerInfo

REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not yet a whole character


class Encoding(Protocol):
    """A tokenizer: text to ids without special tokens of its own, and back."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; control tokens written in it are recognised."""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """Text of `ids`, with or without control tokens."""


class Template(Protocol):
    """A compiled Jinja chat template."""

    def render(self, values: dict[str, Any]) -> str:
        """The conversation as text."""


class Tokenizer:
    """One model's tokenizer with its special tokens and chat template."""

    def __init__(self, encoding: Encoding, info: TokenizerInfo, template: Template | None) -> None:
        self._encoding, self._info, self._template = encoding, info, template

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Ids of a text to be continued, with the begin token where the model wants one."""
        ids = self._encoding.encode(text)
        bos = self._info.bos
        if self._info.add_bos and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation up to where the assistant answers.

        Raises RequestError for a model without a template or messages that the template refuses.
        """
        if self._template is None:
            raise RequestError(
                "this model has no chat template: it continues text; use complete instead of chat"
            )
        values = {
            "messages": list(messages),
            "add_generation_prompt": True,
            "bos_token": self._special(self._info.bos),
            "eos_token": self._special(self._info.eos[0] if self._info.eos else None),
        }
        ids = self._encoding.encode(self._template.render(values))
        bos = self._info.bos
        if self._info.add_bos and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without control tokens."""
        return self._encoding.decode(ids, True) if ids else ""

    def _special(self, token: int | None) -> str:
        return "" if token is None else self._encoding.decode([token], False)


class TextStream:
    """Ids one by one -> pieces of text, none of which ends inside a character.

    A token's text can depend on those before it (spaces, characters of several tokens), so each
    piece is the difference of two decodes that start a few tokens back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(before[-4:])
        self._shown = len(self._ids)

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        self._ids.append(token)
        whole = self._decode(self._ids)
        if whole.endswith(REPLACEMENT):
            return ""
        return self._take(whole)

    def finish(self) -> str:
        """What is left, with replacement characters for bytes that never became one."""
        return self._take(self._decode(self._ids))

    def _take(self, whole: str) -> str:
        piece = whole[len(self._decode(self._ids[: self._shown])) :]
        if self._shown < len(self._ids):
            self._ids = self._ids[self._shown :]
            self._shown = len(self._ids)
        return piece


class StopText:
    """Holds back the end of a stream while it may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Text that is safe to show; nothing once a stop string has come."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = self._partial(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return held

    def _partial(self, text: str) -> int:
        """Characters at the end of `text` with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class PageEncoding:
    """@huggingface/tokenizers, by way of the worker (web/runtime has the JavaScript side)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).to_py())

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        return str(self._tokenizer.decode(_array(ids), skip_special))


class PageTemplate:
    """@huggingface/jinja, by way of the worker."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def render(self, values: dict[str, Any]) -> str:
        try:
            return str(self._template.render(json.dumps(values)))
        except Exception as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}"
            ) from error


def _array(ids: Sequence[int]) -> Any:
    from pyodide.ffi import to_js

    return to_js([int(i) for i in ids])
