"""Planning what goes through peft's layers: which modules, and whether peft can merge them, without a tensor.

peft's layers are put on a shadow, tensors without contents are loaded into them, and those are merged: whatever peft
refuses, it refuses there.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import torch
from torch import nn

from ckptfmt.layouts.peft_keys import PREFIX, is_saved
from ckptfmt.merge.methods.arithmetic import held_dtype
from ckptfmt.merge.methods.experts import AddExpert, by_rows, places, wrappers
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.peft_layers import NAME, REFUSALS, SHARED, LayerChange, PeftLayers, Wrapped, quiet
from ckptfmt.merge.methods.shadow import Shadow, build_shadow, stand_in
from ckptfmt.wording import few

_FOREIGN: Final = ("megatron_config", "megatron_core", "auto_mapping", "base_model_name_or_path")
"""Parts of a configuration that name modules to import or models to fetch: not for a merge."""


def plan_layers(ledger: Ledger, tensors: Sequence[str], done: Collection[str] = ()) -> None:
    """Plan the modules of an adapter through peft's layers.

    Args:
        ledger: takes the changes.
        tensors: the adapter's tensors that belong to layers.
        done: modules that are planned already.

    Raises:
        MergeError: peft cannot merge it, in peft's words.
    """
    transposed = bool(ledger.adapter.config.get("fan_in_fan_out"))
    shadow = build_shadow(ledger.base, transposed=transposed)
    config = _own_config(ledger, shadow)
    layers = PeftLayers(ledger.adapter, ledger.setting, shadow, config, tuple(tensors))
    wrapped = _rehearse(ledger, layers)
    _refuse_unplaced(ledger, shadow, wrapped)
    if wrapped.missing:
        raise ledger.error(f"it lacks the tensor {wrapped.missing[0]}")
    for module, layer in _tuner_layers(wrapped.model.base_model.model):
        if module not in done and not _plan_experts(ledger, layers, module, layer):
            _plan_layer(ledger, layers, module, layer)


def _refuse_unplaced(ledger: Ledger, shadow: Shadow, wrapped: Wrapped) -> None:
    """Raise where the adapter has tensors for modules that the base lacks."""
    modules = {name for name, _ in shadow.model.named_modules()}
    mark = f".{wrapped.model.base_model.prefix}"
    named = {name.removeprefix(PREFIX).partition(mark)[0] for name in wrapped.unplaced if mark in name}
    lost = sorted(named - modules)
    if lost:
        hint = "is this the model that the adapter was trained on?"
        raise ledger.error(f"the base has no {few(lost)}", hint=hint)
    ignored = sorted(name for name in wrapped.unplaced if mark not in name)
    if ignored:
        names = few([repr(name) for name in ignored])
        ledger.note(f"{names}: peft finds no place for it and ignores it, and so does this")


def _plan_layer(ledger: Ledger, layers: PeftLayers, module: str, layer: Any) -> None:
    base = layer.get_base_layer()
    names = [name.replace("base_layer.", "") for name, _ in base.named_parameters() if ".lora_" not in f".{name}"]
    known = [name for name in names if f"{module}.{name}" in layers.shadow.sources]
    files = [file for name in known for file in layers.shadow.sources[f"{module}.{name}"].files]
    if not files:
        raise ledger.error(f"the base has no tensors of {module}")
    for file in files:
        ledger.base.dtype(file)
        if file in ledger.shapes:
            raise ledger.error(f"it resizes {file}, which its method changes as well")
    first = {file: ledger.steps.pop(file) for file in files if file in ledger.steps}
    shared = layers.config["peft_type"] in SHARED or any(True for _ in wrappers(layer, module))
    change = LayerChange(tuple(dict.fromkeys(files)), layers, module, tuple(known), shared, first)
    ledger.add_module(change)
    scaling = getattr(layer, "scaling", None)
    value = scaling.get(NAME) if isinstance(scaling, dict) else None
    if isinstance(value, int | float):
        ledger.scaling[change.targets[0]] = float(value) * ledger.setting.weight


def _plan_experts(ledger: Ledger, layers: PeftLayers, module: str, layer: Any) -> bool:
    """Plan fused experts by rows; False where that is not possible."""
    planned: list[tuple[str, AddExpert]] = []
    for name, wrapper in wrappers(layer, module):
        parameter = wrapper.get_param()
        source = layers.shadow.sources.get(f"{module}.{wrapper.parameter_name}")
        held = held_dtype(parameter.dtype, autocast=ledger.setting.autocast_adapter)
        found = places(source, tuple(parameter.shape)) if source and by_rows(wrapper, held) else None
        if found is None:
            return False
        scaling = wrapper.scaling[NAME]
        scaling = scaling if ledger.setting.weight == 1.0 else scaling * ledger.setting.weight
        count = wrapper.num_experts
        planned += [(file, AddExpert(layers, name, place, count, scaling)) for file, place in found.items()]
    for file, step in planned:
        ledger.add(file, step)
        ledger.scaling[file] = step.scaling
    return bool(planned)


def _rehearse(ledger: Ledger, layers: PeftLayers) -> Wrapped:
    """Wrap and merge a shadow without contents; where a method looks at contents, wrap one that has zeros."""
    model = copy.deepcopy(layers.shadow.model)
    try:
        wrapped = layers.wrap(model, layers.tensors, empty="meta")
        with quiet(), torch.no_grad():
            for each in list(wrapped.model.base_model.model.modules()):
                if hasattr(each, "base_layer") and hasattr(each, "merge"):
                    each.merge()
    except REFUSALS as error:
        if "meta" not in str(error):
            raise ledger.error(str(error)) from error
    else:
        return wrapped
    model = copy.deepcopy(layers.shadow.model)
    stand_in(model)
    try:
        return layers.wrap(model, layers.tensors, empty="cpu")
    except REFUSALS as error:
        raise ledger.error(str(error)) from error


def _own_config(ledger: Ledger, shadow: Shadow) -> dict[str, Any]:
    """The adapter's configuration for its layers alone: what is trained in full is left to `trained.py`."""
    config = dict(ledger.adapter.config)
    saved = config.pop("modules_to_save", None) or ()
    config.pop("trainable_token_indices", None)
    for name in _FOREIGN:
        config.pop(name, None)
    config["peft_type"] = ledger.adapter.method
    if "bias" in config:
        config["bias"] = "none"
    if saved:
        excluded = [name for name, _ in shadow.model.named_modules() if name and is_saved(name, tuple(saved))]
        present = config.get("exclude_modules")
        if isinstance(present, str):
            config["exclude_modules"] = "|".join([f"(?:{present})", *map(_literal, excluded)])
        else:
            config["exclude_modules"] = [*(present or ()), *excluded]
    return config


def _literal(name: str) -> str:
    return name.replace(".", r"\.")


def _tuner_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Outermost layers, by the names of the modules that they are on."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and not any(name.startswith(outer) for outer in inside):
            inside.append(name + ".")
            yield name, module
