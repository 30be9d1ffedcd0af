"""From a pickle's values to a tree of plain data: tensors get paths, shared values are spelled out, cycles end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.containers.bounds import (
    MAX_DEPTH,
    MAX_EXPANDED_BYTES,
    MAX_EXPANSION,
    MAX_NODES,
    MAX_TEXT,
    NotInterpreted,
)
from ckptfmt.containers.protocol import Inert, TensorAt
from ckptfmt.containers.values import InertObject, Pairs, TensorValue, Value, name_of
from ckptfmt.format.dtypes import BITS

Path = tuple[str | int, ...]

_PATH_UNIT: Final = 8
"""What a step of a path costs of the text bound, beside its characters."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor of the tree. `offset` is in bytes from the start of its record; `strides` None for C order."""

    path: Path
    key: str
    storage: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None
    size_bytes: int


def grow(value: Value, check: Callable[[TensorValue, str], None]) -> tuple[Any, list[Placed]]:
    """Turn `value` into plain dicts, lists and scalars, with `TensorAt` and `Inert`, and list its tensors.

    Tensors inside inert objects are listed too, though the tree does not show them: below the object's path, its
    attributes and items under their own names, its arguments under `args` and any other state under `state`.
    Tensors come in the order in which the tree is read.

    Args:
        value: what the pickle holds.
        check: is called with each tensor and what to call it; raises FormatError if it lies.

    Raises:
        NotInterpreted: the tree is larger or deeper than the bounds.
    """
    walk = _Walk(check)
    return walk.plain(value, 0), walk.tensors


class _Walk:
    def __init__(self, check: Callable[[TensorValue, str], None]) -> None:
        self.check = check
        self.tensors: list[Placed] = []
        self.nodes = 0
        self.text = 0
        self.path: list[str | int] = []
        self.paths: set[Path] = set()
        self.above: set[int] = set()

    def plain(self, value: Value, depth: int) -> Any:
        """`value`, which stands at `self.path`, as plain data; recursion is at most `MAX_DEPTH` deep."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise NotInterpreted(f"a pickle of more than {MAX_NODES} values, those of shared ones counted again")
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            self.spend_text(len(value))
            return value
        if isinstance(value, TensorValue):
            return self.tensor(value)
        if not isinstance(value, list | tuple | Pairs | InertObject):
            return Inert(name_of(value))
        if id(value) in self.above:
            return Inert("a value within itself")
        if depth >= MAX_DEPTH:
            raise NotInterpreted(f"a pickle that nests more than {MAX_DEPTH} deep")
        self.above.add(id(value))
        result = self.inside(value, depth + 1)
        self.above.remove(id(value))
        return result

    def inside(self, value: list[Value] | tuple[Value, ...] | Pairs | InertObject, depth: int) -> Any:
        if isinstance(value, Pairs):
            return {key: self.step(key, item, depth) for key, item in self.keyed(value.items)}
        if isinstance(value, InertObject):
            self.hidden(value, depth)
            return Inert(value.name)
        return [self.step(index, item, depth) for index, item in enumerate(value)]

    def step(self, key: str | int, item: Value, depth: int) -> Any:
        self.path.append(key)
        result = self.plain(item, depth)
        self.path.pop()
        return result

    def hidden(self, value: InertObject, depth: int) -> None:
        """Look for tensors in what an inert object was given."""
        for state in value.states:
            if isinstance(state, Pairs):
                for key, item in self.keyed(state.items):
                    self.step(key, item, depth)
            else:
                self.step("state", state, depth)
        for key, item in self.keyed(value.pairs):
            self.step(key, item, depth)
        for index, item in enumerate(value.items):
            self.step(index, item, depth)
        if value.arguments:
            self.step("args", value.arguments, depth)

    def keyed(self, pairs: list[tuple[Value, Value]]) -> list[tuple[str | int, Value]]:
        """Pairs with keys that JSON and paths can hold, each once; strings and integers stay as they are."""
        self.nodes += len(pairs)
        if self.nodes > MAX_NODES:
            raise NotInterpreted(f"a pickle of more than {MAX_NODES} values, those of shared ones counted again")
        named: dict[str | int, Value] = {}
        others: list[tuple[str, Value]] = []
        for key, item in pairs:
            if isinstance(key, str):
                self.spend_text(len(key))
                named[key] = item
            elif type(key) is int:
                named[key] = item
            else:
                others.append((_spelled(key), item))
        counts: dict[str, int] = {}
        for spelled, item in others:
            counts[spelled] = count = counts.get(spelled, 0) + 1
            form = spelled if count == 1 else f"{spelled}#{count}"
            if form not in named:
                named[form] = item
        return list(named.items())

    def tensor(self, value: TensorValue) -> Any:
        path = tuple(self.path)
        key = ".".join(map(str, path))
        self.spend_text(len(key) + _PATH_UNIT * len(path))
        self.check(value, key)
        count = math.prod(value.shape)
        element_bytes = BITS[value.dtype] // 8
        size = count * element_bytes
        if value.rewritten or (size > MAX_EXPANDED_BYTES and size > MAX_EXPANSION * value.storage.size_bytes):
            return Inert(name_of(value))
        if path in self.paths:  # two parts of one inert object under one name: the record is an extent all the same
            return Inert(name_of(value))
        self.paths.add(path)
        placed = Placed(
            path,
            key,
            value.storage.key,
            value.dtype,
            value.shape,
            value.offset * element_bytes if count else 0,
            value.strides if count and not in_c_order(value.shape, value.strides) else None,
            size,
        )
        self.tensors.append(placed)
        return TensorAt(len(self.tensors) - 1)

    def spend_text(self, count: int) -> None:
        self.text += count
        if self.text > MAX_TEXT:
            raise NotInterpreted(f"a pickle of more than {MAX_TEXT} characters, those of shared values counted again")


def in_c_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether `strides` (in elements) are those of C order; the stride of a dimension of 1 does not matter."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _spelled(key: Value) -> str:
    if key is None or isinstance(key, bool | float):
        return f"<{key}>"
    return f"<{name_of(key)}>"
