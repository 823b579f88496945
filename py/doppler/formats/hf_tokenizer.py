"""The tokenizer of a Hugging Face folder: tokenizer.json as it is, and what stands around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from doppler.buffers import Buffers
from doppler.errors import FormatError
from doppler.formats.safetensors import read_json
from doppler.formats.vocabulary import Vocabulary
from doppler.small import read_small
from doppler.source import Source

_TOKENIZER = "tokenizer.json"
_TEMPLATE = "chat_template.jinja"


async def vocabulary_from_files(files: Mapping[str, Source], buffers: Buffers) -> Vocabulary | None:
    """Reads the folder's files by name; None where there is no tokenizer.json."""
    if _TOKENIZER not in files:
        return None
    try:
        return await _vocabulary(files, buffers)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{_TOKENIZER}, tokenizer_config.json or {_TEMPLATE} is damaged: {error!r}; "
            "fetch them again, or remove them to convert a model that takes token ids only"
        ) from error


async def _vocabulary(files: Mapping[str, Source], buffers: Buffers) -> Vocabulary:
    source = files[_TOKENIZER]
    data = await read_small(source, _TOKENIZER, buffers)
    document = await read_json(source, _TOKENIZER, buffers)
    settings = await _optional(files, "tokenizer_config.json", buffers)
    generation = await _optional(files, "generation_config.json", buffers)
    config = await _optional(files, "config.json", buffers)
    bos = _token(document, settings.get("bos_token"))
    ends = [_token(document, settings.get("eos_token"))]
    for place in (generation, config):
        value = place.get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    return Vocabulary(
        json=data,
        bos=bos,
        eos=tuple(dict.fromkeys(token for token in ends if type(token) is int)),
        add_bos=bos is not None and _begins_with_bos(document, settings, bos),
        chat_template=await _template(files, settings, buffers),
    )


async def _optional(files: Mapping[str, Source], name: str, buffers: Buffers) -> dict[str, Any]:
    return await read_json(files[name], name, buffers) if name in files else {}


def _token(document: dict[str, Any], token: Any) -> int | None:
    """The id of a token given as text or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    for added in document.get("added_tokens") or ():
        if added.get("content") == text:
            return int(added["id"])
    vocab = (document.get("model") or {}).get("vocab")
    found = vocab.get(text) if isinstance(vocab, dict) and isinstance(text, str) else None
    return found if type(found) is int else None


def _begins_with_bos(document: dict[str, Any], settings: dict[str, Any], bos: int) -> bool:
    """Whether a text gets the begin token: as the post-processor says, else the settings."""
    processor = document.get("post_processor") or {}
    for step in (processor, *(processor.get("processors") or ())):
        if step.get("type") == "TemplateProcessing":
            first = (step.get("single") or [{}])[0].get("SpecialToken", {}).get("id")
            return first is not None and _token(document, first) == bos
    return settings.get("add_bos_token") is True


async def _template(
    files: Mapping[str, Source], settings: dict[str, Any], buffers: Buffers
) -> str | None:
    """chat_template.jinja where there is one, else what tokenizer_config.json holds."""
    if _TEMPLATE in files:
        return (await read_small(files[_TEMPLATE], _TEMPLATE, buffers)).decode()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
