"""Which levels of nearness belong together: those whose predictions fail about as often.

A group costs two small tables, so levels are sorted by how often predictions failed there and cut into runs, by
dynamic programming over the entropy that each run would have. Specified in docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.encodings.words import Words

MAX_GROUPS: Final = 16
_PURE: Final = 26
"""Levels below have one boundary that counts, so nearly all of their steps are 1."""
_GROUP_BITS: Final = 8.0 * 50
"""What the lengths and code tables of a group take."""


class Groups(NamedTuple):
    """How the elements of a frame are grouped.

    Attributes:
        number: of groups.
        table: the group of each level, 128 of them, uint8.
    """

    number: int
    table: Words


def choose_groups(counted: Words, levels: Words, steps: Words) -> Groups:
    """Choose the groups of a frame.

    Args:
        counted: elements of each level.
        levels: of the changed elements.
        steps: theirs.
    """
    failed = np.bincount(levels, minlength=len(counted))
    odd = np.bincount(levels[steps != 1], minlength=len(counted))
    present = np.flatnonzero(counted)
    rates = failed[present] / counted[present]
    order = present[np.lexsort((rates, present >= _PURE))]
    totals = [np.concatenate(([0], np.cumsum(each[order]))) for each in (counted, failed, odd)]
    costs = _costs(*totals)
    runs = _cheapest_runs(costs)
    # Group 0 is the one that its places can count all elements for: the largest.
    runs.sort(key=lambda run: -int(totals[0][run[1]] - totals[0][run[0]]))
    table = np.zeros(len(counted), np.uint8)
    for index, (begin, end) in enumerate(runs):
        table[order[begin:end]] = index
    return Groups(len(runs), table)


def _costs(counted: Any, failed: Any, odd: Any) -> Any:
    """Bits of each run of levels, from row to column."""
    count, changed, other = (each[None, :] - each[:, None] for each in (counted, failed, odd))
    costs = _entropy(count, changed) + _entropy(changed, other)
    costs[np.tril_indices(len(counted))] = np.inf
    return costs + _GROUP_BITS


def _entropy(count: Any, chosen: Any) -> Any:
    """Bits to tell which `chosen` of `count` they are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        part = chosen / count
        bits = -count * (part * np.log2(part) + (1 - part) * np.log2(1 - part))
    return np.where((chosen > 0) & (chosen < count), bits, 0.0)


def _cheapest_runs(costs: Any) -> list[tuple[int, int]]:
    """Cut what `costs` has rows and columns for into at most `MAX_GROUPS` runs."""
    size = len(costs)
    best, froms = np.full(size, np.inf), []
    best[0] = 0.0
    tables = [best]
    for _ in range(MAX_GROUPS):
        total = tables[-1][:, None] + costs
        froms.append(np.argmin(total, axis=0))
        tables.append(np.min(total, axis=0))
    number = int(np.argmin([table[-1] for table in tables]))
    runs, end = [], size - 1
    for index in range(number - 1, -1, -1):
        begin = int(froms[index][end])
        runs.append((begin, end))
        end = begin
    return runs
