"""How far a predicted update is from where the prediction would be the next number: a class for each element.

A prediction whose update is off by about 2^noise fails where that distance is not much larger, and towards the next
number on that side. Both sides know the update, so classes cost nothing. Specified in docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.encodings.factors import FLOATS
from ckptfmt.encodings.places import places_of, room_for
from ckptfmt.encodings.rounding import Floats, narrow_words, round_to
from ckptfmt.encodings.words import Words, word_type

LEVELS: Final = 26
"""Levels of the distance: four to each doubling, from a quarter of the noise to nineteen times it."""
FAR: Final = LEVELS - 1
WIDE: Final = 3
"""Where steps are at least 2^WIDE times the noise, only the distance counts."""
MOST: Final = 119
NEVER: Final = 2 * FAR
"""The class of what is taken over from the base."""
_NEAR: Final = 8
"""Added to four times the logarithm of distance / noise."""
_BIAS: Final = 4 * 127
"""Four times the logarithm of 1 that the bits of a float32 give."""
_EXACT: Final = 24
"""Integers of so many bits are float32 numbers."""
_SIGN: Final = np.uint32(1 << 31)
_F16_SMALL: Final = np.uint32(113 << 23)
_F16_HALF_STEP: Final = np.uint32(102 << 23)
"""2^-25."""


class _Rounded(NamedTuple):
    """Sums and what they were rounded to.

    Attributes:
        magnitude: bits of the sums, with or without their sign; those of F16 subnormals have 2^-14 added.
        shift: bits that were rounded off.
        steps: exponents of the steps between numbers, int32.
        lower: 1 where the next number on the side of the boundary is the lower one, uint8.
    """

    magnitude: Words
    shift: int
    steps: Words
    lower: Words


class Before(NamedTuple):
    """What a sum was made of.

    Attributes:
        under: what the update was added to, bits of float32.
        update: bits of float32, before it was rounded.
        kind: the type that it was rounded to.
        floats: the operations of this thread.
    """

    under: Words
    update: Words
    kind: str
    floats: Floats


def classes_of_sums(sums: Any, words: Words, element: str, noise: int) -> Words:
    """The class of each sum whose update was added as it is.

    Args:
        sums: bits of float32; float64 numbers for `F32`.
        words: what they were rounded to, in words of `element`.
        element: BF16, F16 or F32.
        noise: binary logarithm of how far updates may be off.

    Returns:
        uint8, of the shape of `sums`.
    """
    rounded = _rounded(sums, words, element)
    places = rounded.magnitude & rounded.magnitude.dtype.type((1 << rounded.shift) - 1)
    places = places.view(np.int32) if places.itemsize == 4 else places.astype(np.int32)
    places -= np.int32(1 << (rounded.shift - 1))
    np.abs(places, out=places)
    # A unit of `places` is 2^(step - shift).
    logarithms = _logarithms(places, rounded.shift)
    logarithms += rounded.steps << 2
    return _classes(logarithms, rounded, noise + rounded.shift, noise)


def classes_of_updates(sums: Words, words: Words, element: str, noise: int, before: Before) -> Words:
    """The class of each sum whose update was rounded first.

    Args:
        sums: bits of float32.
        words: what they were rounded to, in words of `element`.
        element: BF16, F16 or F32.
        noise: binary logarithm of how far updates may be off.
        before: what they were made of.

    Returns:
        uint8, of the shape of `sums`.
    """
    under, update, kind, floats = before
    if element == "F32":
        # The sum's steps are so much finer that it follows the update's. A product's zero may have either sign.
        update[update == _SIGN] = 0
        narrow = np.empty(update.shape, word_type(FLOATS[kind].width))
        narrow_words(update, kind, narrow, np.empty_like(update))
        return classes_of_sums(update, narrow, kind, noise)
    rounded = _rounded(sums, words, element)
    need = rounded.magnitude & np.uint32((1 << 32) - (1 << rounded.shift))
    need |= np.uint32(1 << (rounded.shift - 1))
    if element == "F16":
        small = np.flatnonzero(sums & ~_SIGN < _F16_SMALL)
        need.reshape(-1)[small] = (need.reshape(-1)[small].view(np.float32) - np.float32(2.0**-14)).view(np.uint32)
        need |= sums & _SIGN
    floats.subtract(need, under)
    # The update of type `kind` nearest to the one that would give the boundary: does it already lead beyond?
    nearest = need.copy()
    spare = np.empty_like(need)
    round_to(nearest, kind, spare)
    floats.subtract(need, nearest)
    # Where it gives the boundary itself, the sum was rounded to the even number. What leads beyond is compared with the
    # side of the next number by bits: numpy chooses between two values ten times as slowly.
    down = (need >> np.uint32(31)).astype(np.uint8)
    odd = words.astype(np.uint8)
    odd &= np.uint8(1)
    odd ^= rounded.lower
    odd &= (need == 0).view(np.uint8)
    down |= odd
    half = np.bitwise_and(nearest, np.uint32(0x7F800000), out=need)
    huge = half == 0x7F800000
    less = np.uint32((FLOATS[kind].fraction + 1) << 23)
    lowest = less + np.uint32(1 << 23)
    np.clip(half, max(lowest, _F16_HALF_STEP + less) if kind == "F16" else lowest, _SIGN, out=half)
    half -= less
    down_bits = down.astype(np.uint32)
    down_bits <<= np.uint32(31)
    half |= down_bits
    floats.add(nearest, half)
    floats.subtract(nearest, update)
    nearest &= ~_SIGN
    logarithms = nearest.view(np.int32)
    logarithms >>= 21
    classes = _classes(logarithms, rounded, noise, noise)
    classes[huge] = NEVER
    return classes


def _rounded(sums: Any, words: Words, element: str) -> _Rounded:
    bits = sums.view(np.uint64) if element == "F32" else sums
    lower = (bits >> bits.dtype.type(8 * bits.itemsize - 1)).astype(np.uint8)
    magnitude, shift, width, bias = bits, 16, 23, 127
    if element == "F32":
        shift, width, bias = 29, 52, 1023
    elif element == "F16":
        magnitude, shift = bits & ~_SIGN, 13
        small, flat = np.flatnonzero(magnitude < _F16_SMALL), magnitude.reshape(-1)
        # Subnormal F16 numbers have the step of those from 2^-14 on.
        flat[small] = (flat[small].view(np.float32) + np.float32(2.0**-14)).view(np.uint32)
    of = magnitude.dtype.type
    lower ^= (magnitude >> of(shift)).astype(np.uint8)
    lower ^= words.astype(np.uint8)
    lower &= np.uint8(1)
    exponents = (magnitude >> of(width)).astype(np.int32)
    exponents &= np.int32(2 * bias + 1)
    exponents -= np.int32(bias + width - shift)
    return _Rounded(magnitude, shift, exponents, lower)


def _classes(logarithms: Words, rounded: _Rounded, unit: int, noise: int) -> Words:
    """Classes from distances and from the steps between numbers.

    Args:
        logarithms: four times those of distances in units of 2^(unit - noise), and `_BIAS`; they are used up.
        rounded: the sums.
        unit: see there.
        noise: binary logarithm of how far updates may be off.
    """
    logarithms -= np.int32(_BIAS + 4 * unit - _NEAR)
    np.clip(logarithms, np.int32(0), np.int32(FAR), out=logarithms)
    room = room_for(logarithms.size)
    np.less(rounded.steps, WIDE + noise, out=room[: logarithms.size].reshape(logarithms.shape))
    narrow = places_of(room, logarithms.size)
    if len(narrow):
        steps = rounded.steps.reshape(-1).take(narrow)
        steps -= np.int32(noise)
        levels = logarithms.reshape(-1)
        own = levels.take(narrow)
        own += np.int32(LEVELS) * (np.int32(WIDE) - steps)
        finer = np.flatnonzero(steps < 0)
        own[finer] = np.minimum(np.int32(LEVELS * (WIDE + 1) - 1) - steps.take(finer), MOST)
        levels[narrow] = own
    classes: Words = logarithms.astype(np.uint8)
    classes <<= np.uint8(1)
    classes |= rounded.lower
    return classes


def _logarithms(numbers: Words, bits: int) -> Words:
    """Four times the binary logarithm of integers, and `_BIAS`.

    It is cut to an integer, to a straight line between powers.

    Args:
        numbers: at least 0, at most 2^(bits - 1), which is below 2^31.
        bits: see there.
    """
    if bits <= _EXACT or int(numbers.max(initial=0)) < 1 << _EXACT:
        logarithms = numbers.astype(np.float32).view(np.int32)
        logarithms >>= 21
        return logarithms
    wide = numbers.astype(np.float64).view(np.int64)
    wide >>= 50
    logarithms = wide.astype(np.int32)
    logarithms -= np.int32(4 * 1023 - _BIAS)
    # Zero is as small as in float32, whichever way was taken.
    np.maximum(logarithms, np.int32(0), out=logarithms)
    return logarithms
