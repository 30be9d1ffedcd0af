"""What merging is made of: tensors by name, and what an adapter does to each of them.

Pure arithmetic over `torch` tensors on one device; reading, verifying and writing happen elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

BLOCK_ROWS = 256
"""Fewest rows of a product that is computed in blocks: shorter ones may differ in the last bit from the whole."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor's dtype (as `format.dtypes` names it) and shape."""

    dtype: str
    shape: tuple[int, ...]


class Adapter(Protocol):
    """An adapter as it is merged: its configuration, and its tensors as they were saved."""

    @property
    def name(self) -> str:
        """What to call it in errors and results."""
        ...

    @property
    def method(self) -> str:
        """`peft_type` as PEFT names it ("LORA", "LOHA", …), or "nanogpt-lora" for LoRA inside a universal `.pt`."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The canonical configuration (`adapter_config.json`, sets as sorted lists)."""
        ...

    @property
    def tensors(self) -> Mapping[str, Spec]:
        """Its tensors, by the names PEFT writes (`base_model.model.<module>.lora_A.weight`)."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """One of its tensors, on the CPU, in its own dtype, C-contiguous."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What a merge is done under.

    Attributes:
        device: "cpu" or "cuda".
        weight: multiplies the adapter's whole update; 1.0 is the adapter as trained.
        model_config: the base's `config.json`, empty where there is none.
        autocast_adapter: hold 16-bit adapter weights in fp32, as PEFT does when it loads them. False reproduces a
            merge of adapters that were kept in 16 bits (the product is rounded to them first).
    """

    device: str = "cpu"
    weight: float = 1.0
    model_config: Mapping[str, Any] = field(default_factory=dict)
    autocast_adapter: bool = True


class RowChange(Protocol):
    """A change to one base tensor that can be computed a block of leading rows at a time."""

    @property
    def target(self) -> str:
        """The base tensor."""
        ...

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        """The changed rows.

        Args:
            block: rows `begin` and following of the tensor, in the dtype it is held in; may be overwritten.
            begin: index of the first row. Blocks have at least `BLOCK_ROWS` rows, or are the whole tensor.

        Returns:
            The rows in the same dtype: the same bits that changing the whole tensor at once would give.
        """
        ...


class ModuleChange(Protocol):
    """A change that needs whole tensors, those of one module."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The base tensors that it reads and may change. Names that the base lacks are tensors it adds."""
        ...

    def outputs(self, inputs: Mapping[str, Spec]) -> Mapping[str, Spec]:
        """Dtype and shape of each target afterwards, for headers written before any arithmetic."""
        ...

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The changed tensors by name; those it does not give stay as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """All that one adapter does.

    Attributes:
        rows: changes by rows; a target occurs once in `rows` and `modules` together.
        modules: changes by module.
        scaling: the scaling of each changed target, where the method has one: it goes into the result's record.
        config_changes: keys of the model's `config.json` that the merge changes (a resized vocabulary, untied
            embeddings).
        notes: sentences that a user should know.
    """

    rows: tuple[RowChange, ...]
    modules: tuple[ModuleChange, ...]
    scaling: Mapping[str, float] = field(default_factory=dict)
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
