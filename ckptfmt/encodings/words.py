"""Elements as words: the exact integer maps that put what compresses into the same bits of every word.

All maps are bijections on unsigned integers of `bits` bits held in numpy words; no float arithmetic is done, so
every bit pattern (NaN payloads, -0.0, subnormals) comes back on every machine. Specified in
docs/format/encodings/planes.md.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS

Words = npt.NDArray[Any]
"""One dimension of unsigned little-endian words."""

Kind = Literal["float", "signed", "unsigned"]

_PAIRS: Final = {"C64": "F32", "C128": "F64"}
_SIGNED_FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64"})
_WORDS: Final[dict[int, np.dtype[Any]]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


def kind_of(element: str | None) -> tuple[Kind, int]:
    """The kind of an element's words and their width in bytes: 1, 2, 4 or 8.

    A complex number is two floats. Elements of a byte or less, and what is not numbers, are taken as plain bytes.

    Raises:
        FormatError: this version knows no such element.
    """
    if element is None:
        return "unsigned", 1
    element = _PAIRS.get(element, element)
    if element not in BITS:
        raise FormatError(f"unknown element type {element!r}")
    width = BITS[element] // 8
    if width <= 1:
        return "unsigned", 1
    if element in _SIGNED_FLOATS:
        return "float", width
    return ("signed", width) if element[0] == "I" else ("unsigned", width)


def word_type(width: int) -> np.dtype[Any]:
    """The little-endian unsigned numpy type of `width` bytes."""
    return _WORDS[width]


def trailing_zeros(words: Words) -> int:
    """How many of the lowest bits are zero in every one of `words` (at least one); all of them for zeros only."""
    for part in (words[:1024], words):
        union = int(np.bitwise_or.reduce(part))
        if union & 1:
            return 0
    return (union & -union).bit_length() - 1 if union else words.dtype.itemsize * 8


def rotate(words: Words, bits: int, kind: Kind) -> Words:
    """Put the sign into the lowest bit, so that the highest byte is all exponent (or, for integers, magnitude).

    float: rotate left by one within `bits`. signed: the same, then complement the others where the sign is set
    (the zigzag map). unsigned: nothing.
    """
    if kind == "unsigned":
        return words
    sign = words >> (bits - 1)
    rotated = words << 1
    rotated |= sign
    if kind == "signed":
        rotated ^= _complement(sign, bits) << 1
    return _masked(rotated, bits)


def unrotate(rotated: Words, bits: int, kind: Kind) -> Words:
    """The inverse of `rotate`; `rotated` is used up."""
    if kind == "unsigned":
        return rotated
    if kind == "signed":
        rotated ^= _masked(_complement(rotated & 1, bits) << 1, bits)
    words = rotated >> 1
    rotated <<= bits - 1
    words |= _masked(rotated, bits)
    return words


def to_ordered(words: Words, bits: int, kind: Kind) -> Words:
    """Map to unsigned integers in the elements' own order.

    float: complement negatives, set the top bit of the others. signed: flip the top bit. unsigned: nothing.
    """
    if kind == "unsigned":
        return words
    top = words.dtype.type(1 << (bits - 1))
    if kind == "signed":
        flipped: Words = words ^ top
        return flipped
    flip = _complement(words >> (bits - 1), bits)
    flip |= top
    flip ^= words
    return flip


def from_ordered(ordered: Words, bits: int, kind: Kind) -> Words:
    """The inverse of `to_ordered`."""
    if kind == "unsigned":
        return ordered
    top = ordered.dtype.type(1 << (bits - 1))
    if kind == "signed":
        flipped: Words = ordered ^ top
        return flipped
    flip = _complement((ordered >> (bits - 1)) ^ 1, bits)
    flip |= top
    flip ^= ordered
    return flip


def _complement(ones: Words, bits: int) -> Words:
    """All of `bits` bits where `ones` is 1, none where it is 0."""
    every: Words = ones * ones.dtype.type((1 << bits) - 1)
    return every


def _masked(words: Words, bits: int) -> Words:
    if bits < words.dtype.itemsize * 8:
        words &= words.dtype.type((1 << bits) - 1)
    return words
