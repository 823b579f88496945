"""Tokenizers for tests, of small vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from doppler.command.encoding import PypiEncoding
from doppler.formats.vocabulary import vocabulary_from_gguf
from doppler.store.manifest import TokenizerInfo
from doppler.text.templates import open_template
from doppler.text.tokenizer import Tokenizer
from gguf_files import VOCABULARY
from tiny_models import byte_letters

NO_INFO = {"bytes": 1, "blake3": "", "bos": None, "eos": (), "add_bos": False}


def sentencepiece(controls: Sequence[str] = (), words: Sequence[str] = ()) -> bytes:
    """A vocabulary that puts a space before a text and drops it after: all bytes, few letters."""
    tokens = [*VOCABULARY["tokenizer.ggml.tokens"], *words, *controls]
    kinds = [kind for _, kind in VOCABULARY["tokenizer.ggml.token_type"]]
    scores = VOCABULARY["tokenizer.ggml.scores"]
    metadata = {
        **VOCABULARY,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([*kinds, *[1] * len(words), *[3] * len(controls)]),
        "tokenizer.ggml.scores": np.array(
            [*scores, *[-1.0] * (len(words) + len(controls))], np.float32
        ),
    }
    return _document(metadata)


def byte_level(
    controls: Sequence[str] = (), defined: Sequence[str] = (), plain: Sequence[str] = ()
) -> bytes:
    """A vocabulary of bytes: no merges. `defined` are added tokens that are no control tokens,
    `plain` are not looked for in a text.
    """
    letters = byte_letters()
    tokens = [*letters, *controls, *defined, *plain]
    kinds = [1] * len(letters) + [3] * len(controls) + [4] * len(defined) + [1] * len(plain)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds),
        "tokenizer.ggml.merges": [],
    }
    return _document(metadata)


def _document(metadata: dict[str, Any]) -> bytes:
    vocabulary = vocabulary_from_gguf(metadata, "test")
    assert vocabulary is not None
    return vocabulary.json


def tokenizer_of(document: bytes, **info: Any) -> Tokenizer:
    """A tokenizer; without a chat template where `info` has none."""
    about = TokenizerInfo(**{**NO_INFO, "chat_template": None, **info})
    return Tokenizer(PypiEncoding(document), about, open_template(about.chat_template)[0])
