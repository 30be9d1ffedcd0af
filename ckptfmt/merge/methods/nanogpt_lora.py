"""LoRA inside a universal checkpoint of the nanoGPT family: `W_main + B @ A * scale`, scale alpha over rank.

Source: `get_merged_state_dict()` of that family. Unlike peft's, its factors are multiplied in the dtype they are
saved in, and an embedding's are (vocabulary, rank) and (width, rank): its update is `A @ B.T * scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from ckptfmt.merge.methods.arithmetic import product_rows
from ckptfmt.merge.methods.configuration import check_scaling
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.steps import Held

_PARTS: Final = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class AddPlainProduct:
    """`W + left @ right * scale`, every operation in the dtypes that the tensors have.

    Attributes:
        left: shape (rows, rank).
        right: shape (rank, columns), or (columns, rank) with `flipped`.
        scale: what the product is multiplied with.
        flipped: multiply with the transpose of `right`.
    """

    left: Held
    right: Held
    scale: float
    flipped: bool

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows with the update added."""
        saved = self.left.adapter.tensors
        dtype = torch.float32 if saved[self.left.name].dtype == "F32" else block.dtype
        left, right = (each.get(dtype, block.device) for each in (self.left, self.right))
        right = right.T if self.flipped else right
        end = begin + block.shape[0]
        update = product_rows(left, right, begin, end, transposed=False) * self.scale
        return (block + update).to(block.dtype)

    def close(self) -> None:
        """Forget the factors."""
        self.left.close()
        self.right.close()


def plan_nanogpt(ledger: Ledger) -> None:
    """Plan every LoRA layer of a universal checkpoint.

    Raises:
        MergeError: factors fit each other or the base in neither way, or nothing tells their scale.
    """
    names = ledger.adapter.tensors
    modules = sorted({name.removesuffix(part) for name in names for part in _PARTS if name.endswith(part)})
    other = sorted(name for name in names if not name.endswith(_PARTS))
    if other or not modules:
        raise ledger.error(f"{other[0]} is no factor of a linear or embedding layer" if other else "it has no factors")
    for module in modules:
        _plan_module(ledger, module)


def _plan_module(ledger: Ledger, module: str) -> None:
    a, b = (module + part for part in _PARTS)
    missing = next((name for name in (a, b) if name not in ledger.adapter.tensors), None)
    if missing:
        raise ledger.error(f"{module} lacks {missing}")
    shape_a, shape_b = ledger.adapter.tensors[a].shape, ledger.adapter.tensors[b].shape
    target = f"{module}.weight"
    source = target if target in ledger.base.tensors else _shared(ledger, module)
    found = ledger.base.tensors[source].shape
    if shape_b[1:] == shape_a[:1] and found == (*shape_b[:1], *shape_a[1:]):
        scale = _scale(ledger, module, shape_a[0])
        step = AddPlainProduct(ledger.held(b), ledger.held(a), scale, flipped=False)
    elif shape_a[1:] == shape_b[1:] and found == (*shape_a[:1], *shape_b[:1]):
        scale = _scale(ledger, module, shape_a[1])
        step = AddPlainProduct(ledger.held(a), ledger.held(b), scale, flipped=True)
    else:
        raise ledger.error(f"{a} {list(shape_a)} and {b} {list(shape_b)} do not fit {source} {list(found)}")
    if source == target:
        ledger.add(target, step)
    else:
        ledger.added[target] = (ledger.base.tensors[source], source, [step])
        ledger.note(f"{target} was {source}: merged, they are two tensors")
    ledger.scaling[target] = scale


def _shared(ledger: Ledger, module: str) -> str:
    """The tensor that an embedding shares with the head, where the base names it but once."""
    head = ledger.base.head
    if head is None or not module.endswith("wte"):
        raise ledger.error(f"the base has no {module}.weight", hint="is this the model that it was trained on?")
    return head


def _scale(ledger: Ledger, module: str, rank: int) -> float:
    config: Any = ledger.adapter.config
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise ledger.error(f"nothing tells the scale of {module}: the checkpoint has no lora_alpha")
    scale = alpha / rank
    check_scaling(f"adapter {ledger.adapter.name}", module, scale)
    return scale if ledger.setting.weight == 1.0 else scale * ledger.setting.weight
