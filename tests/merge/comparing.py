"""Merged directories compared, element by element."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tensors_of(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for path in sorted(directory.glob("*.safetensors")) for name, value in load_file(path).items()}


def differing(first: Path, second: Path) -> int:
    """Elements that differ; tensors that only one side has, or of another dtype or shape, count whole."""
    one, two = tensors_of(first), tensors_of(second)
    count = sum(value.numel() for name, value in one.items() if name not in two)
    count += sum(value.numel() for name, value in two.items() if name not in one)
    for name in one.keys() & two.keys():
        here, there = one[name], two[name]
        if here.dtype != there.dtype or here.shape != there.shape:
            count += here.numel()
        else:
            count += int((here.view(-1) != there.view(-1)).sum())
    return count
