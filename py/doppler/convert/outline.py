"""What a GGUF model or a safetensors checkpoint would become, read from its headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from doppler.config.model import ModelConfig
from doppler.convert.requantize import quantized
from doppler.errors import DopplerError, FormatError
from doppler.formats.content import Content
from doppler.formats.experts import split_experts
from doppler.formats.gguf import Gguf
from doppler.formats.gguf_config import (
    LONG_FACTORS,
    MOST_PAIRS,
    ROPE_FACTORS,
    SHORT_FACTORS,
    config_from_gguf,
)
from doppler.formats.gguf_split import read_model
from doppler.formats.hf_config import config_from_hf, ties_differ
from doppler.formats.hf_tokenizer import no_tokenizer, read_optional, vocabulary_from_files
from doppler.formats.rows import with_own_rows
from doppler.formats.safetensors import read_checkpoint, read_json
from doppler.formats.sampling_defaults import sampling_from_gguf, sampling_from_hf
from doppler.formats.tensor_names import (
    check_tensors,
    gguf_names,
    is_of_layers,
    is_of_text_model,
    our_name,
    without_unread,
)
from doppler.formats.vocabulary import Vocabulary, vocabulary_from_gguf
from doppler.formats.xielu import with_xielu, xielu_of_gguf
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown
from doppler.inputs.source import Source
from doppler.quantization.block_types import Quant
from doppler.quantization.dequantize import dequantize
from doppler.store.byte_copies import Piece
from doppler.store.byte_layout import Place, lay_out
from doppler.store.manifest import (
    Manifest,
)

_NO_TOKENIZER = "the file holds no tokenizer: the model takes token ids only"


@dataclass(frozen=True)
class Outline:
    """What is to be written, read from headers alone, before any byte of the weights."""

    manifest: Manifest  # without tokenizer, blocks and shards
    pieces: tuple[Piece, ...]
    vocabulary: Vocabulary | None
    warnings: tuple[str, ...] = ()  # what the model will lack, or was guessed, in a sentence each

    @property
    def bytes(self) -> int:
        """What shards, tokenizer and manifest will take, the last about right."""
        tokenizer = 0 if self.vocabulary is None else len(self.vocabulary.json)
        digests = 80 * -(-self.manifest.bytes // self.manifest.block_size)
        return self.manifest.bytes + tokenizer + digests + 300 * len(self.manifest.tensors)


async def outline_gguf(sources: Sequence[Source], buffers: Buffers, name: str) -> Outline:
    """A GGUF model before it is written. Raises FormatError, UnsupportedError or SourceError."""
    gguf = await read_model(sources, buffers)
    names = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
    factors, short, long = [await _rope_factors(gguf, buffers, key) for key in names]
    if bool(short) != bool(long) or (factors and short):
        raise FormatError(
            f"{gguf.name}: it must have {names[0]}, or both {names[1]} and {names[2]}"
        )
    with _naming(gguf.name):
        architecture, config = config_from_gguf(gguf, factors or short, long)
    layers = len(config.layers) if "nextn_predict_layers" in architecture.reads else None
    contents = _by_name(
        (our_name(architecture, key), Content(key, t.type, t.shape, t.source, t.offset))
        for key, t in gguf.tensors.items()
        if is_of_text_model(key) and is_of_layers(key, layers)
    )
    if not config.has_gates:
        contents |= xielu_of_gguf(gguf, len(config.layers), buffers)
    places = _places(config, contents, buffers, gguf.name)
    title = gguf.metadata.get("general.name")
    license_ = gguf.metadata.get("general.license")
    vocabulary = _within(config.vocab, vocabulary_from_gguf(gguf.metadata, gguf.name))
    manifest, pieces = lay_out(config, places, name, title if isinstance(title, str) else name)
    manifest = replace(manifest, license=license_ if isinstance(license_, str) else None)
    sampling, odd = sampling_from_gguf(gguf.metadata, gguf.name)
    warnings = (_NO_TOKENIZER,) if vocabulary is None else vocabulary.warnings
    return Outline(replace(manifest, sampling=sampling), pieces, vocabulary, (*warnings, *odd))


async def outline_safetensors(
    files: Mapping[str, Source], buffers: Buffers, name: str, quants: Sequence[Quant]
) -> dict[Quant, Outline]:
    """A Hugging Face folder's model before it is written, for each of `quants`.

    Raises what outline_gguf does, and RequestError for what is none of QUANTS.
    """
    config, floats = await read_places(files, buffers)
    vocabulary = _within(config.vocab, await vocabulary_from_files(files, buffers))
    warnings = (no_tokenizer(files),) if vocabulary is None else vocabulary.warnings
    sampling, odd = sampling_from_hf(await read_optional(files, "generation_config.json", buffers))
    shapes, outlines = config.tensor_shapes(), {}
    for quant in quants:
        manifest, pieces = lay_out(config, quantized(floats, shapes, quant, buffers), name, name)
        manifest = replace(manifest, sampling=sampling)
        outlines[quant] = Outline(manifest, pieces, vocabulary, (*warnings, *odd))
    return outlines


async def read_places(
    files: Mapping[str, Source], buffers: Buffers
) -> tuple[ModelConfig, Mapping[str, Place]]:
    """The model of a Hugging Face folder: its config, and its tensors by GGUF name."""
    if "config.json" not in files:
        raise FormatError(
            "the folder has no config.json: give a Hugging Face checkpoint's folder, or a .gguf "
            "file itself"
        )
    data = await read_json(files["config.json"], "config.json", buffers)
    with _naming("config.json"):
        architecture, config = config_from_hf(data, "config.json")
    checkpoint = await read_checkpoint(files, buffers)
    where = "the checkpoint"
    contents = _by_name(
        (name, checkpoint[key].content)
        for key, name in gguf_names(architecture, checkpoint, where).items()
    )
    if config.tied and "output.weight" in contents and ties_differ(data):
        config = replace(config, tied=False)
    elif config.tied:
        contents.pop("output.weight", None)
    if not config.has_gates:
        contents = with_xielu(contents, buffers)
    return config, _places(config, contents, buffers, where)


def _by_name(contents: Iterable[tuple[str, Content]]) -> dict[str, Content]:
    """Tensors by their names here. Raises FormatError where two of a file would be the same."""
    found: dict[str, Content] = {}
    for name, content in contents:
        if name in found:
            raise FormatError(
                f"{content.source.name}: the tensors {shown(found[name].name)} and "
                f"{shown(content.name)} are both the model's {name}; the file is damaged"
            )
        found[name] = content
    return found


def _within(rows: int, vocabulary: Vocabulary | None) -> Vocabulary | None:
    """Without a begin token that the model has no row for, with which it could read no text."""
    if vocabulary is None or vocabulary.bos is None or vocabulary.bos < rows:
        return vocabulary
    told = f"the begin token is {vocabulary.bos} and the model knows {rows} tokens: it is left out"
    warnings = (*vocabulary.warnings, told)
    return replace(vocabulary, bos=None, add_bos=False, warnings=warnings)


def _places(
    config: ModelConfig, contents: Mapping[str, Content], buffers: Buffers, where: str
) -> dict[str, Place]:
    """Where each of the model's tensors is. Raises FormatError where they are not the config's."""
    read = without_unread(config, contents)
    tensors = split_experts(config, with_own_rows(config, read, buffers), buffers)
    check_tensors(config, {key: t.shape for key, t in tensors.items()}, where)
    return {key: (t.source, t.offset, t.type) for key, t in tensors.items()}


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """What is wrong with a config is told with the file that it was read from."""
    try:
        yield
    except DopplerError as error:
        if str(error).startswith("config: "):
            raise type(error)(f"{where}: {error}") from error
        raise


async def _rope_factors(gguf: Gguf, buffers: Buffers, name: str) -> tuple[float, ...]:
    tensor = gguf.tensors.get(name)
    if tensor is None:
        return ()
    if len(tensor.shape) != 1 or tensor.shape[0] > MOST_PAIRS or tensor.type.elements > 1:
        raise FormatError(f"{gguf.name}: {name} of shape {tensor.shape} is no rope's")
    data = buffers.to_bytes(await tensor.source.read(tensor.offset, tensor.bytes))
    values = dequantize(tensor.type.name, data, tensor.shape).reshape(-1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise FormatError(f"{gguf.name}: {name} holds divisors that are not positive")
    return tuple(values.tolist())
