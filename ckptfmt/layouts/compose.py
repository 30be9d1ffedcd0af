"""Parts of a reading put together, with what holds for every reading enforced in one place.

Every tensor of every cut file appears exactly once; no two model tensors share a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ckptfmt.containers.protocol import Cut
from ckptfmt.format.manifest import Role
from ckptfmt.layouts.listing import split, stage_of, stem_of
from ckptfmt.layouts.protocol import ReadAdapter, Reading, ReadTensor, Tree
from ckptfmt.layouts.values import clean

MANY: Final = 3
"""How many names a note lists before it counts."""

_OPTIMIZER: Final = re.compile(r"optimizer(?:[-_.]\w+)*\.(?:pt|pth|bin|safetensors)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a reading: what one file or directory holds."""

    tensors: tuple[ReadTensor, ...] = ()
    adapters: tuple[ReadAdapter, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reading says beside its tensors: fields as in `Reading`."""

    base_hint: str | None = None
    step: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compose(tree: Tree, layout: str, parts: Iterable[Part], facts: Facts | None = None) -> Reading:
    """One reading of `parts`, earlier ones first; tensors that no part claims are state."""
    facts = facts or Facts()
    pieces = list(parts)
    claimed: dict[tuple[str, int], ReadTensor] = {}
    for piece in pieces:
        for tensor in piece.tensors:
            claimed.setdefault((tensor.path, tensor.index), tensor)
    for tensor in _rest(tree, {path for path, _ in claimed}, claimed):
        claimed[tensor.path, tensor.index] = tensor
    tensors, doubled = _unique_models(claimed.values())
    adapters = tuple(adapter for piece in pieces for adapter in piece.adapters)
    notes = [*facts.notes, *(note for piece in pieces for note in piece.notes), *doubled]
    hints = list(dict.fromkeys(adapter.base_hint for adapter in adapters if adapter.base_hint))
    if len(hints) > 1:
        notes.append(f"the adapters name different bases: {listed(hints)}")
    return Reading(
        layout=layout,
        tensors=tuple(sorted(tensors, key=lambda tensor: (tensor.path, tensor.index))),
        adapters=adapters,
        base_hint=hints[0] if hints else facts.base_hint,
        step=facts.step,
        stage=stage_of(tree.name),
        settings=facts.settings,
        metrics=facts.metrics,
        notes=tuple(dict.fromkeys(clean(note) for note in notes)),
    )


def state_tensors(cut: Cut, path: str, part: str | None, role: Role = "state") -> list[ReadTensor]:
    """Every tensor of a file, under its key."""
    return [ReadTensor(path, index, clean(tensor.key), role, part) for index, tensor in enumerate(cut.tensors)]


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - MANY} more" if len(known) > MANY else ""
    return ", ".join(repr(name) for name in known[:MANY]) + more


def json_object(tree: Tree, path: str, notes: list[str]) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none, with a note where the file is there but holds no object."""
    if path not in tree.paths():
        return {}
    value = tree.json(path)
    if isinstance(value, dict):
        return value
    notes.append(f"{path} is not a JSON object: kept to the byte, not read")
    return {}


def _rest(tree: Tree, claimed_files: set[str], claimed: Mapping[tuple[str, int], ReadTensor]) -> list[ReadTensor]:
    found = []
    for path in tree.paths():
        cut = tree.cut(path)
        if not isinstance(cut, Cut):
            continue
        role: Role = "optimizer" if _OPTIMIZER.fullmatch(split(path)[1]) else "state"
        part = None if role == "optimizer" and "/" not in path else stem_of(path)
        tensors = state_tensors(cut, path, part, role)
        if path in claimed_files:
            tensors = [tensor for tensor in tensors if (path, tensor.index) not in claimed]
        found += tensors
    return found


def _unique_models(tensors: Iterable[ReadTensor]) -> tuple[list[ReadTensor], list[str]]:
    seen: set[str] = set()
    kept, doubled = [], []
    for tensor in tensors:
        if tensor.role == "model":
            if tensor.name in seen:
                doubled.append(tensor.name)
                tensor = replace(tensor, role="state", part=tensor.part or f"second:{stem_of(tensor.path)}")  # noqa: PLW2901
            seen.add(tensor.name)
        kept.append(tensor)
    if not doubled:
        return kept, []
    return kept, [f"{len(doubled)} model tensors are there twice, the second kept as state: {listed(doubled)}"]
