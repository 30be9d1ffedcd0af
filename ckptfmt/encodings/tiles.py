"""Tiles: the elements whose low bits are packed together, some tiles at once. See docs/format/encodings/delta.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from ckptfmt.encodings.bits import LANES, Widths
from ckptfmt.encodings.words import Words

TILE: Final = 1 << 18
"""Elements whose low bits are packed together."""
TOGETHER: Final = 4
"""Tiles of elements of a byte that are worked on together, of wider ones fewer. Two threads wait for each other where
they enter and leave numpy; more at once leaves the cache."""


class Tiles(NamedTuple):
    """Tiles of one size that are worked on together.

    Attributes:
        begin: first element.
        end: one past the last.
        number: of tiles.
        size: elements of each.
        filled: that, filled up to a multiple of 16.
    """

    begin: int
    end: int
    number: int
    size: int
    filled: int

    def rows(self, flat: Words) -> Words:
        """A row for each tile, of a value for each element; what fills up is 0."""
        if self.size == self.filled:
            return flat.reshape(self.number, self.size)
        rows = np.zeros((self.number, self.filled), flat.dtype)
        rows[:, : self.size] = flat.reshape(self.number, self.size)
        return rows

    def widths(self, wanted: Words) -> Widths:
        """Low bits, from what each element wants; what fills up wants none."""
        return Widths(self.rows(wanted))


def tiles_of(count: int, width: int) -> Iterator[Tiles]:
    """Cut `count` elements of `width` bytes into tiles."""
    whole, step = count - count % TILE, TILE * max(1, TOGETHER // width)
    for begin in range(0, whole, step):
        end = min(begin + step, whole)
        yield Tiles(begin, end, (end - begin) // TILE, TILE, TILE)
    if whole < count:
        size = count - whole
        yield Tiles(whole, count, 1, size, size + -size % LANES)
