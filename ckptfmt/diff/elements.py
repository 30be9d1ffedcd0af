"""Elements of every type as floats, by tables and casts of numpy: bytes in, arrays out.

Sources: the OCP 8-bit floating point specification (E4M3, E5M2), the OCP microscaling specification (E8M0), and
onnx' `float8` page for the FNUZ types.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ckptfmt.digest import Buffer
from ckptfmt.format.dtypes import BITS, FLOATS

Array = npt.NDArray[Any]

PACKED: Final = frozenset(name for name, bits in BITS.items() if bits % 8)
"""Types whose elements share bytes: their bits are compared, their values are not known here."""

COMPLEX: Final = frozenset({"C64", "C128"})
MATRICES: Final = FLOATS - PACKED
"""Types whose updates have a rank worth knowing."""

_BIG_INTEGERS: Final = {"I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
_SMALL_INTEGERS: Final = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2"}
_NATIVE: Final = {"F32": "<f4", "F64": "<f8", "C64": "<f4", "C128": "<f8"}


def _table(exponent_bits: int, bias: int, *, kind: str) -> Array:
    """The 256 values of an 8-bit float with a sign, as float32, shape (256,).

    `kind`: "ieee" has infinities and NaNs as IEEE 754 does, "fn" (finite) one NaN of each sign, "fnuz" one NaN in the
    place of -0.
    """
    mantissa_bits = 7 - exponent_bits
    values = np.empty(256, np.float32)
    for code in range(256):
        exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
        mantissa = code & ((1 << mantissa_bits) - 1)
        fraction = mantissa / (1 << mantissa_bits)
        value = math.ldexp(fraction, 1 - bias) if exponent == 0 else math.ldexp(1 + fraction, exponent - bias)
        if kind == "ieee" and exponent == (1 << exponent_bits) - 1:
            value = math.nan if mantissa else math.inf
        if kind == "fn" and code & 0x7F == 0x7F:
            value = math.nan
        values[code] = math.nan if kind == "fnuz" and code == 0x80 else math.copysign(value, -1 if code & 0x80 else 1)
    return values


_TABLES: Final[dict[str, Array]] = {
    "F8_E4M3": _table(4, 7, kind="fn"),
    "F8_E5M2": _table(5, 15, kind="ieee"),
    "F8_E4M3FNUZ": _table(4, 8, kind="fnuz"),
    "F8_E5M2FNUZ": _table(5, 16, kind="fnuz"),
    "F8_E8M0": np.array([math.ldexp(1, code - 127) for code in range(255)] + [math.nan], np.float32),
}


def width_of(dtype: str) -> int:
    """Bytes of an element; of a packed type, of the bytes that its elements share."""
    return max(BITS[dtype] // 8, 1)


def words_of(data: Buffer, dtype: str) -> Array:
    """Bytes as unsigned words, as wide as an element (half as wide for complex numbers of 16 bytes), shape (n,)."""
    return np.frombuffer(data, f"<u{min(width_of(dtype), 8)}")


def floats_of(data: Buffer, dtype: str) -> Array:
    """Elements as floats that hold them: float32, or float64 where that is needed, shape (n,); never packed types.

    A complex number is two floats. Integers of 64 bits are rounded. Anything but 0 in a BOOL is 1.
    """
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4")
        wide <<= np.uint32(16)
        floats: Array = wide.view("<f4")
        return floats
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype("<f4")
    if dtype in _TABLES:
        found: Array = _TABLES[dtype][np.frombuffer(data, np.uint8)]
        return found
    if dtype in _NATIVE:
        return np.frombuffer(data, _NATIVE[dtype])
    if dtype == "BOOL":
        truths: Array = (np.frombuffer(data, np.uint8) != 0).astype("<f4")
        return truths
    if dtype in _SMALL_INTEGERS:
        return np.frombuffer(data, _SMALL_INTEGERS[dtype]).astype("<f4")
    return np.frombuffer(data, _BIG_INTEGERS[dtype]).astype("<f8")


def big_integers_of(data: Buffer, dtype: str) -> Array | None:
    """Elements of a type of 32 or 64 bit integers as they are; None for all other types."""
    return np.frombuffer(data, _BIG_INTEGERS[dtype]) if dtype in _BIG_INTEGERS else None
