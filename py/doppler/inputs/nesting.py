"""How deep JSON is nested, before it is parsed: the parser calls itself for each level, and what a
page has for calls is too little for a file that means harm. The whole engine would stop with it.
"""

from __future__ import annotations

import re

DEEPEST = 64  # no file of a model has a third of it
_OTHERS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_STRING = re.compile(rb'"[^"]*"?')


def is_too_deep(data: bytes) -> bool:
    """Whether JSON's text, sound or not, may be nested deeper than twice DEEPEST."""
    brackets = _brackets(data)
    for level in range(DEEPEST):  # pairs are taken away from the inside
        rest = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(rest) == len(brackets):
            return level + len(rest) > 2 * DEEPEST  # what is left may all be open
        brackets = rest
    return len(brackets) > DEEPEST


def _brackets(data: bytes) -> bytes:
    """Those outside of strings. A vocabulary has a million strings, so that few steps are Python's:
    two quotes with nothing to count between them may go, whichever strings they are of.
    """
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    quoted = unescaped.translate(None, _OTHERS).replace(b'""', b"")
    return _STRING.sub(b"", quoted)
