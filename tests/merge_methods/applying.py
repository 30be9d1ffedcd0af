"""A small execution of changes, in memory: what the real one does with files, in blocks of rows or whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ckptfmt.layouts.peft import canonical_config
from ckptfmt.merge.methods.arithmetic import DTYPE_NAMES
from ckptfmt.merge.protocol import BLOCK_ROWS, Changes, Spec


@dataclass(frozen=True)
class FileAdapter:
    """An adapter's directory as PEFT writes it."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return canonical_config(json.loads((self.directory / "adapter_config.json").read_text()))

    @property
    def method(self) -> str:
        return str(self.config["peft_type"])

    @cached_property
    def tensors(self) -> Mapping[str, Spec]:
        with safe_open(self.directory / "adapter_model.safetensors", "pt") as file:
            return {
                name: Spec(file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118
            }

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self.directory / "adapter_model.safetensors", "pt") as file:
            return file.get_tensor(name).contiguous()


@dataclass(frozen=True)
class MemoryAdapter:
    """An adapter made of tensors at hand."""

    method: str
    config: Mapping[str, Any]
    held: Mapping[str, torch.Tensor]
    name: str = "made"

    @property
    def tensors(self) -> Mapping[str, Spec]:
        return specs(self.held)

    def read(self, name: str) -> torch.Tensor:
        return self.held[name].contiguous()


def specs(tensors: Mapping[str, torch.Tensor]) -> dict[str, Spec]:
    other = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL", torch.int8: "I8"}
    names = {**DTYPE_NAMES, **other}
    return {name: Spec(names[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def apply(changes: Changes, tensors: Mapping[str, torch.Tensor], rows: int = BLOCK_ROWS) -> dict[str, torch.Tensor]:
    """The tensors after `changes`; `rows` 0 gives whole tensors to every change."""
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    targets = [change.target for change in changes.rows] + [name for each in changes.modules for name in each.targets]
    assert len(targets) == len(set(targets)), "a target occurs once"
    for change in changes.rows:
        found[change.target] = _by_rows(change, found[change.target], rows)
    for module in changes.modules:
        inputs = {name: found[name] for name in module.targets if name in found}
        promised = module.outputs(specs(inputs))
        given = module.apply(inputs)
        found.update({name: tensor.contiguous() for name, tensor in given.items()})
        assert specs({name: found[name] for name in promised}) == dict(promised)
    return found


def _by_rows(change: Any, tensor: torch.Tensor, rows: int) -> torch.Tensor:
    height = tensor.shape[0] if tensor.ndim else 1
    if not rows or height < 2 * rows:
        return change.rows(tensor, 0)
    begins = list(range(0, height - height % rows, rows))
    ends = [*begins[1:], height]
    return torch.cat([change.rows(tensor[begin:end].clone(), begin) for begin, end in zip(begins, ends, strict=True)])


def read_model(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved model, by the names of its files."""
    return {
        name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()
    }


def differing(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Elements whose bits differ, by tensor; a tensor that one side lacks, or of another kind, differs in all."""
    found = {}
    for name in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(name), theirs.get(name)
        if left is None or right is None or left.shape != right.shape or left.dtype != right.dtype:
            here = left if left is not None else right
            found[name] = here.numel()
        elif count := int((_bits(left) != _bits(right)).sum()):
            found[name] = count
    return found


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds.get(tensor.element_size(), torch.uint8))
