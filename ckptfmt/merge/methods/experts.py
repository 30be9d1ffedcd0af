"""LoRA on fused experts, by rows of the tensors that the files hold one by one.

transformers 5 stacks a layer's experts into one parameter in memory, and peft puts one pair of factors on it: shapes
(experts * rank, in) and (out, rank * experts). What its `einsum` gives for an expert is, bit for bit, the product of
that expert's factors (`tests/merge_methods/test_blocks.py`), so nothing larger than a block is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from ckptfmt.merge.methods.arithmetic import product_rows
from ckptfmt.merge.methods.shadow import Source

_WRAPPER: Final = "ParamWrapper"


class FactorSource(Protocol):
    """Gives the factors that peft's layer holds, as it loaded them."""

    def factors(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Tensors A and B of the layer of that name."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a tensor of the files lies in the stacked parameter: expert, and first row."""

    expert: int
    row: int


@dataclass(frozen=True)
class AddExpert:
    """`W_e + (B_e @ A_e) * scaling`, cast to the weight's dtype before it is added.

    Source: peft's `lora.layer.ParamWrapper.get_delta_weight`.

    Attributes:
        place: where the tensor lies; None where the files hold the stack itself.
        experts: how many there are.
    """

    source: FactorSource
    layer: str
    place: Place | None
    experts: int
    scaling: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The rows with the update added; rows of a stack are experts."""
        if self.place is not None:
            block += self._update(block, self.place.expert, self.place.row + begin, block.shape[0])
            return block
        for at, weight in enumerate(block):
            block[at] += self._update(weight, begin + at, 0, weight.shape[0])
        return block

    def close(self) -> None:
        """The factors stay with the layers: other experts need them."""

    def _update(self, block: torch.Tensor, expert: int, begin: int, count: int) -> torch.Tensor:
        right, left = (each.to(block.device) for each in self.source.factors(self.layer))
        right = right.reshape(self.experts, -1, right.shape[-1])[expert]
        left = left.reshape(left.shape[0], -1, self.experts)[:, :, expert]
        update = product_rows(left, right, begin, begin + count, transposed=False, kept=False).mul_(self.scaling)
        return update.to(block.dtype)


def wrappers(layer: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The layers on a module's parameters, one inside the other: their names, and they."""
    while type(layer).__name__ == _WRAPPER:
        yield name, layer
        name, layer = f"{name}.base_layer", layer.base_layer


def by_rows(layer: Any, held: torch.dtype) -> bool:
    """Whether a layer updates stacked experts (experts, out, in), in a dtype that is multiplied as it is."""
    return layer.num_experts > 1 and layer._did_swap_in_out_features and held in {torch.float32, torch.float64}


def places(source: Source, shape: tuple[int, ...]) -> Mapping[str, Place | None] | None:
    """Where each tensor of the files lies in a stacked parameter of `shape` (experts, out, in).

    Found by splitting a stack whose rows are numbered. None where the files' tensors are not whole rows of an expert.
    """
    if source.split is None:
        return {source.files[0]: None}
    experts, out, into = shape
    numbered = torch.arange(experts * out, dtype=torch.float64).reshape(experts, out, 1).expand(experts, out, into)
    found: dict[str, Place | None] = {}
    for name, tensor in source.split(numbered).items():
        if name not in source.files or tensor.ndim != 2 or tensor.shape[1] != into:
            return None
        first = int(tensor[0, 0])
        rows = torch.arange(first, first + tensor.shape[0], dtype=torch.float64)
        if not torch.equal(tensor[:, 0], rows) or not torch.equal(tensor[:, -1], rows):
            return None
        found[name] = Place(first // out, first % out)
    return found if found.keys() == set(source.files) else None
