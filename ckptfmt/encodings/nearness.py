"""How near a predicted sum lies to where it would be rounded to the next number: a class for each element.

A prediction whose sum is off by about 2^noise fails where a boundary between two numbers is not much farther away than
that, and in the direction of that boundary. Both sides know the sum, so classes cost nothing. Specified in
docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ckptfmt.encodings.words import Words

LEVELS: Final = 26
"""Levels of the distance: four to each doubling, from a quarter of the noise to nineteen times it."""
FAR: Final = LEVELS - 1
WIDE: Final = 3
"""Steps of at least 2^WIDE times the noise: only the nearest boundary counts."""
MOST: Final = 119
NEVER: Final = 2 * FAR
"""The class of what is taken over from the base."""
_NEAR: Final = 8
"""Added to four times the logarithm of distance / noise."""
_F16_SMALL: Final = np.uint32(113 << 23)


def classes_of_sums(sums: Any, words: Words, element: str, noise: int) -> Words:
    """The class of each sum: twice its level, and one more where the next number is the lower one.

    Args:
        sums: bits of float32; float64 numbers for `F32`.
        words: what they were rounded to, in words of `element`.
        element: BF16, F16 or F32.
        noise: binary logarithm of how far the sums may be off.

    Returns:
        uint8, of the shape of `sums`.
    """
    if element == "F32":
        bits = sums.view(np.uint64)
        magnitude, shift, width, bias = bits, 29, 52, 1023
        sign = (bits >> np.uint64(63)).astype(np.uint8)
    else:
        bits = sums
        magnitude, shift, width, bias = bits, 16, 23, 127
        sign = (bits >> np.uint32(31)).astype(np.uint8)
        if element == "F16":
            magnitude, shift = bits & np.uint32((1 << 31) - 1), 13
            small = np.flatnonzero(magnitude < _F16_SMALL)
            flat = magnitude.reshape(-1)
            # Subnormal F16 numbers have the step of those from 2^-14 on.
            flat[small] = (flat[small].view(np.float32) + np.float32(2.0**-14)).view(np.uint32)
    of = magnitude.dtype.type
    lower = (magnitude >> of(shift)).astype(np.uint8)
    lower ^= words.astype(np.uint8)
    lower &= np.uint8(1)
    lower ^= sign
    places = (magnitude & of((1 << shift) - 1)).astype(np.int32)
    places -= np.int32(1 << (shift - 1))
    np.abs(places, out=places)
    levels = _logarithms(places)
    exponents = (magnitude >> of(width)).astype(np.int32)
    exponents &= np.int32(0xFF if width == 23 else 0x7FF)
    exponents -= np.int32(bias + noise)
    levels += exponents << 2
    levels -= np.int32(4 * width - _NEAR)
    np.clip(levels, 0, FAR, out=levels)
    narrow = np.flatnonzero(exponents < WIDE + (width - shift))
    if len(narrow):
        steps = exponents.reshape(-1)[narrow] - (width - shift)
        flat_levels = levels.reshape(-1)
        own = flat_levels[narrow] + LEVELS * (WIDE - steps)
        flat_levels[narrow] = np.where(steps >= 0, own, np.minimum(LEVELS * (WIDE + 1) - 1 - steps, MOST))
    classes: Words = levels.astype(np.uint8)
    classes <<= np.uint8(1)
    classes |= lower
    return classes


def _logarithms(numbers: Words) -> Words:
    """Four times the binary logarithm of integers below 2^31, cut to an integer, to a straight line between powers."""
    if int(numbers.max(initial=0)) < 1 << 24:
        logarithms = numbers.astype(np.float32).view(np.int32)
        logarithms >>= 21
        logarithms -= np.int32(4 * 127)
        return logarithms
    wide = numbers.astype(np.float64).view(np.int64)
    wide >>= 50
    logarithms = wide.astype(np.int32)
    logarithms -= np.int32(4 * 1023)
    # Zero is as small as in float32, whichever way was taken.
    np.maximum(logarithms, np.int32(-4 * 127), out=logarithms)
    return logarithms
