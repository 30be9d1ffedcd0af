"""`ckptfmt.load_into`: a checkpoint into a model, whatever adapters either of them has.

Weights are found by what they are, not by what they are called: a standard checkpoint loads into a LoRA model and the
other way round, a LoRA of another rank is merged first, tied weights stay tied. Nothing of a file is ever run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ckptfmt.convert.checkpoint import Checkpoint, read_checkpoint
from ckptfmt.convert.loading_optimizer import LEFT_OUT, load_optimizer
from ckptfmt.convert.loading_plan import LoadPlan, Place, places_in, plan_load
from ckptfmt.convert.loading_report import LoadReport
from ckptfmt.convert.loading_source import CheckpointSource, Loadable, StateDictSource
from ckptfmt.errors import InvalidInput
from ckptfmt.progress import SILENT, Progress
from ckptfmt.wording import few


def load_into(
    model: torch.nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    strict: bool = True,
    adapter: str | None = None,
    lora_alpha: float | None = None,
    progress: Progress = SILENT,
) -> LoadReport:
    """Load a checkpoint into a model, in place.

    Args:
        model: any module; nothing of it is replaced, so an optimizer over its parameters stays valid.
        source: a path (a directory or a file), a state dict, a training checkpoint as `torch.load` gives it, or
            `store["ref"]`.
        optimizer: is given the checkpoint's optimizer state where it fits, and is left alone where it does not.
        strict: raise where a shape differs, a parameter is missing, or tied weights differ in the checkpoint. Adapters
            that the checkpoint lacks are no such case: they are left fresh.
        adapter: which of several adapters.
        lora_alpha: for LoRA inside a state dict that says nothing of its scale.
        progress: told of the bytes read from a path.

    Returns:
        What was loaded, remapped, merged, left fresh and not expected.

    Raises:
        InvalidInput: something does not fit, naming the tensors; nothing was loaded.
        MergeError: LoRA would have to be merged and cannot be.
        CkptfmtError: the source cannot be read, or its bytes are not what was recorded.
    """
    loadable = _open(source, progress)
    places = places_in(model)
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values() if isinstance(tensor, torch.Tensor)):
        raise InvalidInput("the model has tensors on the meta device, which hold nothing", hint="model.to_empty(...)")
    plan = plan_load(
        loadable,
        places,
        scale_in_model=lambda key, name: _scale_in(model, key, name),
        adapter=adapter,
        lora_alpha=lora_alpha,
    )
    if plan.problems and strict:
        raise InvalidInput(
            f"{loadable.where} does not fit the model: {few(plan.problems)}", hint="load_into(..., strict=False)"
        )
    if not plan.actions:
        raise InvalidInput(f"{loadable.where}: none of its tensors fits the model: {few(plan.unexpected)}")
    with torch.no_grad():
        for key, action in plan.actions.items():
            tensor = loadable.read(action.item)
            if action.merge is not None:
                tensor = action.merge.into(tensor, loadable.read)
            state[key].copy_(tensor)
    merged = [key for key, action in plan.actions.items() if action.merge is not None]
    return _report(plan, places, _not_zero(plan, state), _optimizer(optimizer, loadable, merged))


def _open(source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint, progress: Progress) -> Loadable:
    if isinstance(source, Checkpoint):
        return CheckpointSource(source)
    if isinstance(source, Mapping):
        return StateDictSource(source)
    return CheckpointSource(read_checkpoint(os.fspath(source), progress))


def _scale_in(model: torch.nn.Module, key: str, adapter: str) -> float | None:
    """The scale that a LoRA layer multiplies its update with, where it says so under a usual name."""
    holder = key.partition(".lora_")[0]
    try:
        module = model.get_submodule(holder)
    except AttributeError:
        return None
    found = getattr(module, "scaling", getattr(module, "scale", None))
    if isinstance(found, Mapping):
        found = found.get(adapter)
    return float(found) if isinstance(found, int | float) else None


def _optimizer(optimizer: torch.optim.Optimizer | None, loadable: Loadable, merged: list[str]) -> str | None:
    if optimizer is None:
        return None
    if merged:
        return f"{LEFT_OUT}: LoRA was merged, so the parameters are no longer those that it was made for"
    return load_optimizer(optimizer, *loadable.optimizer())


def _not_zero(plan: LoadPlan, state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Fresh adapters that change the model from the first step on: their second factor is not zero."""
    moving = [key for key in plan.fresh if ".lora_" in key and "B" in key.partition(".lora_")[2] and state[key].any()]
    if not moving:
        return ()
    return (
        f"{len(moving)} fresh adapters are not zero: the model differs from the checkpoint by them ({moving[0]}, …)",
    )


def _report(plan: LoadPlan, places: tuple[Place, ...], more: tuple[str, ...], optimizer: str | None) -> LoadReport:
    dtypes = {place.key: place.spec.dtype for place in places}
    return LoadReport(
        loaded=(*plan.actions, *plan.tied),
        remapped={action.item.key: key for key, action in plan.actions.items() if action.item.key != key},
        merged=tuple(key for key, action in plan.actions.items() if action.merge is not None),
        cast={
            key: f"{action.item.spec.dtype} -> {dtypes[key]}"
            for key, action in plan.actions.items()
            if action.item.spec.dtype != dtypes[key]
        },
        tied=dict(plan.tied),
        fresh=tuple(plan.fresh),
        mismatched=tuple(plan.mismatched),
        missing=tuple(plan.missing),
        unexpected=tuple(plan.unexpected),
        optimizer=optimizer,
        notes=(*plan.notes, *more),
    )
