"""Integers of 0 to 8 bits each, packed without a bit between them, when both sides know every width.

A loop over elements is out of reach of numpy, so eight numbers at a time are joined by shifts that work on whole
arrays, and cut into bytes; the up to 7 bits that are left of each eight are packed in the same way, until few are left.
Specified in docs/format/encodings/delta.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ckptfmt.encodings.streams import Reader
from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError

LANES: Final = 8
FEW: Final = 1024
"""So many numbers that were left of eights take a byte each."""
_STEPS: Final[tuple[np.dtype[Any], ...]] = (np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))


class BitWriter:
    """Packs tile after tile; `finish` gives the bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._left: list[tuple[Words, Words]] = []

    def add(self, numbers: Words, widths: Words) -> None:
        """Pack a tile.

        Args:
            numbers: each below 2^width.
            widths: 0 to 8, uint8.
        """
        short = -len(widths) % LANES
        if short:
            numbers = np.append(numbers, np.zeros(short, numbers.dtype))
            widths = np.append(widths, np.zeros(short, np.uint8))
        right, total = _widths(widths)
        joined: Words = numbers
        for dtype, width in zip(_STEPS, right, strict=True):
            joined = _join(joined.astype(dtype, copy=False), width)
        left = total & np.uint8(7)
        mask = np.left_shift(np.uint8(1), left)
        mask -= np.uint8(1)
        self._left.append((joined.astype(np.uint8) & mask, left))
        joined >>= left.astype(np.uint64)
        columns = joined.view(np.uint8)
        for index, places in _columns(total):
            column = columns[index::LANES]
            self._parts.append((column if places is None else column[places]).tobytes())

    def finish(self) -> bytes:
        """Everything that was packed."""
        while self._left:
            numbers, widths = (np.concatenate(each) for each in zip(*self._left, strict=True))
            self._left = []
            if len(numbers) <= FEW:
                self._parts.append(numbers.tobytes())
            else:
                self.add(numbers, widths)
        return b"".join(self._parts)


class BitReader:
    """Takes apart what a `BitWriter` wrote.

    Args:
        reader: stands at the packed bytes.
        tiles: the widths of each tile, as they were given to the writer.
    """

    def __init__(self, reader: Reader, tiles: list[Words]) -> None:
        self._tiles = [_Tile(widths) for widths in tiles]
        for tile in self._tiles:
            tile.take(reader)
        self._left, self._begin = _left_of(reader, [tile.left for tile in self._tiles]), 0

    def tile(self, index: int) -> Words:
        """The numbers of tile `index`, uint16; to be asked for once each, in order."""
        tile = self._tiles[index]
        end = self._begin + len(tile.left)
        numbers = tile.numbers(self._left[self._begin : end])
        self._begin = end
        return numbers


class _Tile:
    def __init__(self, widths: Words) -> None:
        self._count = len(widths)
        short = -len(widths) % LANES
        self._right, self._total = _widths(np.append(widths, np.zeros(short, np.uint8)) if short else widths)
        self.left = self._total & np.uint8(7)

    def take(self, reader: Reader) -> None:
        self._columns = [
            (index, places, reader.plane(len(self._total) if places is None else len(places)))
            for index, places in _columns(self._total)
        ]

    def numbers(self, left: Words) -> Words:
        columns = np.zeros(LANES * len(self._total), np.uint8)
        for index, places, stored in self._columns:
            column = columns[index::LANES]
            if places is None:
                column[:] = stored
            else:
                column[places] = stored
        self._columns = []
        joined = columns.view(_STEPS[-1])
        joined <<= self.left.astype(np.uint64)
        joined |= left
        for dtype, width in zip(reversed(_STEPS), reversed(self._right), strict=True):
            joined = _split(joined.astype(dtype, copy=False), width)
        return joined[: self._count]


def _left_of(reader: Reader, lefts: list[Words]) -> Words:
    """The numbers that were left of each eight, tile after tile."""
    widths = np.concatenate(lefts) if lefts else np.empty(0, np.uint8)
    if len(widths) <= FEW:
        numbers = reader.plane(len(widths))
        if (numbers >> widths).any():
            raise FormatError("a delta frame has bits where none are left")
        return numbers
    tile = _Tile(widths)
    tile.take(reader)
    return tile.numbers(_left_of(reader, [tile.left]))


def _widths(widths: Words) -> tuple[tuple[Words, Words, Words], Words]:
    """Widths of the right halves at each of three steps, and of each eight together."""
    right = []
    for _ in _STEPS:
        half = len(widths) // 2
        right.append(widths[half:])
        widths = widths[:half] + widths[half:]
    first, second, third = right
    return (first, second, third), widths


def _columns(total: Words) -> list[tuple[int, Any]]:
    """For each byte of the joined eights: its index, and which of them have it (None: all)."""
    whole = total >> np.uint8(3)
    columns: list[tuple[int, Any]] = []
    for index in range(int(whole.max(initial=0))):
        places = np.flatnonzero(whole > index)
        columns.append((index, None if len(places) == len(whole) else places))
    return columns


def _join(numbers: Words, width: Words) -> Words:
    """The left half of `numbers` above the right half, whose widths are given."""
    half = len(numbers) // 2
    joined: Words = np.left_shift(numbers[:half], width.astype(numbers.dtype))
    joined |= numbers[half:]
    return joined


def _split(joined: Words, width: Words) -> Words:
    """The inverse of `_join`."""
    half = len(joined)
    numbers = np.empty(2 * half, joined.dtype)
    wide = width.astype(joined.dtype)
    left, right = numbers[:half], numbers[half:]
    np.right_shift(joined, wide, out=left)
    np.left_shift(left, wide, out=right)
    np.subtract(joined, right, out=right)
    return numbers
