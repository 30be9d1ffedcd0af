"""Low-rank factors as integers, and their product without a rounding that a machine could choose.

A factor's elements become integers with one power of two as step. A product of integers of bl and br bits over a rank r
with bl + br + ceil(log2 r) <= 53 is computed as float64: every partial sum is an integer below 2^53, so it is exact
in any order, on any number of threads, whatever BLAS is there. Wider left factors are cut into limbs whose products
meet that bound. Specified in docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.encodings.words import Words
from ckptfmt.errors import FormatError

EXACT_BITS: Final = 53
MAX_RANK: Final = 1024
_SERIAL: Final = 1 << 18
"""Multiplications below which OpenBLAS starts no threads: ours would wait for each other's."""
_NARROW: Final = 48


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
    """The largest magnitude among `words`: for floats their bits without the sign, for integers the number."""
    if not len(words):
        return 0
    if element in INTEGERS:
        signed = words.view(f"<i{INTEGERS[element]}")
        return max(int(signed.max()), -int(signed.min()))
    return int((words & words.dtype.type((1 << (8 * FLOATS[element].width - 1)) - 1)).max())


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How the elements of one factor become integers; each is the nearest to element / 2^step, ties to even.

    Attributes:
        element: a key of `WIDTHS`.
        bits: no integer is larger than 2^bits.
        step: exponent of the step.
        scale: what elements are multiplied by first.
    """

    element: str
    bits: int
    step: int
    scale: Scale = ONE

    def integers(self, words: Words) -> Words:
        """Elements as integers of 64 bits."""
        if self.element in INTEGERS:
            return words.view(f"<i{INTEGERS[self.element]}").astype(np.int64)
        layout = FLOATS[self.element]
        magnitude = (words & words.dtype.type((1 << (8 * layout.width - 1)) - 1)).astype(np.int64)
        field = magnitude >> layout.fraction
        mantissa = magnitude & ((1 << layout.fraction) - 1)
        mantissa[field > 0] |= 1 << layout.fraction
        np.maximum(field, 1, out=field)
        mantissa *= abs(self.scale.mantissa)
        shift = field - (layout.bias + layout.fraction - self.scale.exponent + self.step)
        up, down = np.clip(shift, 0, 62), np.clip(-shift, 0, 62)
        half = np.left_shift(1, np.maximum(down - 1, 0))
        half[down == 0] = 0
        # To the nearest, ties to even: half a unit, less one where the unit is even, is added before the shift.
        odd = mantissa >> down & 1
        rounded = mantissa + half
        rounded -= (half > 0) & (odd == 0)
        rounded >>= down
        rounded <<= up
        negative = words >> words.dtype.type(8 * layout.width - 1) != (self.scale.mantissa < 0)
        rounded[negative] *= -1
        result: Words = rounded
        return result


def _float_quantizer(element: str, largest: int, bits: int, scale: Scale) -> Quantizer:
    """As fine a step as lets every element of a factor have at most `bits` bits."""
    layout = FLOATS[element]
    field = largest >> layout.fraction
    if field >= (1 << (8 * layout.width - 1 - layout.fraction)) - 1:
        raise FormatError("a factor holds NaN or an infinity: nothing can be predicted from it")
    mantissa = largest & ((1 << layout.fraction) - 1) | (1 << layout.fraction if field else 0)
    top = (mantissa * abs(scale.mantissa)).bit_length() + max(field, 1) - layout.bias - layout.fraction + scale.exponent
    return Quantizer(element, bits, top - bits, scale) if mantissa else Quantizer(element, 0, 0, scale)


@dataclass(frozen=True, slots=True)
class Split:
    """How a left and a right factor are made integers whose product is exact.

    Attributes:
        left: how elements of the left factor become integers.
        right: likewise of the right one.
        limb: bits of a limb of the left factor.
        limbs: how many there are.
    """

    left: Quantizer
    right: Quantizer
    limb: int
    limbs: int

    @property
    def step(self) -> int:
        """Exponent of the product's step."""
        return self.left.step + self.right.step


def split(left: tuple[str, int], right: tuple[str, int], rank: int, scale: Scale) -> Split:
    """Choose bits and steps for a product of `rank` terms.

    Floats share the 53 - ceil(log2 rank) bits there are, so that they need one limb; the right factor is multiplied by
    `scale` first and has the odd bit. Integers are taken as they are; `scale` must be a power of two.

    Args:
        left: element type and largest magnitude of the left factor.
        right: likewise of the right one.
        rank: terms of every sum.
        scale: what the product is multiplied by.

    Raises:
        FormatError: a factor is not finite.
    """
    room = EXACT_BITS - (rank - 1).bit_length()
    if left[0] in FLOATS:
        half = room // 2
        quantizers = _float_quantizer(*left, half, ONE), _float_quantizer(*right, room - half, scale)
        return Split(*quantizers, limb=half, limbs=1)
    bits = [max(largest - 1, 0).bit_length() for _, largest in (left, right)]
    limb = room - bits[1]
    return Split(
        Quantizer(left[0], bits[0], 0),
        Quantizer(right[0], bits[1], scale.exponent),
        limb,
        max(1, math.ceil(bits[0] / limb)),
    )


def right_values(integers: Words, split_: Split) -> Any:
    """The right factor as float64 in which the product's step is contained: exact, for it is a power of two."""
    values: Any = integers.astype(np.float64)
    values *= math.ldexp(1.0, split_.step)
    return values


def left_limbs(integers: Words, split_: Split) -> list[Any]:
    """The left factor as float64 arrays whose sum it is, the lowest limb first."""
    limbs = []
    for index in range(split_.limbs):
        part = integers
        if index < split_.limbs - 1:
            part = integers & ((1 << split_.limb) - 1)
            integers = integers >> split_.limb
        limb = part.astype(np.float64)
        limb *= math.ldexp(1.0, index * split_.limb)
        limbs.append(limb)
    return limbs


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
