"""PEFT's adapter_config.json: which modules an adapter is of, with which ranks and scales.

What would change the result and is not followed here is refused by its name: DoRA and the like, and
any setting that is not known and is not off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doppler.adapters.patterns import Pattern
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import LARGEST_INT, Fields, shown

CONFIG_FILE = "adapter_config.json"
MOST_RANK = 4096
MOST_TOKENS = 4096  # of an invocation
_MOST_NAMES = 4096  # of modules in one list: some list each module of each layer
_MOST_PATTERNS = 256

# Settings that matter in training, or say where something came from.
_NO_MATTER = {
    *("base_model_name_or_path", "auto_mapping", "inference_mode", "revision", "task_type"),
    *("peft_version", "lora_dropout", "runtime_config", "qalora_group_size", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
    "fan_in_fan_out",  # how the base lies in memory; A and B lie the same either way
}
_READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "bias"),
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("alora_invocation_tokens", "init_lora_weights", "target_parameters"),
}
_CALLED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias of LoRA's B",
    "modules_to_save": "modules saved whole (modules_to_save)",
    "trainable_token_indices": "embeddings of single tokens (trainable_token_indices)",
    "layer_replication": "layers that stand there twice (layer_replication)",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron's layers",
}
_OTHER_TYPES = {"ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA"}
# Others change the base's weights before training, so that the adapter is of another base.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "true", "false")


@dataclass(frozen=True)
class LoraConfig:
    """What adapter_config.json says; `where` is that file. Patterns are by their PEFT keys."""

    where: str
    rank: int
    alpha: float
    is_rank_stabilised: bool
    targets: tuple[str, ...] | Pattern | None  # None: all linear modules
    excluded: tuple[str, ...] | Pattern
    layers: tuple[int, ...]  # empty: all
    layer_lists: tuple[Pattern, ...]  # what stands before a layer's number; empty: anything
    ranks: tuple[tuple[Pattern, int], ...]
    alphas: tuple[tuple[Pattern, float], ...]
    invocation_tokens: tuple[int, ...] | None
    parameters: tuple[str, ...] = ()  # names, or ends of names, of stacked experts

    def is_target(self, module: str) -> bool:
        """Whether the adapter changes the module of that name."""
        if _is_named(self.excluded, module):
            return False
        if self.targets is None:
            return True
        if isinstance(self.targets, Pattern):
            return self.targets.is_whole(module)
        return _is_named(self.targets, module) and self._is_of_layers(module)

    def rank_of(self, module: str) -> int:
        """The rank that the file's A and B of a module must have."""
        return next((rank for key, rank in self.ranks if key.starts(module)), self.rank)

    def scale_of(self, module: str) -> float:
        """What B·A of a module is multiplied by."""
        rank = self.rank_of(module)
        alpha = next((alpha for key, alpha in self.alphas if key.starts(module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)

    def is_parameter(self, path: str) -> bool:
        """Whether the adapter changes the parameter of that name, which is no module."""
        return _is_named(self.parameters, path)

    def _is_of_layers(self, module: str) -> bool:
        """Whether the first number of a layer in a name is one of those that are changed."""
        if not self.layers:
            return True
        parts = module.split(".")
        for at in range(2, len(parts) - 1):  # behind the list of layers, and what that is in
            if not parts[at].isdecimal():
                continue
            before = ".".join(parts[:at])
            if not self.layer_lists or any(it.is_whole(before) for it in self.layer_lists):
                return int(parts[at]) in self.layers
        return False


def lora_config(data: Mapping[str, Any], where: str) -> LoraConfig:
    """Reads adapter_config.json. UnsupportedError names what Doppler cannot do of it."""
    fields = Fields(data, where)
    _refuse_others(fields)
    return LoraConfig(
        where=where,
        rank=fields.integer("r", 8, least=1, most=MOST_RANK),
        alpha=fields.number("lora_alpha", 8.0),
        is_rank_stabilised=fields.flag("use_rslora", False),
        targets=_targets(fields),
        excluded=_names(fields, "exclude_modules") if fields.get("exclude_modules") else (),
        layers=_layers(fields),
        layer_lists=_layer_lists(fields),
        ranks=tuple(
            (key, value.integer(name, least=1, most=MOST_RANK))
            for name, key, value in _by_pattern(fields, "rank_pattern")
        ),
        alphas=tuple(
            (key, value.number(name)) for name, key, value in _by_pattern(fields, "alpha_pattern")
        ),
        invocation_tokens=invocation_tokens(fields, "alora_invocation_tokens"),
        parameters=_listed(fields, "target_parameters"),
    )


def invocation_tokens(fields: Fields, key: str) -> tuple[int, ...] | None:
    """The ids from which on an activated adapter changes anything; None: it always does."""
    if not fields.has(key):
        return None
    ids = fields.integers(key, most=LARGEST_INT)
    if not 0 < len(ids) <= MOST_TOKENS:
        raise FormatError(f"{fields.where}: {key} must be 1 to {MOST_TOKENS} token ids")
    return tuple(ids)


def _refuse_others(fields: Fields) -> None:
    kind = fields.text("peft_type", "LORA")
    if kind != "LORA":
        called = _OTHER_TYPES.get(kind, shown(kind)[1:-1])
        raise UnsupportedError(
            f"{fields.where}: the adapter is of kind {called}; Doppler reads LoRA alone"
        )
    if fields.text("bias", "none") != "none":
        raise UnsupportedError(
            f"{fields.where}: bias is {shown(fields.get('bias'))}: Doppler reads adapters without "
            "biases of their own alone"
        )
    start = fields.get("init_lora_weights")
    if not (start is None or type(start) is bool or _is_plain_start(start)):
        raise UnsupportedError(
            f"{fields.where}: init_lora_weights is {shown(start)}, which changes the base before "
            "training; save the adapter so that it is of the plain base (PEFT: save_pretrained "
            "with path_initial_model_for_weight_conversion)"
        )
    for key in fields:
        is_off = fields.get(key) in (None, False, "", [], {}) or key in _READ | _NO_MATTER
        if not is_off:
            called = _CALLED.get(key, f"the setting {shown(key)}")
            raise UnsupportedError(
                f"{fields.where}: the adapter has {called}, which Doppler does not know"
            )


def _is_plain_start(start: Any) -> bool:
    return isinstance(start, str) and start.lower() in _PLAIN_STARTS


def _targets(fields: Fields) -> tuple[str, ...] | Pattern | None:
    value = fields.get("target_modules")
    if isinstance(value, str) and value.lower() == "all-linear":
        return None
    if not value:
        if fields.get("target_parameters"):
            return ()
        raise FormatError(f"{fields.where}: target_modules names no module")
    return _names(fields, "target_modules")


def _names(fields: Fields, key: str) -> tuple[str, ...] | Pattern:
    """A list of ends of names, or a pattern of whole ones."""
    if isinstance(fields.get(key), str):
        return Pattern(fields.text(key), f"{fields.where}: {key}")
    return _listed(fields, key)


def _listed(fields: Fields, key: str) -> tuple[str, ...]:
    names = fields.texts(key, [])
    if len(names) > _MOST_NAMES:
        raise FormatError(f"{fields.where}: {key} has more than {_MOST_NAMES} names")
    return tuple(names)


def _is_named(names: tuple[str, ...] | Pattern, module: str) -> bool:
    if isinstance(names, Pattern):
        return names.is_whole(module)
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layers(fields: Fields) -> tuple[int, ...]:
    key = "layers_to_transform"
    if type(fields.get(key)) is int:
        return (fields.integer(key),)
    return tuple(fields.integers(key, []))


def _layer_lists(fields: Fields) -> tuple[Pattern, ...]:
    key = "layers_pattern"
    is_one = isinstance(fields.get(key), str)
    names = [fields.text(key)] if is_one else fields.texts(key, [])
    if len(names) > _MOST_PATTERNS:
        raise FormatError(f"{fields.where}: {key} has more than {_MOST_PATTERNS} patterns")
    return tuple(Pattern(rf".*\.{it}", f"{fields.where}: {key}") for it in names if it)


def _by_pattern(fields: Fields, key: str) -> list[tuple[str, Pattern, Fields]]:
    """Each pattern of a table, which matches a name or its end: as PEFT composes it."""
    table = fields.table(key)
    if len(table) > _MOST_PATTERNS:
        raise FormatError(f"{fields.where}: {key} has more than {_MOST_PATTERNS} patterns")
    where = f"{fields.where}: {key}"
    return [(name, Pattern(rf"(.*\.)?({name})$", where), table) for name in table]
