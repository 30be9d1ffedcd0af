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
_SIX: Final = np.int64(6)


class Widths:
    """How many bits each number of some tiles has.

    Attributes:
        each: uint8, at most 8, shape (tiles, a multiple of 16); those of a number of the first half of a tile and its
            companion in the second are at most 8 together.
        right: widths of the second half of each tile at each of the four steps.
        total: of every sixteen, uint8.
        begins: the bit at which each sixteen begins, int64. Every tile begins with a byte.
        unused: bits after the last number in the last byte of each tile.
        packed_bytes: what the numbers take together.
    """

    def __init__(self, wanted: Words) -> None:
        """Let the second of two numbers have what the first one leaves.

        Args:
            wanted: of tiles, shape (tiles, a multiple of 16), uint8, at most 8; they are used up.
        """
        self.each = wanted
        half = wanted.shape[1] // 2
        second = wanted[:, half:]
        np.minimum(second, _PAIR_BITS - wanted[:, :half], out=second)
        self.right: list[Words] = []
        total = wanted
        for _ in _STEPS:
            half = total.shape[1] // 2
            self.right.append(total[:, half:])
            total = total[:, :half] + total[:, half:]
        self.total = total

        self.begins = np.cumsum(total, axis=1, dtype=np.int64)
        lengths = self.begins[:, -1].tolist() if half else [0] * len(total)
        self.begins -= total
        self.unused: list[tuple[int, int]] = []
        self.packed_bytes = 0
        for tile, length in enumerate(lengths):
            if tile:
                self.begins[tile] += 8 * self.packed_bytes
            self.packed_bytes += -(-length // 8)
            if length % 8:
                self.unused.append((self.packed_bytes - 1, length % 8))


def pack(numbers: Words, widths: Widths) -> bytes:
    """Pack numbers, uint8, each below 2^width, of the shape of `widths.each`."""
    joined = numbers
    for dtype, width in zip(_STEPS, widths.right, strict=True):
        half = joined.shape[1] // 2
        wide = joined.astype(dtype, copy=False)
        joined = np.left_shift(wide[:, :half], width.astype(dtype, copy=False))
        joined |= wide[:, half:]
    words = np.zeros(widths.packed_bytes // 8 + 2, _STEPS[-1])
    begins, joined = widths.begins.reshape(-1), joined.reshape(-1)
    word, bit = begins >> _SIX, begins.view(np.uint64) & _LOW
    # Nothing overlaps, so that adding is setting bits.
    np.add.at(words, word, joined << bit)
    word += 1
    # numpy gives 0 for a shift of 64, here and below.
    np.subtract(_WORD, bit, out=bit)
    joined >>= bit
    np.add.at(words, word, joined)
    return words.view(np.uint8)[: widths.packed_bytes].tobytes()


def unpack(packed: Words, widths: Widths) -> tuple[Words, Words]:
    """Unpack what `pack` packed, but for the last step.

    Args:
        packed: `widths.packed_bytes` bytes.
        widths: as they were given to `pack`.

    Returns:
        Pairs, uint16: the number of the first half of a tile above its companion of the second half; and all widths,
        uint16. A number of the first half is its pair less as many low bits as its companion has.

    Raises:
        FormatError: bits are set after the last number of a tile.
    """
    if any(packed[at] >> used for at, used in widths.unused):
        raise FormatError("a delta frame has bits after its last number")
    words = np.zeros(widths.packed_bytes // 8 + 2, _STEPS[-1])
    words.view(np.uint8)[: len(packed)] = packed
    word, bit = widths.begins >> _SIX, widths.begins.view(np.uint64) & _LOW
    joined = words.take(word)
    joined >>= bit
    np.subtract(_WORD, bit, out=bit)
    above = words[1:].take(word)
    above <<= bit
    joined |= above
    # Bits of what follows go.
    np.subtract(_WORD, widths.total.astype(np.uint64), out=bit)
    joined <<= bit
    joined >>= bit
    for index in range(len(_STEPS) - 1, 0, -1):
        wide, narrow, half = _STEPS[index], _STEPS[max(index - 1, 1)], joined.shape[1]
        parts = np.empty((len(joined), 2 * half), narrow)
        first, second = parts[:, :half], parts[:, half:]
        width = widths.right[index]
        # Casts cut off no more than the numbers' zeros, or what the subtraction takes away.
        first[...] = joined >> width.astype(wide, copy=False)
        np.left_shift(first, width.astype(narrow), out=second)
        np.subtract(joined.astype(narrow, copy=False), second, out=second)
        joined = parts
    return joined, widths.each.astype(np.uint16)
