"""Low-rank factors as integers, and their product without a rounding that a machine could choose.

The elements of a row of the left factor, or of a column of the right one, become integers with a power of two as step.
A product of integers of bl and br bits over a rank r with bl + br + ceil(log2 r) <= 53 is computed as float64: every
partial sum is an integer of at most 53 bits, so it is exact in any order, on any number of threads, whatever BLAS is
there. Wider left factors are cut into limbs whose products meet that bound. Specified in
docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.encodings.casts import CASTS
from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError

EXACT_BITS: Final = 53
MAX_RANK: Final = 1024
_SERIAL: Final = 1 << 18
"""Multiplications below which OpenBLAS starts no threads: ours would wait for each other's."""
_NARROW: Final = 48
_NOTHING: Final = -(1 << 20)
"""The exponent of a row of zeros."""


class FloatLayout(NamedTuple):
    """Where a float's bits are.

    Attributes:
        width: bytes.
        fraction: bits of the fraction.
        bias: what is subtracted from the exponent field.
    """

    width: int
    fraction: int
    bias: int


FLOATS: Final = {"BF16": FloatLayout(2, 7, 127), "F16": FloatLayout(2, 10, 15), "F32": FloatLayout(4, 23, 127)}
INTEGERS: Final = {"I8": 1, "I16": 2, "I32": 4}
WIDTHS: Final = {**INTEGERS, **{name: layout.width for name, layout in FLOATS.items()}}
"""Element types of factors, and their bytes."""


class FactorType(NamedTuple):
    """How a prediction reads a factor.

    Attributes:
        stored: element type of its words.
        read: the type that they are rounded to first; mostly the same.
    """

    stored: str
    read: str

    def numbers(self, words: Words) -> Words:
        """Words as they are read."""
        if self.stored == self.read:
            return words
        return CASTS[self.stored, self.read](words.reshape(-1)).reshape(words.shape)


FACTOR_TYPES: Final = {
    **{name: FactorType(name, name) for name in WIDTHS},
    **{f"{stored}>{read}": FactorType(stored, read) for stored, read in CASTS if WIDTHS[read] == 2},
}
"""By the texts that stand for them in a prediction."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An exact factor, `mantissa` x 2^`exponent`."""

    mantissa: int = 1
    exponent: int = 0


ONE: Final = Scale()


def scale_of(bits: int) -> Scale:
    """The float32 number of these bits, which must be normal.

    Raises:
        FormatError: it is zero, subnormal, infinite or NaN.
    """
    field = bits >> 23 & 0xFF
    if not 0 < field < 0xFF:
        raise FormatError(f"no factor can be scaled by the float32 {bits:08x}")
    mantissa = bits & 0x7FFFFF | 0x800000
    zeros = (mantissa & -mantissa).bit_length() - 1
    return Scale((-1 if bits >> 31 else 1) * (mantissa >> zeros), field - 150 + zeros)


def largest_of(words: Words, element: str) -> int:
    """The largest magnitude among integers; 0 for floats, of which nothing depends on it."""
    if element in FLOATS:
        return 0
    signed = words.view(f"<i{INTEGERS[element]}")
    return max(int(signed.max(initial=0)), -int(signed.min(initial=0)))


@dataclass(frozen=True, slots=True)
class Split:
    """How two factors are made integers whose product is exact.

    Attributes:
        left: element type of the left factor.
        right: likewise of the right one.
        bits: how many the integers of the left and of the right factor have.
        limb: bits of a limb of the left factor.
        limbs: how many there are.
        scale: what elements of the right factor are multiplied by first.
    """

    left: str
    right: str
    bits: tuple[int, int]
    limb: int
    limbs: int
    scale: Scale


def split(left: str, right: tuple[str, int], rank: int, scale: Scale) -> Split:
    """Choose bits for a product of `rank` terms.

    Floats share the 53 - ceil(log2 rank) bits there are, so that they need one limb; the right factor has the odd bit.
    Integers are taken as they are; `scale` must be a power of two. A left factor is looked at in parts, so its limbs do
    not depend on what it holds.

    Args:
        left: element type of the left factor.
        right: element type of the right one, and its largest magnitude where they are integers.
        rank: terms of every sum.
        scale: what the product is multiplied by.
    """
    room = EXACT_BITS - (rank - 1).bit_length()
    if left in FLOATS:
        half = room // 2
        return Split(left, right[0], (half, room - half), half, 1, scale)
    first, second = 8 * INTEGERS[left] - 1, max(right[1] - 1, 0).bit_length()
    limb = room - second
    return Split(left, right[0], (first, second), limb, math.ceil(first / limb), scale)


