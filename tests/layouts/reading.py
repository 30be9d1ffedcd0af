"""Reading a directory as the tests do, with what must hold for every reading checked each time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ckptfmt.containers.protocol import Cut
from ckptfmt.layouts import Reading, Tree, find_checkpoints, read_checkpoint
from tests.fixtures.tree import DirectoryTree, files_below


def read(directory: Path, files: Iterable[str] | None = None) -> Reading:
    tree = DirectoryTree(directory, files)
    reading = read_checkpoint(tree)
    check(tree, reading)
    return reading


def read_all(directory: Path) -> dict[str, Reading]:
    """Every checkpoint found below `directory`, by name."""
    return {found.name: read(directory / found.root, found.files) for found in find_checkpoints(files_below(directory))}


def check(tree: Tree, reading: Reading) -> None:
    there = [(path, index) for path in tree.paths() for index in range(_tensors(tree, path))]
    assert sorted((tensor.path, tensor.index) for tensor in reading.tensors) == sorted(there)
    models = Counter(tensor.name for tensor in reading.tensors if tensor.role == "model")
    assert not [name for name, times in models.items() if times > 1]
    names = [adapter.name for adapter in reading.adapters]
    assert len(names) == len(set(names))
    assert {tensor.part for tensor in reading.tensors if tensor.role == "adapter"} <= set(names)
    for part in names:
        inside = [tensor.name for tensor in reading.tensors if tensor.role == "adapter" and tensor.part == part]
        assert len(inside) == len(set(inside))
    plain = [reading.settings, reading.metrics, [adapter.config for adapter in reading.adapters], reading.notes]
    json.dumps(plain, allow_nan=False)
    msgspec.json.encode(plain)
    assert all(type(value) in (int, float) for value in reading.metrics.values())


def names_of(reading: Reading, role: str, part: str | None = None) -> list[str]:
    return sorted(tensor.name for tensor in reading.tensors if tensor.role == role and tensor.part == part)


def roles_of(reading: Reading) -> dict[tuple[str, str | None], int]:
    return dict(Counter((tensor.role, tensor.part) for tensor in reading.tensors))


def _tensors(tree: Tree, path: str) -> int:
    cut = tree.cut(path)
    return len(cut.tensors) if isinstance(cut, Cut) else 0
