"""Integers of 0 to 8 bits each, packed without a bit between them, when both sides know every width.

A loop over elements is out of reach of numpy, so numbers are joined by shifts that work on whole arrays: two by two,
four times over, until sixteen of them make one of up to 64 bits. Those are laid end to end. Specified in
docs/format/encodings/delta.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ckptfmt.encodings.words import Words, word_type
from ckptfmt.errors import FormatError

LANES: Final = 16
_PAIR_BITS: Final = np.uint8(8)
_STEPS: Final[tuple[np.dtype[Any], ...]] = tuple(map(word_type, (1, 2, 4, 8)))
_WORD: Final = np.uint64(64)
_LOW: Final = np.uint64(63)
_ONE: Final = np.uint64(1)
_SIX: Final = np.int64(6)


class Widths:
    """How many bits each number of a tile has.

    Attributes:
        each: uint8, at most 8, as many as a multiple of 16; those of a number of the first half of these and its
            companion in the second are at most 8 together.
        right: widths of the second half at each of the four steps.
        total: of every sixteen, uint8.
        begins: the bit at which each sixteen begins, int64.
        length: bits of all.
    """

    def __init__(self, wanted: Words) -> None:
        """Fill `wanted` up to a multiple of 16 with zeros, and leave the second of two what the first one left."""
        short = -len(wanted) % LANES
        self.each = np.append(wanted, np.zeros(short, np.uint8)) if short else wanted
        half = len(self.each) // 2
        second = self.each[half:]
        np.minimum(second, _PAIR_BITS - self.each[:half], out=second)
        self.right: list[Words] = []
        total = self.each
        for _ in _STEPS:
            half = len(total) // 2
            self.right.append(total[half:])
            total = total[:half] + total[half:]
        self.total = total

        self.begins = np.cumsum(total, dtype=np.int64)
        self.length = int(self.begins[-1]) if len(total) else 0
        self.begins -= total

    @property
    def packed_bytes(self) -> int:
        """What the numbers take together."""
        return -(-self.length // 8)


def pack(numbers: Words, widths: Widths) -> bytes:
    """Pack numbers, uint8, each below 2^width."""
    joined = numbers
    for dtype, width in zip(_STEPS, widths.right, strict=True):
        half = len(joined) // 2
        wide = joined.astype(dtype, copy=False)
        joined = np.left_shift(wide[:half], width.astype(dtype, copy=False))
        joined |= wide[half:]
    words = np.zeros(widths.length // 64 + 2, _STEPS[-1])
    word, bit = widths.begins >> _SIX, widths.begins.view(np.uint64) & _LOW
    # Nothing overlaps, so that adding is setting bits.
    np.add.at(words, word, joined << bit)
    word += 1
    joined >>= _ONE
    joined >>= _LOW - bit
    np.add.at(words, word, joined)
    return words.view(np.uint8)[: widths.packed_bytes].tobytes()


def unpack(packed: Words, widths: Widths) -> tuple[Words, Words]:
    """Unpack what `pack` packed, but for the last step.

    Args:
        packed: `widths.packed_bytes` bytes.
        widths: as they were given to `pack`.

    Returns:
        Pairs, uint8: the number of the first half of a tile above its companion of the second half; and the numbers
        of the first half. A companion is its pair less what `widths.right[0]` shifts the other by.

    Raises:
        FormatError: bits are set after the last number.
    """
    if widths.length % 8 and packed[-1] >> (widths.length % 8):
        raise FormatError("a delta frame has bits after its last number")
    words = np.zeros(widths.length // 64 + 2, _STEPS[-1])
    words.view(np.uint8)[: len(packed)] = packed
    word, bit = widths.begins >> _SIX, widths.begins.view(np.uint64) & _LOW
    joined = words.take(word)
    joined >>= bit
    word += 1
    above = words.take(word)
    above <<= _ONE
    above <<= _LOW - bit
    joined |= above
    # Bits of what follows go by shifts; numpy gives 0 for a shift of 64.
    beyond = _WORD - widths.total
    joined <<= beyond
    joined >>= beyond
    for index in range(len(_STEPS) - 1, 0, -1):
        dtype, half = _STEPS[index], len(joined)
        width = widths.right[index].astype(dtype)
        parts = np.empty(2 * half, _STEPS[index - 1])
        first = joined >> width
        parts[:half] = first
        first <<= width
        joined -= first
        parts[half:] = joined
        joined = parts
    return joined, joined >> widths.right[0]
