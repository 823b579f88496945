"""The parts of an answer: what a model thought, says and calls, told apart as tokens come.

A model marks them with structure tokens of its vocabulary, which are read as ids: text that looks
like one stays text. Where the vocabulary lacks them, a model may spell them out; that is read from
the text: thoughts at the beginning of an answer only, calls where a request has tools. Which
markers there are is data: PAIRS, CALLS, and the messages of harmony, GPT-OSS's format.
"""

from __future__ import annotations

from collections.abc import Sequence

from doppler.text.harmony import Harmony
from doppler.text.markers import Markers
from doppler.text.pairs import Pairs
from doppler.text.parts import Reader
from doppler.text.tools import Tools


class Channels(Markers):
    """They, and who reads them."""

    def reader(self, prompt: Sequence[int], tools: Tools) -> Reader:
        """A reader of the answer to a chat's prompt, in whose end it may have begun already."""
        return (Harmony if self.harmony else Pairs)(self, tools, prompt)
