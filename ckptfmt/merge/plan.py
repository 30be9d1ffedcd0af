"""Merge plans: which tensor becomes what, and where it will stand. Pure data; a dry run prints it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.errors import MergeError
from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.merge.protocol import Changes, ModuleChange, RowChange, Spec

DTYPES: Final[dict[str, str]] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtypes a merged model may be given, by the words users say."""

CAST: Final = frozenset({"BF16", "F16", "F32"})
"""Dtypes that a model's own tensors are cast between; integers, masks and 8-bit tensors stay as they are."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change on the way from a base tensor to its output, by rows or of a module.

    `held` is the dtype, as `format.dtypes` names it, that tensors are cast to before and that they come out in.
    """

    held: str
    row: RowChange | None = None
    module: ModuleChange | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the merged model.

    Attributes:
        name: as it is written.
        spec: dtype and shape that are written.
        source: the base tensor it begins with; None for one that a change adds.
        steps: what happens to it by rows, in order; empty with a source of the same dtype means a copy.
        group: index of the group of tensors that must be held whole together; None for what streams by rows.
    """

    name: str
    spec: Spec
    source: str | None
    steps: tuple[Step, ...] = ()
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that some module change needs together: its steps in order over all of them."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge will do.

    Attributes:
        outputs: tensors of the merged model, in the order they are written.
        groups: those held whole.
        base: dtype and shape of each base tensor.
        changed: names of the outputs that are no copies.
        config_changes: keys of `config.json` that change.
        scaling: for each ingredient, the scaling of the tensors that it changes.
        notes: sentences that a user should know.
    """

    outputs: tuple[Output, ...]
    groups: tuple[Group, ...]
    base: Mapping[str, Spec]
    changed: tuple[str, ...]
    config_changes: Mapping[str, object]
    scaling: tuple[Mapping[str, float], ...]
    notes: tuple[str, ...]

    def output_bytes(self) -> int:
        """Bytes of tensor data that will be written."""
        return sum(size_bytes(item.spec.dtype, item.spec.shape) or 0 for item in self.outputs)


def plan_merge(
    base: Mapping[str, Spec], stages: Sequence[tuple[Changes, str | None]], *, dtype: str | None, order: Iterable[str]
) -> MergePlan:
    """Put the changes of all adapters together.

    Args:
        base: the base's tensors.
        stages: changes of each adapter in order, with the dtype the model is held in meanwhile (None: its own).
        dtype: dtype of the merged model's floats (None: the base's own), as `format.dtypes` names it.
        order: names in the order they should be written.

    Raises:
        MergeError: a change is for a tensor that the base does not have.
    """
    steps: dict[str, list[Step]] = {}
    joined = _Joined()
    added: dict[str, Spec] = {}
    current = dict(base)
    for changes, held in stages:
        for row in changes.rows:
            if row.target not in current:
                raise MergeError(f"the base has no tensor {row.target!r}, which the adapter changes")
            steps.setdefault(row.target, []).append(Step(_held(current[row.target].dtype, held), row=row))
        for module in changes.modules:
            outputs = module.outputs(current)
            for name, spec in outputs.items():
                if name not in base:
                    added[name] = spec
                current[name] = spec
            joined.join(module.targets)
            first = module.targets[0]
            step = Step(_held(current[first].dtype if first in current else "F32", held), module=module)
            for name in module.targets:
                steps.setdefault(name, []).append(step)
    return _assemble(
        base=base,
        current=current,
        added=added,
        steps=steps,
        joined=joined,
        stages=stages,
        dtype=dtype,
        order=order,
    )


def _held(own: str, held: str | None) -> str:
    return held if held is not None and own in CAST else own


class _Joined:
    """Tensors that must be held together: the sets that module changes join."""

    def __init__(self) -> None:
        self._of: dict[str, set[str]] = {}

    def join(self, names: Iterable[str]) -> None:
        whole: set[str] = set()
        for name in names:
            whole |= self._of.get(name, {name})
        for name in whole:
            self._of[name] = whole

    def groups(self) -> list[set[str]]:
        return list({id(group): group for group in self._of.values()}.values())


def _assemble(
    *,
    base: Mapping[str, Spec],
    current: Mapping[str, Spec],
    added: Mapping[str, Spec],
    steps: Mapping[str, list[Step]],
    joined: _Joined,
    stages: Sequence[tuple[Changes, str | None]],
    dtype: str | None,
    order: Iterable[str],
) -> MergePlan:
    group_of: dict[str, int] = {}
    groups = []
    for index, members in enumerate(joined.groups()):
        names = tuple(sorted(members))
        ordered: dict[int, Step] = {}
        for step in _in_order(names, steps):
            ordered.setdefault(id(step), step)
        groups.append(Group(names, tuple(ordered.values())))
        group_of.update((name, index) for name in names)
    outputs = []
    for name in (*order, *(name for name in sorted(added) if name not in base)):
        spec = current[name]
        out = Spec(_held(spec.dtype, dtype), spec.shape)
        outputs.append(
            Output(
                name=name,
                spec=out,
                source=name if name in base else None,
                steps=() if name in group_of else tuple(steps.get(name, ())),
                group=group_of.get(name),
            )
        )
    outputs = _arranged(outputs)
    changed = tuple(item.name for item in outputs if item.steps or item.group is not None or item.name not in base)
    config: dict[str, object] = {}
    for changes, _ in stages:
        config |= changes.config_changes
    return MergePlan(
        outputs=tuple(outputs),
        groups=tuple(groups),
        base=dict(base),
        changed=changed,
        config_changes=config,
        scaling=tuple(changes.scaling for changes, _ in stages),
        notes=tuple(dict.fromkeys(note for changes, _ in stages for note in changes.notes)),
    )


def _arranged(outputs: list[Output]) -> list[Output]:
    """Widest dtype first, so that every tensor is aligned in its file; the members of a group follow its first."""
    by_width = sorted(outputs, key=lambda item: -BITS[item.spec.dtype])
    firsts: dict[int, int] = {}
    places = []
    for place, item in enumerate(by_width):
        first = place if item.group is None else firsts.setdefault(item.group, place)
        places.append((-BITS[item.spec.dtype], first, item))
    return [item for _, _, item in sorted(places, key=lambda each: each[:2])]


def _in_order(names: Sequence[str], steps: Mapping[str, list[Step]]) -> list[Step]:
    """The steps of several tensors in the order of their stages: each tensor's own order is kept."""
    queues = [list(steps.get(name, ())) for name in names]
    ordered: list[Step] = []
    while any(queues):
        for queue in queues:
            while queue and _is_free(queue[0], queues):
                step = queue.pop(0)
                for other in queues:
                    if other and other[0] is step:
                        other.pop(0)
                ordered.append(step)
    return ordered


def _is_free(step: Step, queues: Sequence[Sequence[Step]]) -> bool:
    """A step comes when it is the first of every tensor that it still stands before."""
    return all(queue[0] is step for queue in queues if any(item is step for item in queue))


def row_bytes(spec: Spec) -> int:
    """Bytes of one leading row."""
    return (math.prod(spec.shape[1:]) * BITS[spec.dtype] + 7) // 8
