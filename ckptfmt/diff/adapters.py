"""Adapters compared as what they add to a model: which modules, with which factors and scalings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ckptfmt.diff.elements import Array, floats_of
from ckptfmt.diff.reading import Side, Told, size_of
from ckptfmt.diff.updates import ComparedUpdates, Factors, compare_updates
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import Adapter, Manifest, Tensor, tensor_digest
from ckptfmt.layouts.names import NANOGPT_LORA
from ckptfmt.layouts.peft_keys import PREFIX, lora_scaling, lora_variant, split_lora
from ckptfmt.wording import shape_words

_FACTORS: Final = (("lora_B.weight", "lora_A.weight"), ("lora_embedding_B", "lora_embedding_A"))
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_METHODS: Final = frozenset({"LORA", NANOGPT_LORA})


@dataclass(frozen=True, slots=True)
class LoraModule:
    """The factors of one module's update, as they lie in a checkpoint.

    Attributes:
        left: the tensor (rows, r), or (rows, r, 1, 1) of a convolution; of `flipped` ones (columns, r).
        right: the tensor (r, columns), or (r, inputs, height, width); of `flipped` ones (rows, r).
        scaling: what their product is multiplied by.
        flipped: the update is `right @ left^T`: nanoGPT's embeddings.
    """

    left: Tensor
    right: Tensor
    scaling: float
    flipped: bool = False

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.right.shape[1] if self.flipped else self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the update, rows and columns."""
        if self.flipped:
            return self.right.shape[0], self.left.shape[0]
        return self.left.shape[0], math.prod(self.right.shape[1:])


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """How two adapters are compared.

    Attributes:
        why: why only their tensors are; None where updates are compared.
        pairs: by module, the factors of both, of those that differ; None where an adapter leaves it alone.
        same: modules with the same factors and scaling, and the elements of their updates.
    """

    a: Adapter
    b: Adapter
    why: str | None = None
    pairs: Mapping[str, tuple[LoraModule | None, LoraModule | None]] = field(default_factory=dict)
    same: Mapping[str, int] = field(default_factory=dict)

    def elements(self, module: str) -> int:
        """Elements of the updates of a module that differ."""
        return next((math.prod(one.shape) for one in self.pairs[module] if one is not None), 0)

    @property
    def read_bytes(self) -> int:
        """Bytes of the factors that are read."""
        return sum(
            size_of(each) for pair in self.pairs.values() for one in pair if one for each in (one.left, one.right)
        )


def plan_adapters(a: Manifest, b: Manifest, pairs: Sequence[tuple[Adapter, Adapter]]) -> list[AdapterPlan]:
    """Say how each pair of adapters is compared. Reads nothing."""
    return [_plan(a, b, first, second) for first, second in pairs]


def _plan(a: Manifest, b: Manifest, first: Adapter, second: Adapter) -> AdapterPlan:
    found: list[dict[str, LoraModule]] = []
    for manifest, adapter in ((a, first), (b, second)):
        tensors = {each.name: each for each in manifest.tensors if each.role == "adapter" and each.part == adapter.name}
        try:
            why = _why_not(adapter, tensors)
            if why is None:
                found.append(modules_of(adapter, tensors))
        except (CkptfmtError, ValueError, TypeError, ArithmeticError) as error:
            why = f"its scaling is not known: {error}"
        if why is not None:
            return AdapterPlan(first, second, f"{adapter.name}: {why}")
    mine, theirs = found
    modules = sorted(mine.keys() | theirs.keys())
    for module in mine.keys() & theirs.keys():
        if mine[module].shape != theirs[module].shape:
            shapes = " and ".join(shape_words(each[module].shape) for each in found)
            return AdapterPlan(first, second, f"they are not of one model: the updates of {module} are {shapes}")
    pairs = {module: (mine.get(module), theirs.get(module)) for module in modules}
    same = {
        module: math.prod(one.shape) for module, (one, other) in pairs.items() if one and _is_same(a, b, one, other)
    }
    return AdapterPlan(first, second, None, {key: pair for key, pair in pairs.items() if key not in same}, same)


