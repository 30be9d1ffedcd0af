"""An optimizer's state: loaded where it fits, left out with the reason where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

LOADED: Final = "loaded"
LEFT_OUT: Final = "left out, it starts fresh with its configured learning rate"


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None, reason: str) -> str:
    """Load `state` into an optimizer if it has the same groups of the same shapes.

    Args:
        optimizer: that of the model.
        state: a state dict of an optimizer; None where there is none.
        reason: why there is none.

    Returns:
        `loaded`, or that it was left out and why.
    """
    why = reason if state is None else _misfit(optimizer, state)
    if state is None or why:
        return f"{LEFT_OUT}: {why}"
    optimizer.load_state_dict(dict(state))
    return LOADED


def _misfit(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str:
    """Why a state dict does not fit; empty where it does."""
    groups, states = state.get("param_groups"), state.get("state")
    if not isinstance(groups, Sequence) or not isinstance(states, Mapping):
        return "the checkpoint's optimizer state is none of torch's"
    mine = optimizer.param_groups
    if len(groups) != len(mine):
        return f"the checkpoint has {len(groups)} parameter groups, the optimizer {len(mine)}"
    for index, (theirs, own) in enumerate(zip(groups, mine, strict=True)):
        names = theirs.get("params") if isinstance(theirs, Mapping) else None
        if not isinstance(names, Sequence):
            return f"parameter group {index} of the checkpoint lists no parameters"
        if len(names) != len(own["params"]):
            return (
                f"parameter group {index} has {len(names)} parameters in the checkpoint, "
                f"{len(own['params'])} in the optimizer; expected when switching between LoRA and non-LoRA models"
            )
        for name, parameter in zip(names, own["params"], strict=True):
            for key, value in _mapping(states.get(name)).items():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                    return (
                        f"{key} of parameter {name} is {list(value.shape)} in the checkpoint, the parameter "
                        f"{list(parameter.shape)}"
                    )
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
