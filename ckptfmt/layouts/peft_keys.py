"""What the names of an adapter's tensors say: which module they change, and as what.

PEFT writes `base_model.model.<module>.lora_A.weight`; whatever else lies in an adapter is a whole tensor that takes
the place of the base's: a module trained in full, a bias, a resized embedding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "base_model.model."
LORA_PARTS: Final = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
)
"""What vanilla LoRA and DoRA write below a module."""

TOKENS: Final = ("token_adapter.trainable_tokens_delta", "trainable_tokens_delta")
_HELD: Final = ".base_layer"
_VARIANTS: Final = (
    "velora_config",
    "monteclora_config",
    "kasa_config",
    "use_bdlora",
    "use_qalora",
    "corda_config",
)
_PLAIN_INITS: Final = frozenset({"gaussian", "eva", "orthogonal", "lora_ga"})
"""Ways to begin that leave base and arithmetic as they are; pissa, olora, loftq and mica do not."""


@dataclass(slots=True)
class AdapterKeys:
    """An adapter's tensors, sorted by what they do.

    Attributes:
        lora: by module, its parts by `LORA_PARTS` and the names of their tensors.
        tokens: by module, the tensor of its trained rows.
        held: by base tensor name, the tensor that PEFT loads into the base itself (`<module>.base_layer.bias`, or a
            module that it did not wrap).
        saved: by base tensor name, the tensor of a module trained in full (`modules_to_save`).
        other: names that nothing above explains.
    """

    lora: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)


def read_keys(names: Iterable[str], config: Mapping[str, Any]) -> AdapterKeys:
    """Sort the names of an adapter's tensors."""
    keys = AdapterKeys()
    saved = saved_modules(config)
    for name in sorted(names):
        key = name.removeprefix(PREFIX)
        module, part = split_lora(key)
        if part:
            keys.lora.setdefault(module, {})[part] = name
        elif token := next((each for each in TOKENS if key.endswith("." + each)), None):
            keys.tokens[key.removesuffix("." + token)] = name
        elif not name.startswith(PREFIX) or ".lora_" in key:
            keys.other.append(name)
        elif _HELD + "." in key:
            keys.held["".join(key.rsplit(_HELD, 1))] = name
        elif is_saved(key, saved):
            keys.saved[key] = name
        else:
            keys.held[key] = name
    return keys


def saved_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules trained in full. Source: peft adds the heads of classifiers by itself (`peft_model.py`)."""
    named = tuple(config.get("modules_to_save") or ())
    if config.get("task_type") in {"SEQ_CLS", "TOKEN_CLS"}:
        return (*named, "classifier", "score")
    return (*named, "qa_outputs") if config.get("task_type") == "QUESTION_ANS" else named


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """A module's own rank or alpha. Source: peft's `get_pattern_key`, the first pattern that matches its name's end."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def lora_scaling(config: Mapping[str, Any], module: str, rank: int, *, weight: float = 1.0) -> float | None:
    """`alpha / r`, or `alpha / sqrt(r)` with rsLoRA, times the adapter's weight; None where a module's alpha is null.

    Patterns are run as regular expressions: those of a file from elsewhere must have been checked.
    """
    alpha = pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    if alpha is None:
        return None
    scaling: float = weight * alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scaling


def lora_variant(config: Mapping[str, Any]) -> str | None:
    """The setting by which LoRA is more than `W + s * B @ A` and its DoRA form; None where it is not."""
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool) and init not in _PLAIN_INITS:
        return "init_lora_weights"
    return next((name for name in _VARIANTS if config.get(name)), None)


def is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether peft would put a layer on a module. Source: `check_target_module_exists` and `match_target_against_key`.

    Where the configuration leaves the choice to peft (no `target_modules`, "all-linear"), whatever has tensors is.
    """
    targets = config.get("target_modules")
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(f".{module}".endswith(f".{target}") for target in targets)


def split_lora(key: str) -> tuple[str, str]:
    """Module and part of a LoRA tensor's name without its prefix; the name itself and '' for any other."""
    if key.endswith(".lora_magnitude_vector.weight"):
        return key.removesuffix(".lora_magnitude_vector.weight"), "lora_magnitude_vector"
    part = next((part for part in LORA_PARTS if key.endswith("." + part)), "")
    return key.removesuffix("." + part) if part else key, part


def is_saved(key: str, saved: tuple[str, ...]) -> bool:
    """Whether a name is one of the modules trained in full, or lies below one."""
    return any(re.match(rf"(^|.*\.){re.escape(module)}($|\..*)", key) for module in saved)
