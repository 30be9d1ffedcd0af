"""What happens to one tensor, in order: each step gives the rows it changes from the rows it is given.

Steps repeat peft's roundings: what is added in place to a 16-bit weight is rounded once, what peft casts before it
adds is rounded twice. A step works in the dtype of the rows that it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch

from ckptfmt.merge.methods.arithmetic import (
    HALVES,
    TORCH_DTYPES,
    add_update,
    computed_dtype,
    held_dtype,
    keep_subnormals,
    product_rows,
)
from ckptfmt.merge.protocol import Adapter, ModuleChange, Spec

_ALIGNMENT: Final = 64
"""Bytes; torch's own tensors lie at such addresses, and BLAS may round others differently."""


class Step(Protocol):
    """One change to one tensor, computable by rows."""

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows after this step, in the dtype of `block`; `block` may be overwritten."""
        ...

    def close(self) -> None:
        """Let go of what was read: the last rows were given."""
        ...


@dataclass
class Held:
    """An adapter's tensor, read when it is first needed and held until the base tensor is done.

    Safe to use from several threads.
    """

    adapter: Adapter
    name: str
    _tensors: dict[tuple[torch.dtype, torch.device], torch.Tensor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, held: torch.dtype, device: torch.device) -> torch.Tensor:
        """The tensor as peft holds it: cast to `held`."""
        with self._lock:
            found = self._tensors.get((held, device))
            if found is None:
                found = self.adapter.read(self.name).to(held).to(device)
                if found.data_ptr() % _ALIGNMENT:
                    found = found.clone()
                self._tensors[held, device] = found
            return found

    def close(self) -> None:
        """Forget it."""
        with self._lock:
            self._tensors.clear()


@dataclass(frozen=True)
class AddProduct:
    """`W + (B @ A) * scaling`. Source: peft's `lora.layer.Linear.get_delta_weight` and `merge`.

    Attributes:
        left: B, shape (out, rank).
        right: A, shape (rank, in).
        autocast: see `Setting.autocast_adapter`.
        scaling: what the product is multiplied with.
        transposed: add the transpose: the weight is (in, out), as of a Conv1D, or (vocabulary, width).
        rounded_first: cast the update to the weight's dtype before it is added, as peft does for embeddings.
    """

    left: Held
    right: Held
    autocast: bool
    scaling: float
    transposed: bool = False
    rounded_first: bool = False

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows with the update added."""
        add_update(block, self.update(block, begin))
        return block

    def update(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The update of the rows from `begin`, in fp32 or in the dtype that peft rounds it to.

        This thread's next update may lie in the same memory.
        """
        held = held_dtype(block.dtype, autocast=self.autocast)
        left, right = (each.get(held, block.device).to(computed_dtype(held)) for each in (self.left, self.right))
        end = begin + block.shape[0]
        update = product_rows(left, right, begin, end, transposed=self.transposed, kept=False)
        update.mul_(self.scaling)
        if held in HALVES:
            update = update.to(held)
        return update.to(block.dtype) if self.rounded_first else update

    def close(self) -> None:
        """Forget the factors."""
        self.left.close()
        self.right.close()


@dataclass(frozen=True)
class Decompose:
    """DoRA: `m / |W + D| * (W + D)`, norms over rows. Source: peft's `DoraLinearVariant.merge_unsafe`."""

    product: AddProduct
    magnitude: Held
    weight: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows, scaled to the trained magnitude."""
        update = self.product.update(block, begin)
        moved = block + update
        norm = torch.linalg.norm(moved, dim=1).to(moved.dtype)
        held = held_dtype(block.dtype, autocast=self.product.autocast)
        magnitude = self.magnitude.get(held, block.device).flatten()[begin : begin + block.shape[0]]
        merged = ((magnitude / norm).view(-1, 1) * moved).to(block.dtype)
        return blend(block, merged, self.weight)

    def close(self) -> None:
        """Forget the factors."""
        self.product.close()
        self.magnitude.close()


@dataclass(frozen=True)
class Replace:
    """The adapter's own tensor in place of the base's: a module trained in full, a bias, a resized embedding."""

    tensor: Held
    weight: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The adapter's rows, in the base's dtype as peft loads them."""
        found = self.tensor.get(block.dtype, block.device)
        return blend(block, found[begin : begin + block.shape[0]].clone() if found.ndim else found.clone(), self.weight)

    def close(self) -> None:
        """Forget the tensor."""
        self.tensor.close()


@dataclass(frozen=True)
class ReplaceRows:
    """Trained rows in place of the base's. Source: peft's `TrainableTokensLayer.merge`."""

    tensor: Held
    indices: tuple[int, ...]
    weight: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows, those of trained tokens replaced."""
        end = begin + block.shape[0]
        places = [(at, row - begin) for at, row in enumerate(self.indices) if begin <= row < end]
        if not places:
            return block
        trained, here = (torch.tensor(each, device=block.device) for each in zip(*places, strict=True))
        rows = self.tensor.get(block.dtype, block.device)[trained]
        block.index_copy_(0, here, blend(block[here], rows, self.weight))
        return block

    def close(self) -> None:
        """Forget the tensor."""
        self.tensor.close()


@dataclass(frozen=True)
class AddBias:
    """`b + lora_B.bias * scaling`, a bias trained with LoRA. Source: peft's `lora.layer.Linear.merge`."""

    tensor: Held
    autocast: bool
    scaling: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The elements with the update added."""
        held = held_dtype(block.dtype, autocast=self.autocast)
        block += self.tensor.get(held, block.device)[begin : begin + block.shape[0]] * self.scaling
        return block

    def close(self) -> None:
        """Forget the tensor."""
        self.tensor.close()


@dataclass(frozen=True)
class TensorRows:
    """All steps of one tensor, as a `RowChange`."""

    target: str
    steps: tuple[Step, ...]
    count: int
    _given: list[int] = field(default_factory=lambda: [0])

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows after every step."""
        keep_subnormals()
        height = block.shape[0] if block.ndim else 1
        for step in self.steps:
            block = step.rows(block, begin)
        self._given[0] += height
        if self._given[0] >= self.count:
            self._given[0] = 0
            for step in self.steps:
                step.close()
        return block


@dataclass(frozen=True)
class TensorWhole:
    """Steps of tensors that are added, or whose shape changes, as a `ModuleChange`.

    Attributes:
        targets: what is read and what is given.
        given: by the name of a tensor that is given: its dtype and shape, the base tensor it starts from (None: zeros),
            and its steps.
    """

    targets: tuple[str, ...]
    given: Mapping[str, tuple[Spec, str | None, tuple[Step, ...]]]

    def outputs(self, inputs: Mapping[str, Spec]) -> Mapping[str, Spec]:
        """The new specifications: dtypes follow what the tensors are held in."""
        found = dict(inputs)
        for name, (spec, source, _) in self.given.items():
            held = next(
                (inputs[each].dtype for each in (source, name) if each is not None and each in inputs), spec.dtype
            )
            found[name] = Spec(held, spec.shape)
        return found

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors after their steps."""
        keep_subnormals()
        found: dict[str, torch.Tensor] = {}
        for name, (spec, source, steps) in self.given.items():
            if source is None:
                dtype = tensors[name].dtype if name in tensors else TORCH_DTYPES[spec.dtype]
                tensor = torch.zeros(spec.shape, dtype=dtype)
            else:
                tensor = tensors[source].clone()
            for step in steps:
                tensor = step.rows(tensor, 0)
                step.close()
            found[name] = tensor
        return found


@dataclass(frozen=True)
class InTurn:
    """Changes of modules that share a tensor, one after the other, as a `ModuleChange`."""

    changes: tuple[ModuleChange, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The tensors of all of them."""
        return tuple(dict.fromkeys(name for change in self.changes for name in change.targets))

    def outputs(self, inputs: Mapping[str, Spec]) -> Mapping[str, Spec]:
        """What the last one leaves."""
        for change in self.changes:
            inputs = {**inputs, **change.outputs({name: inputs[name] for name in change.targets if name in inputs})}
        return inputs

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors after all of them."""
        found: dict[str, torch.Tensor] = {}
        for change in self.changes:
            now = {**tensors, **found}
            found |= change.apply({name: now[name] for name in change.targets if name in now})
        return found


def blend(base: torch.Tensor, merged: torch.Tensor, weight: float) -> torch.Tensor:
    """`base + weight * (merged - base)` in fp32, rounded once; exactly `merged` at weight 1."""
    if weight == 1.0:
        return merged
    wide = torch.promote_types(base.dtype, torch.float32)
    return (base.to(wide) + weight * (merged.to(wide) - base.to(wide))).to(base.dtype)
