"""The closed table of methods: who plans each, and why some cannot be merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ckptfmt.errors import MergeError
from ckptfmt.layouts.names import NANOGPT_LORA
from ckptfmt.layouts.peft_keys import AdapterKeys, read_keys
from ckptfmt.merge.methods.layer_plan import plan_layers
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.lora import plan_lora
from ckptfmt.merge.methods.nanogpt_lora import plan_nanogpt
from ckptfmt.merge.methods.trained import plan_trained
from ckptfmt.merge.protocol import Adapter

Planner = Callable[[Ledger], None]

_SAVE: Final = "save it again with PeftModel.save_pretrained"
_PROMPTS: Final = "it learns inputs, not weights: there is nothing to add to the base"
_ROUTED: Final = "it chooses between experts for each token: no single weights give that"
_LAYERS: Final = (
    *("ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA"),
    *("HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD"),
    *("SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
)

REFUSED: Final[Mapping[str, str]] = {
    "PROMPT_TUNING": _PROMPTS,
    "MULTITASK_PROMPT_TUNING": _PROMPTS,
    "P_TUNING": _PROMPTS,
    "PREFIX_TUNING": _PROMPTS,
    "CPT": _PROMPTS,
    "CARTRIDGE": _PROMPTS,
    "ADAPTION_PROMPT": "it adds gated prompts inside attention: there is nothing to add to the base",
    "XLORA": _ROUTED,
    "POLY": _ROUTED,
    "LILY": _ROUTED,
    "SHADOW": "it runs a second network beside the base: no single weights give that",
}
"""Methods that cannot be merged, with the reason."""


def planner(adapter: Adapter) -> Planner:
    """The planner of an adapter's method.

    Raises:
        MergeError: the method cannot be merged, or is not known.
    """
    method = adapter.method
    if method in REFUSED:
        raise MergeError(
            f"adapter {adapter.name} cannot be merged: {method} is not a change of weights; {REFUSED[method]}",
            hint="use it unmerged, with peft",
        )
    if method not in METHODS:
        raise MergeError(
            f"adapter {adapter.name} cannot be merged: method {method!r} is not known",
            hint=f"known are {', '.join(sorted(METHODS))}",
        )
    if not adapter.tensors:
        raise MergeError(f"adapter {adapter.name} cannot be merged: it has no tensors", hint=_SAVE)
    if not adapter.config:
        raise MergeError(
            f"adapter {adapter.name} cannot be merged: it has no readable configuration: its scaling is not known",
            hint="put the adapter_config.json of its training beside it",
        )
    return METHODS[method]


def _lora(ledger: Ledger) -> None:
    keys = read_keys(ledger.adapter.tensors, ledger.adapter.config)
    _refuse_lora(ledger)
    plan_trained(ledger, keys)
    done, rest = plan_lora(ledger, keys)
    if not rest and not keys.other:
        return
    tensors = [*keys.other, *(name for parts in keys.lora.values() for name in parts.values())]
    plan_layers(ledger, sorted(tensors), done=done)


def _refuse_lora(ledger: Ledger) -> None:
    config = ledger.adapter.config
    if config.get("layer_replication"):
        raise ledger.error(
            "it replicates layers, and peft adds the updates of all replicas to the one weight that they share",
            hint="use it unmerged, with peft",
        )
    if config.get("arrow_config"):
        raise ledger.error(f"Arrow routes between adapters; {_ROUTED}", hint="use it unmerged, with peft")
    if str(config.get("init_lora_weights", "")).startswith("pissa_niter"):
        raise ledger.error(
            "pissa_niter draws random numbers whenever peft loads it, and changes the base by them",
            hint="save it as plain LoRA, with path_initial_model_for_weight_conversion",
        )
    if config.get("alora_invocation_tokens"):
        raise ledger.error(
            "activated LoRA changes only the tokens after its invocation: no single weights give that",
            hint="use it unmerged, with peft",
        )


def _tokens(ledger: Ledger) -> None:
    plan_trained(ledger, read_keys(ledger.adapter.tensors, ledger.adapter.config))


def _layers(ledger: Ledger) -> None:
    """Tensors under names that the base has are trained in full; the others belong to the method's layers."""
    keys = read_keys(ledger.adapter.tensors, ledger.adapter.config)
    base = ledger.base
    held = {name: tensor for name, tensor in keys.held.items() if base.shared(name) is not None}
    layers = [tensor for name, tensor in keys.held.items() if name not in held] + keys.other
    plan_trained(ledger, AdapterKeys(tokens=keys.tokens, held=held, saved=keys.saved))
    plan_layers(ledger, sorted(layers))


METHODS: Final[Mapping[str, Planner]] = {
    "LORA": _lora,
    "TRAINABLE_TOKENS": _tokens,
    NANOGPT_LORA: plan_nanogpt,
    **dict.fromkeys(_LAYERS, _layers),
}
"""Every method that can be merged, by its `peft_type`."""
