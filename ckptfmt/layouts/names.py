"""Keys of state dicts as names: without the wrappers that tools leave in them, and adapters told from weights.

Model tensors get the name that the plain model's `state_dict()` gives them. Tensors that PEFT put into a model get
the name that PEFT writes into `adapter_model.safetensors`, so one adapter has one spelling wherever it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.layouts.values import clean

PEFT_PREFIX: Final = "base_model.model."
DEFAULT: Final = "default"
"""What PEFT calls an adapter that nobody named."""
NANOGPT_LORA: Final = "nanogpt-lora"
"""`main_weight` + `lora_A`, `lora_B` inside a `.pt`, scale alpha / rank; an embedding's update is `A @ B.T`."""

_WRAPPERS: Final = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_flat_param_module"}
)
"""Segments that torch.compile, FSDP, activation checkpointing and Lightning add; no module is called so."""

_SHARED_PREFIXES: Final = ("module.", PEFT_PREFIX)
"""DDP's and PEFT's prefixes: wrappers only where every key has them."""

_HOLDERS: Final = frozenset({"base_layer", "original_module", "main_weight"})
"""Segments below which an adapted module keeps its base weight."""

_METHODS: Final[dict[str, tuple[str, ...]]] = {
    "LORA": ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"),
    "ADALORA": ("lora_E", "ranknum"),
    "IA3": ("ia3_l",),
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "OFT": ("oft_r", "oft_R"),
    "BOFT": ("boft_R", "boft_s"),
    "VERA": ("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),
    "FOURIERFT": ("fourierft_spectrum",),
    "HRA": ("hra_u",),
    "C3A": ("c3a_kernel",),
    "MISS": ("miss_block",),
    "SHIRA": ("shira_weight",),
    "RANDLORA": ("randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B"),
    "TRAINABLE_TOKENS": ("trainable_tokens_delta",),
}
"""Names of the parameters that PEFT methods add to a module. Source: `adapter_layer_names` of peft's tuners."""

_METHOD_OF: Final = {segment: method for method, segments in _METHODS.items() for segment in segments}
_LEAVES: Final = frozenset({"weight", "bias"})
_BARE: Final = frozenset({"lora_magnitude_vector"})
"""Modules that PEFT writes without their `.weight`: DoRA's magnitude was a parameter before it was a module."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a key means.

    `adapter` is None for a model tensor; `method` None where the key does not tell; `outside` marks what a module
    that holds a PEFT model has of its own (a router): it is not the model's.
    """

    name: str
    adapter: str | None = None
    method: str | None = None
    outside: bool = False


def name_keys(keys: Sequence[str]) -> tuple[Named, ...]:
    """Name the keys of one model's whole state dict, in their order."""
    split = [[part for part in clean(key).split(".") if part not in _WRAPPERS] for key in keys]
    while prefix := next((prefix for prefix in _SHARED_PREFIXES if split and _all_have(split, prefix)), None):
        length = prefix.count(".")
        split = [parts[length:] for parts in split]
    adapted = any(part in _METHOD_OF for parts in split for part in parts)
    unwrapped = [_unwrapped(parts) if adapted else None for parts in split]
    if any(unwrapped):
        return tuple(
            _name(inner, nanogpt=False) if inner else Named(".".join(parts), outside=True)
            for parts, inner in zip(split, unwrapped, strict=True)
        )
    nanogpt = any("main_weight" in parts for parts in split)
    return tuple(_name(parts, nanogpt=nanogpt) for parts in split)


def name_adapter_key(key: str) -> str:
    """The name of a tensor in an adapter file: its key without the wrappers of torch.compile and FSDP."""
    return ".".join(part for part in clean(key).split(".") if part not in _WRAPPERS)


def method_of(keys: Sequence[str]) -> str | None:
    """The PEFT method that keys of an adapter file give away; None where they do not."""
    parts = {part for key in keys for part in key.split(".")}
    if parts & set(_METHODS["ADALORA"]):
        return "ADALORA"
    return next((_METHOD_OF[part] for part in sorted(parts) if part in _METHOD_OF), None)


def _unwrapped(parts: list[str]) -> list[str] | None:
    """What follows PEFT's prefix, and the user's module that holds the PEFT model; None without that prefix."""
    pairs = itertools.pairwise(parts)
    at = next((at for at, pair in enumerate(pairs) if pair == ("base_model", "model")), None)
    return None if at is None or at + 2 >= len(parts) else parts[at + 2 :]


def _all_have(split: list[list[str]], prefix: str) -> bool:
    head = prefix.rstrip(".").split(".")
    return all(len(parts) > len(head) and parts[: len(head)] == head for parts in split)


def _name(parts: list[str], *, nanogpt: bool) -> Named:
    for at, part in enumerate(parts):
        rest = parts[at + 1 :]
        if part == "modules_to_save" and len(rest) > 1:
            return Named(PEFT_PREFIX + ".".join(parts[:at] + rest[1:]), rest[0])
        if part in _METHOD_OF:
            method = _METHOD_OF[part]
            if rest and rest[0] not in _LEAVES:
                leaf = [] if part in _BARE else rest[1:]
                return Named(PEFT_PREFIX + ".".join(parts[: at + 1] + leaf), rest[0], method)
            return Named(".".join(parts), DEFAULT, NANOGPT_LORA if nanogpt else method)
    return Named(".".join(part for part in parts if part not in _HOLDERS))
