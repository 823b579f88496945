"""PEFT folders: adapter_config.json and adapter_model.safetensors -> what changes of a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doppler.adapters.lora_config import CONFIG_FILE, LoraConfig, lora_config
from doppler.adapters.mapping import Layout, Pair, deltas_of
from doppler.adapters.matrix import Delta
from doppler.adapters.parameters import stacked_pairs
from doppler.config.model import ModelConfig
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architectures import of_config
from doppler.formats.safetensors import SafeTensor, read_json, read_safetensors
from doppler.formats.tensor_names import is_beside_text, weight_of_module
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown
from doppler.inputs.source import Source

WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_WRAPPED = ".base_layer"
_LONGEST_NAME = 300  # of a module
_SIDES = {".lora_A.weight": "lora_A", ".lora_B.weight": "lora_B"}
_OTHERS = {  # parts of names that no plain LoRA has
    ".lora_magnitude_vector": "DoRA's magnitudes",
    ".lora_embedding_": "LoRA of embeddings",
    ".lora_B.bias": "a bias of LoRA's B",
    ".modules_to_save.": "modules saved whole",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".vera_": "VeRA",
    ".ia3_": "IA³",
    ".oft_": "OFT",
}


@dataclass(frozen=True)
class ReadAdapter:
    """What an adapter changes of a base, and the token ids from which on (None: from the start).

    `left_out` are modules of what sees or hears beside the text model.
    """

    deltas: tuple[Delta, ...]
    invocation_tokens: tuple[int, ...] | None
    left_out: tuple[str, ...] = ()


async def read_peft(
    files: Mapping[str, Source], base: ModelConfig, buffers: Buffers, where: str
) -> ReadAdapter:
    """An adapter of a model of that config, from the files by name of a folder that is `where`.

    Raises FormatError or UnsupportedError for a damaged one, one of another base, and one of a kind
    that Doppler does not know.
    """
    if CONFIG_FILE not in files:
        raise FormatError(
            f"{where} has no {CONFIG_FILE}: give a folder that PEFT saved, or a .gguf adapter"
        )
    data = await read_json(files[CONFIG_FILE], CONFIG_FILE, buffers)
    config = lora_config(data, files[CONFIG_FILE].name)
    if WEIGHTS_FILE not in files:
        raise _no_weights(files, where)
    tensors = await read_safetensors(files[WEIGHTS_FILE], buffers)
    modules = _modules(tensors, files[WEIGHTS_FILE].name)
    kept = [module for module in modules if not is_beside_text(module)]
    pairs = _pairs(config, base, {module: modules[module] for module in kept}, buffers)
    architecture = of_config(base.architecture, "the base")
    deltas = await deltas_of(base, pairs, Layout(architecture.hf_pairs, False), buffers)
    left_out = tuple(module for module in modules if module not in {*kept})
    return ReadAdapter(deltas, config.invocation_tokens, left_out)


def _no_weights(files: Mapping[str, Source], where: str) -> FormatError | UnsupportedError:
    if _PICKLED in files:
        return UnsupportedError(
            f"{files[_PICKLED].name} is a pickle, which can run code when it is read, and "
            "Doppler reads none; load the adapter with PEFT and save it again: "
            f"save_pretrained(FOLDER) writes {WEIGHTS_FILE}"
        )
    return FormatError(f"{where} has no {WEIGHTS_FILE}; get the adapter again")


def _modules(
    tensors: Mapping[str, SafeTensor], where: str
) -> dict[str, tuple[SafeTensor, SafeTensor]]:
    """A and B of each module, by PEFT's name for it. FormatError where one has no other."""
    found: dict[str, dict[str, SafeTensor]] = {}
    for name, tensor in tensors.items():
        module, side = _module_of(name, where)
        found.setdefault(module, {})[side] = tensor
    for module, sides in found.items():
        for side in _SIDES.values():
            if side not in sides:
                raise FormatError(
                    f"{where}: {shown(module)} has no {side}, without which the other is nothing; "
                    "the adapter is incomplete"
                )
    return {module: (sides["lora_A"], sides["lora_B"]) for module, sides in found.items()}


def _module_of(name: str, where: str) -> tuple[str, str]:
    """The module and which of A and B a tensor is."""
    for part, called in _OTHERS.items():
        if part in name:
            raise UnsupportedError(
                f"{where}: tensor {shown(name)} is of {called}, which Doppler does not know"
            )
    ending = next((it for it in _SIDES if name.endswith(it)), None)
    if ending is None or not name.startswith(_PREFIX) or len(name) > _LONGEST_NAME:
        raise FormatError(
            f"{where}: tensor {shown(name)} is none of an adapter, whose names are "
            f"{_PREFIX}MODULE.lora_A.weight and .lora_B.weight"
        )
    return name[len(_PREFIX) : -len(ending)], _SIDES[ending]


def _pairs(
    config: LoraConfig,
    base: ModelConfig,
    modules: Mapping[str, tuple[SafeTensor, SafeTensor]],
    buffers: Buffers,
) -> list[Pair]:
    architecture = of_config(base.architecture, "the base")
    pairs: list[Pair] = []
    for module, (a, b) in modules.items():
        plain = module
        while plain.endswith(_WRAPPED):  # of a module's first parameter, where there are two
            plain = plain.removesuffix(_WRAPPED)
        stacked = plain, a.content, b.content
        if found := stacked_pairs(config, base, architecture, stacked, buffers):
            pairs += found
            continue
        name = weight_of_module(architecture, module)
        if name is None:
            raise FormatError(
                f"{a.source.name}: {shown(module)} is no module of a {architecture.name} model, "
                "which the base is: the adapter is of another model"
            )
        if not config.is_target(module):
            raise FormatError(
                f"{a.source.name} has {shown(module)}, which {config.where} does not choose: the "
                "two files are not of one adapter"
            )
        pair = Pair(name, module, a.content, b.content, config.scale_of(module))
        rank = config.rank_of(module)
        if rank not in pair.a.shape[:1] or rank not in pair.b.shape[1:]:
            raise FormatError(
                f"{a.source.name}: {shown(module)} has an A of shape {pair.a.shape} and a B of "
                f"shape {pair.b.shape}, and {config.where} says that its rank is {rank}"
            )
        pairs.append(pair)
    return pairs
