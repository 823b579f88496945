"""The tokenizer of a Hugging Face folder: tokenizer.json as it is, and what stands around it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from doppler.errors import FormatError
from doppler.formats.ends import CONTROLS, ends
from doppler.formats.safetensors import read_json
from doppler.formats.vocabulary import Vocabulary
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import LARGEST_INT, Fields
from doppler.inputs.small import read_small
from doppler.inputs.source import Source

_TOKENIZER = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
_STEPS = {  # of tokenizer.json, and where a sequence has its members
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_MODELS = ("BPE", "Unigram", "WordPiece")  # kinds of tokenizer.json that the page reads
# Tokenizers of other libraries, which are not read.
_OTHERS = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)


def no_tokenizer(files: Collection[str]) -> str:
    """What a folder without tokenizer.json is told."""
    others = [name for name in _OTHERS if name in files]
    instead = f" ({' and '.join(others)} cannot be read)" if others else ""
    return (
        f"there is no {_TOKENIZER}{instead}: the model has no tokenizer and takes token ids only; "
        f"put its {_TOKENIZER} beside config.json and convert it again"
    )


async def vocabulary_from_files(files: Mapping[str, Source], buffers: Buffers) -> Vocabulary | None:
    """Reads the folder's files by name; None where there is no tokenizer.json.

    Raises FormatError for files that are damaged.
    """
    if _TOKENIZER not in files:
        return None
    source = files[_TOKENIZER]
    data = await read_small(source, _TOKENIZER, buffers)
    tokens = _Tokens(Fields(await read_json(source, _TOKENIZER, buffers), _TOKENIZER))
    settings = await read_optional(files, _SETTINGS, buffers)
    begin = tokens.begin()
    bos = begin if begin is not None else tokens.named(settings, "bos_token")
    given = [tokens.named(settings, "eos_token")]
    for name in ("generation_config.json", "config.json"):
        config = await read_optional(files, name, buffers)
        for place in (config, config.table("text_config")):
            given += [token for token in _ids(place, "eos_token_id") if token >= 0]
    # Without a step that adds tokens the settings say whether there is one before a text.
    wanted = settings.flag("add_bos_token", False) and not tokens.has_template
    return Vocabulary(
        json=data,
        bos=bos,
        eos=ends(tokens.by_name, [token for token in given if token is not None]),
        add_bos=bos is not None and (begin is not None or wanted),
        chat_template=await _template(files, settings, buffers),
    )


async def read_optional(files: Mapping[str, Source], name: str, buffers: Buffers) -> Fields:
    """The fields of one of the folder's files of JSON; none where it is not there."""
    return Fields(await read_json(files[name], name, buffers) if name in files else {}, name)


def _ids(fields: Fields, key: str) -> list[int]:
    """One id or several, below 0 for none; none where the field is absent."""
    if isinstance(fields.get(key), list):
        return fields.integers(key, least=-LARGEST_INT)
    return [fields.integer(key, least=-LARGEST_INT)] if fields.has(key) else []


def _steps(fields: Fields, key: str, members: str) -> list[Fields]:
    """A step of tokenizer.json, and those that it is a sequence of. Each says its type."""
    if not fields.has(key):
        return []
    step = fields.table(key)
    steps = [step, *step.tables(members)]
    for each in steps:
        each.text("type")
    return steps


class _Tokens:
    """What tokenizer.json says of single tokens."""

    def __init__(self, fields: Fields) -> None:
        self._added: dict[str, int] = {}
        for added in fields.tables("added_tokens"):
            self._added.setdefault(added.text("content"), added.integer("id"))
        model = fields.table("model")
        if not model.has("vocab"):
            raise model.error("vocab", "the tokens and their ids")
        if model.has("type"):  # older files do not say it
            kind = model.choice("type", _MODELS)
            if kind == "BPE" and not isinstance(model.get("merges"), list):
                raise model.error("merges", "a list of pairs of tokens")
        # A list of pieces is Unigram's, whose special tokens are among those that were added.
        self._vocab = (
            Fields({}, "") if isinstance(model.get("vocab"), list) else model.table("vocab")
        )
        if (odd := next((t for t in self._vocab if not self._is_id(t)), None)) is not None:
            raise self._vocab.error(odd, "the id of a token")
        steps = {key: _steps(fields, key, members) for key, members in _STEPS.items()}
        self._steps = steps["post_processor"]

    def _is_id(self, text: str) -> bool:
        value = self._vocab.get(text)
        return type(value) is int and 0 <= value <= LARGEST_INT

    @property
    def by_name(self) -> dict[str, int]:
        """Ids of the tokens that may be known by name."""
        known = {name: self._vocab.integer(name) for name in CONTROLS if self._vocab.has(name)}
        return {**known, **self._added}

    @property
    def has_template(self) -> bool:
        """Whether a step says which tokens texts get."""
        return any(step.get("type") == "TemplateProcessing" for step in self._steps)

    def named(self, settings: Fields, key: str) -> int | None:
        """The id of a token that is given as a text, or as an object with `content`."""
        if not settings.has(key):
            return None
        given = isinstance(settings.get(key), dict)
        return self._id(settings.table(key).text("content") if given else settings.text(key))

    def _id(self, text: str) -> int | None:
        if text in self._added:
            return self._added[text]
        return self._vocab.integer(text) if self._vocab.has(text) else None

    def begin(self) -> int | None:
        """The token that is put before every text, None where there is none."""
        for step in self._steps:
            single = step.tables("single") if step.get("type") == "TemplateProcessing" else []
            if single and single[0].has("SpecialToken"):
                text = single[0].table("SpecialToken").text("id")
                ids = step.table("special_tokens").table(text).integers("ids", [])
                return ids[0] if ids else self._id(text)
        return None


async def _template(files: Mapping[str, Source], settings: Fields, buffers: Buffers) -> str | None:
    """chat_template.jinja where there is one, else what tokenizer_config.json holds."""
    if _TEMPLATE in files:
        data = await read_small(files[_TEMPLATE], _TEMPLATE, buffers)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{_TEMPLATE} is no text in UTF-8: {error.reason} at byte {error.start}; get it "
                "again, or convert without it a model that then continues texts"
            ) from error
    if isinstance(settings.get("chat_template"), list):  # several by name
        several = settings.tables("chat_template")
        named = {item.text("name"): item.text("template") for item in several}
        return named.get("default")
    return settings.text("chat_template", "") or None
