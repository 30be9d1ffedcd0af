"""A model's tensors as a table: layers down, modules across."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

_LEAVES: Final = frozenset({"weight", "bias", "weight_scale", "weight_scale_inv", "in_proj_weight", "in_proj_bias"})
_ANY: Final = "*"
"""Stands for the numbers below a layer: of its experts."""

Of = Literal["model", "adapter"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: `stack` and `index` of its layer (`model.layers`, 3), or neither; and its module."""

    stack: str | None
    index: int
    module: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of both checkpoints, or an adapter's update of both.

    Attributes:
        name: of the tensor, or of the module that is updated.
        elements: how many it has.
        relative_norm: of its change; None where there is none.
        changed: whether it changed.
    """

    name: str
    elements: int
    relative_norm: float | None
    changed: bool


@dataclass(frozen=True, slots=True)
class FilledCell:
    """See `api.results_diff.Cell`."""

    of: Of
    layer: str | None
    module: str
    relative_norm: float | None
    tensors: int
    changed: int


@dataclass(frozen=True, slots=True)
class Table:
    """Layers and modules in order, and the cells that there are, row by row."""

    layers: tuple[str, ...]
    modules: tuple[str, ...]
    cells: tuple[FilledCell, ...]


def place_of(name: str) -> Place:
    """Where a tensor stands, by the first number in its name: `model.layers.3.mlp.up_proj.weight`.

    What stands in no layer is a module of its own under its whole name, without `.weight` or `.bias`.
    """
    parts = name.split(".")
    if len(parts) > 1 and parts[-1] in _LEAVES:
        parts.pop()
    at = next((at for at, part in enumerate(parts) if part.isdecimal() and part.isascii()), None)
    if at is None:
        return Place(None, 0, ".".join(parts))
    rest = [_ANY if part.isdecimal() else part for part in parts[at + 1 :]]
    return Place(".".join(parts[:at]), int(parts[at]), ".".join(rest) or _ANY)


def fill_table(entries: Sequence[tuple[Of, Entry]]) -> Table:
    """Sort entries into cells: those of the model first, layers by number, modules in order of the entries.

    A layer is called by its number where there is one stack of them, else by stack and number.
    """
    placed = [(of, place_of(entry.name), entry) for of, entry in entries]
    stacks = {(of, place.stack) for of, place, _ in placed if place.stack is not None}
    lonely = all(sum(each == of for each, _ in stacks) <= 1 for of in ("model", "adapter"))

    def layer(place: Place) -> str | None:
        if place.stack is None:
            return None
        return str(place.index) if lonely or not place.stack else f"{place.stack}.{place.index}"

    groups: dict[tuple[Of, str | None, str], list[Entry]] = {}
    order: dict[str, tuple[str, int]] = {}
    modules: dict[str, None] = {}
    for of, place, entry in placed:
        label = layer(place)
        if label is not None:
            order[label] = (place.stack or "" if not lonely else "", place.index)
        modules[place.module] = None
        groups.setdefault((of, label, place.module), []).append(entry)
    layers = sorted(order, key=lambda each: order[each])
    rank = {label: at for at, label in enumerate(layers)}
    column = {module: at for at, module in enumerate(modules)}
    keys = sorted(groups, key=lambda key: (key[0] != "model", rank.get(key[1] or "", -1), column[key[2]]))
    cells = tuple(
        FilledCell(*key, mean_norm(groups[key]), len(groups[key]), sum(entry.changed for entry in groups[key]))
        for key in keys
    )
    return Table(tuple(layers), tuple(modules), cells)


def mean_norm(entries: Iterable[Entry]) -> float | None:
    """Root of the mean of squared relative norms, weighted by elements; None where there are none.

    It is ||D|| / ||A|| over all of them where their elements have the same root mean square: norms of what is the same
    are not known, since that is not read.
    """
    known = [entry for entry in entries if entry.relative_norm is not None]
    elements = sum(entry.elements for entry in known)
    if not known:
        return None
    if not elements:
        return 0.0
    norm = 0.0
    for entry in known:
        norm = math.hypot(norm, (entry.relative_norm or 0.0) * math.sqrt(entry.elements / elements))
    return norm if math.isfinite(norm) else None
