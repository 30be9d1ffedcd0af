"""Columns that fit: which are shown at a width, and how wide each one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        key: names it; a table is sorted by it.
        title: stands in its header.
        width: columns of the terminal, at least.
        priority: 0 is always shown; the highest number goes first where there is no room.
        align: of its cells.
        grows: whether it takes what room is left.
    """

    key: str
    title: str
    width: int
    priority: int = 0
    align: Literal["left", "right"] = "left"
    grows: bool = False


def fit(columns: Sequence[Column], width: int) -> tuple[tuple[Column, int], ...]:
    """The columns that are shown in `width`, each with its width. The first one is always among them."""
    kept = list(columns)
    while len(kept) > 1 and _needed(kept) > width:
        last = max(range(1, len(kept)), key=lambda index: (kept[index].priority, index))
        del kept[last]
    spare = max(width - _needed(kept), 0)
    growing = [column for column in kept if column.grows]
    widths = {column.key: column.width for column in kept}
    for index, column in enumerate(growing):
        share = spare // (len(growing) - index)
        widths[column.key] += share
        spare -= share
    if _needed(kept) > width:
        widths[kept[0].key] = max(width, 1)
    return tuple((column, widths[column.key]) for column in kept)


def cut_left(text: str, room: int) -> str:
    """A text in so many columns; a longer one loses its beginning: names of tensors and runs differ at their ends."""
    return text if len(text) <= room else f"…{text[len(text) - room + 1 :]}" if room > 0 else ""


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)