def right_values(words: Words, parted: Split) -> Any:
    """The right factor, shape (rank, columns), as integers times their steps: exact as float64."""
    if parted.right in FLOATS:
        return _quantized(words, parted.right, 0, parted.bits[1], parted.scale)
    values: Any = words.view(f"<i{INTEGERS[parted.right]}").astype(np.float64)
    values *= math.ldexp(1.0, parted.scale.exponent)
    return values


def left_limbs(words: Words, parted: Split) -> list[Any]:
    """The left factor, shape (rows, rank), as float64 arrays whose sum it is, the lowest limb first."""
    if parted.left in FLOATS:
        return [_quantized(words, parted.left, 1, parted.bits[0], ONE)]
    integers = words.view(f"<i{INTEGERS[parted.left]}").astype(np.int64)
    limbs = []
    for index in range(parted.limbs):
        part = integers
        if index < parted.limbs - 1:
            part = integers & ((1 << parted.limb) - 1)
            integers = integers >> parted.limb
        limb = part.astype(np.float64)
        limb *= math.ldexp(1.0, index * parted.limb)
        limbs.append(limb)
    return limbs


def _quantized(words: Words, element: str, axis: int, bits: int, scale: Scale) -> Any:
    """Floats times `scale` as integers of `bits` bits times a power of two for every column (axis 0) or row (axis 1).

    The step is as fine as the largest element of the column or row lets it be; elements go to the nearest integer, ties
    to even.
    """
    layout = FLOATS[element]
    magnitude = (words & words.dtype.type((1 << (8 * layout.width - 1)) - 1)).astype(np.int64)
    field = magnitude >> layout.fraction
    if int(field.max(initial=0)) >= (1 << (8 * layout.width - 1 - layout.fraction)) - 1:
        raise FormatError("a factor holds NaN or an infinity: nothing can be predicted from it")
    mantissa = magnitude & ((1 << layout.fraction) - 1)
    mantissa[field > 0] |= 1 << layout.fraction
    # Exponents of what a mantissa's lowest bit is worth.
    exponents = np.maximum(field, 1)
    exponents += scale.exponent - layout.bias - layout.fraction
    mantissa *= abs(scale.mantissa)
    _, lengths = np.frexp(mantissa.astype(np.float64))
    tops = np.where(mantissa > 0, lengths + exponents, _NOTHING).max(axis=axis, keepdims=True)
    steps = np.where(tops > _NOTHING, tops - bits, 0)
    shift = exponents - steps
    up, down = np.clip(shift, 0, 62), np.clip(-shift, 0, 62)
    half = np.left_shift(1, np.maximum(down - 1, 0))
    half[down == 0] = 0
    # To the nearest, ties to even: half a unit, less one where the unit is even, is added before the shift.
    odd = mantissa >> down & 1
    mantissa += half
    mantissa -= (half > 0) & (odd == 0)
    mantissa >>= down
    mantissa <<= up
    mantissa[(words >> words.dtype.type(8 * layout.width - 1) != 0) != (scale.mantissa < 0)] *= -1
    values: Any = np.ldexp(mantissa.astype(np.float64), steps.astype(np.int32))
    return values


def multiply(limbs: list[Any], right: Any, out: Any, spare: Any) -> None:
    """The product of the limbs' sum and `right`: of every limb exactly, then added, the lowest first.

    Args:
        limbs: shapes (rows, rank).
        right: shape (rank, columns).
        out: shape (rows, columns), float64.
        spare: likewise; used where there is more than one limb.
    """
    rows, columns = out.shape
    rank = len(right)
    height = max(1, min(rows, math.isqrt(_SERIAL // rank) if rank > _NARROW else 64))
    width = max(1, _SERIAL // (rank * height))
    for index, limb in enumerate(limbs):
        into = spare if index else out
        for top in range(0, rows, height):
            for begin in range(0, columns, width):
                np.matmul(
                    limb[top : top + height],
                    right[:, begin : begin + width],
                    out=into[top : top + height, begin : begin + width],
                )
        if index:
            np.add(out, spare, out=out)
