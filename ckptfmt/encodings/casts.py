"""Floats of one type as another, by bits: no float arithmetic, so no machine's rounding or flushing changes them.

Specified in docs/format/encodings/delta.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ckptfmt.encodings.words import Words


def _widen_bf16(words: Words) -> Words:
    wide: Words = words.astype("<u4")
    wide <<= np.uint32(16)
    return wide


def _narrow_to_bf16(words: Words) -> Words:
    """Add half a step less one, and one where the last bit kept is odd: round to nearest, ties to even."""
    last = words >> np.uint32(16)
    rounded = words + np.uint32(0x7FFF)
    rounded += last & np.uint32(1)
    rounded >>= np.uint32(16)
    is_nan = (words & np.uint32(0x7FFFFFFF)) > 0x7F800000
    quiet = last | np.uint32(0x40)
    result: Words = np.where(is_nan, quiet, rounded).astype("<u2")
    return result


def _widen_f16(words: Words) -> Words:
    wide = words.astype("<u4")
    sign, magnitude = (wide & np.uint32(0x8000)) << np.uint32(16), wide & np.uint32(0x7FFF)
    result: Words = (magnitude << np.uint32(13)) + np.uint32(112 << 23)
    special = magnitude >= 0x7C00
    quiet = np.where(magnitude > 0x7C00, np.uint32(0x400000), np.uint32(0))
    result[special] = ((magnitude << np.uint32(13)) | np.uint32(0x7F800000) | quiet)[special]
    small = np.flatnonzero(magnitude < 0x400)
    result[small] = _SUBNORMALS[magnitude[small]]
    result |= sign
    return result


def _subnormals() -> Words:
    """F32 bits of the 1024 F16 numbers m x 2^-24."""
    table = np.zeros(1024, "<u4")
    for mantissa in range(1, 1024):
        top = mantissa.bit_length() - 1
        table[mantissa] = ((top + 103) << 23) | ((mantissa << (23 - top)) & 0x7FFFFF)
    return table


_SUBNORMALS: Final = _subnormals()


def _narrow_to_f16(words: Words) -> Words:
    sign, magnitude = (words >> np.uint32(16)) & np.uint32(0x8000), words & np.uint32(0x7FFFFFFF)
    # Normal results: the exponent moves by 112, and 13 bits are rounded off.
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    result: Words = (magnitude - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    small = magnitude < (113 << 23)
    if small.any():
        # Subnormal results: the mantissa with its hidden bit, shifted until its unit is 2^-24.
        exponent = np.maximum(magnitude[small] >> np.uint32(23), np.uint32(101))
        mantissa = (magnitude[small] & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
        shift = np.uint32(126) - exponent
        half = (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1)
        rounded = (mantissa + half + ((mantissa >> shift) & np.uint32(1))) >> shift
        result[small] = rounded
    result[magnitude >= 0x477FF000] = 0x7C00
    is_nan = magnitude > 0x7F800000
    result[is_nan] = ((magnitude[is_nan] >> np.uint32(13)) & np.uint32(0x3FF)) | np.uint32(0x7E00)
    result |= sign
    return result.astype("<u2")


def _through_f32(first: Callable[[Words], Words], second: Callable[[Words], Words]) -> Callable[[Words], Words]:
    """F32 holds every BF16 and F16 number, so going through it rounds once."""
    return lambda words: second(first(words))


WIDTHS: Final = {"BF16": 2, "F16": 2, "F32": 4}
CASTS: Final[dict[tuple[str, str], Callable[[Any], Words]]] = {
    ("BF16", "F32"): _widen_bf16,
    ("F32", "BF16"): _narrow_to_bf16,
    ("F16", "F32"): _widen_f16,
    ("F32", "F16"): _narrow_to_f16,
    ("BF16", "F16"): _through_f32(_widen_bf16, _narrow_to_f16),
    ("F16", "BF16"): _through_f32(_widen_f16, _narrow_to_bf16),
}
"""Every cast, by what it takes and what it gives."""