def _why_not(adapter: Adapter, tensors: Mapping[str, Tensor]) -> str | None:
    if adapter.method not in _METHODS:
        return f"what {adapter.method} adds to a model is no product of two factors"
    if any("lora_magnitude_vector" in name for name in tensors):
        return "with DoRA the change depends on the base's weights"
    if adapter.config.get("target_parameters"):
        return "with target_parameters the factors of many experts lie in one tensor"
    if (variant := lora_variant(adapter.config)) is not None:
        return f"with {variant} the change is not the product of its factors alone"
    if adapter.method == NANOGPT_LORA and "lora_alpha" not in adapter.config:
        return "its scaling is not known: nothing says its lora_alpha"
    return None


def _is_same(a: Manifest, b: Manifest, one: LoraModule, other: LoraModule | None) -> bool:
    if other is None or one.scaling != other.scaling or one.flipped != other.flipped:
        return False
    return all(
        (mine.dtype, mine.shape, tensor_digest(a, mine)) == (theirs.dtype, theirs.shape, tensor_digest(b, theirs))
        for mine, theirs in ((one.left, other.left), (one.right, other.right))
    )


def modules_of(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, LoraModule]:
    """The updates of a LoRA adapter by module; what is not two factors that fit each other is none.

    Raises:
        FormatError: its configuration is none, or one of its patterns does not end.
        ValueError: an alpha is null, or no finite number.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, part = split_lora(name.removeprefix(PREFIX))
        if part:
            parts.setdefault(module, {})[part] = tensor
    _check_patterns(adapter, parts)
    found = {}
    for module, of in sorted(parts.items()):
        for left_part, right_part in _FACTORS:
            left, right = of.get(left_part), of.get(right_part)
            if left is None or right is None or not {left.dtype, right.dtype} <= _FLOATS:
                continue
            flipped = adapter.method == NANOGPT_LORA and left.shape[1:] != right.shape[:1]
            if (rank := _rank(left.shape, right.shape, flipped=flipped)) is not None:
                found[module] = LoraModule(left, right, _scaling(adapter.config, module, rank), flipped)
    return found


def _rank(left: tuple[int, ...], right: tuple[int, ...], *, flipped: bool) -> int | None:
    """The rank of factors that fit each other: those of linear layers, embeddings and convolutions."""
    if flipped:
        return left[1] if len(left) == len(right) == 2 and left[1] == right[1] else None
    if len(left) < 2 or len(right) < 2 or any(size != 1 for size in left[2:]) or left[1] != right[0]:
        return None
    return left[1] or None


def _check_patterns(adapter: Adapter, modules: Mapping[str, object]) -> None:
    """Names of modules may be regular expressions of anybody: those that are more than a name are tried first."""
    patterns = adapter.config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise TypeError("alpha_pattern is no object")
    if all(str(pattern).replace(".", "").replace("_", "").isalnum() for pattern in patterns):
        return
    from ckptfmt.merge.methods.configuration import check_configuration  # noqa: PLC0415 - it brings torch

    check_configuration(f"adapter {adapter.name}", adapter.config, list(modules))


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    scaling = lora_scaling(config, module, rank)
    if scaling is None or not math.isfinite(scaling):
        raise ValueError(f"the lora_alpha of {module} is {config.get('lora_alpha')}")
    return float(scaling)


def compare_adapters(a: Side, b: Side, plan: AdapterPlan, told: Told) -> dict[str, ComparedUpdates]:
    """The updates of each module that differs, one module in memory at a time.

    Raises:
        IntegrityError: factors are not what was recorded, or not there.
    """
    return {
        module: compare_updates(_factors(a, one, told), _factors(b, other, told))
        for module, (one, other) in plan.pairs.items()
    }


def _factors(side: Side, module: LoraModule | None, told: Told) -> Factors | None:
    if module is None:
        return None
    left, right = (_matrix(side, each, told) for each in (module.left, module.right))
    return Factors(right, left.T, module.scaling) if module.flipped else Factors(left, right, module.scaling)


def _matrix(side: Side, tensor: Tensor, told: Told) -> Array:
    """A factor as a matrix: of a convolution, with all but the first dimension as columns."""
    with np.errstate(invalid="ignore"):  # Signalling NaN of float16.
        flat: Array = floats_of(side.read(tensor, told), tensor.dtype)
    return flat.reshape(tensor.shape[0], math.prod(tensor.shape[1:])) if flat.size else np.zeros((tensor.shape[0], 0))
