"""What happened between a product and the file, exactly: the roundings of a merge, by name.

Floats travel as the bits of float32, which holds every BF16 and F16 number; rounding to a type is done on these bits.
Rounding a float64 to float32, sums and products of float32 are left to the machine. IEEE 754 says what they give,
unless somebody set this thread to flush subnormal numbers to zero or to round elsewhere: `floats_here` looks for that.
`Plain` has the same operations without subnormal floats, slower. Specified in docs/format/encodings/lowrank.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from ckptfmt.digest import checksum_of
from ckptfmt.encodings.words import Words
from ckptfmt.errors import MergeError

_SIGN: Final = np.uint32(1 << 31)
_MAGNITUDE: Final = np.uint32((1 << 31) - 1)
_INFINITE: Final = 255 << 23
_F16_SMALL: Final = np.uint32(113 << 23)
"""2^-14: below, F16 numbers are subnormal."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How an update is added.

    Attributes:
        name: how a prediction calls it.
        rounded: the type that the update is rounded to before it is added; None where it stays float32.
        scaled_late: whether the product is rounded to that type before it is scaled as well.
    """

    name: str
    rounded: str | None = None
    scaled_late: bool = False


RULES: Final = {
    rule.name: rule
    for rule in (
        Rule("once"),
        Rule("twice-BF16", "BF16"),
        Rule("twice-F16", "F16"),
        Rule("thrice-BF16", "BF16", scaled_late=True),
        Rule("thrice-F16", "F16", scaled_late=True),
    )
}
"""Every rule: `once` is PEFT with float32 adapters, `twice` with those of 16 bits on a CPU, `thrice` on a GPU."""


class Floats(Protocol):
    """The float operations of a merge. Arrays are of bits of float32, uint32, any shape; `spare` is like them."""

    def narrow(self, product: Any, out: Words) -> None:
        """Round float64 numbers to float32."""
        ...

    def add(self, sums: Words, update: Words) -> None:
        """Add `update` to `sums`; a sum that is zero is +0."""
        ...

    def subtract(self, sums: Words, update: Words) -> None:
        """Subtract `update` from `sums`; a difference that is zero is +0."""
        ...

    def multiply(self, numbers: Words, scale: int) -> None:
        """Multiply by the float32 number of these bits."""
        ...

    def sums64(self, left: Words, right: Words) -> Any:
        """The sums as float64; zero is +0."""
        ...


class Ieee:
    """By numpy's float arithmetic."""

    def narrow(self, product: Any, out: Words) -> None:
        """One cast."""
        out.view(np.float32)[...] = product

    def add(self, sums: Words, update: Words) -> None:
        """One sum, and 0: -0 + 0 is +0."""
        floats = sums.view(np.float32)
        floats += update.view(np.float32)
        floats += np.float32(0)

    def subtract(self, sums: Words, update: Words) -> None:
        """One difference, and 0."""
        floats = sums.view(np.float32)
        floats -= update.view(np.float32)
        floats += np.float32(0)

    def multiply(self, numbers: Words, scale: int) -> None:
        """One product."""
        floats = numbers.view(np.float32)
        floats *= np.uint32(scale).view(np.float32)

    def sums64(self, left: Words, right: Words) -> Any:
        """One sum."""
        sums: Any = np.add(left.view(np.float32), right.view(np.float32), dtype=np.float64)
        sums += 0.0
        return sums


class Plain:
    """By float64 arithmetic that meets no subnormal number, and by integers.

    A float64 result that is rounded to float32 is what float32 arithmetic gives for a sum or a product of two float32.
    """

    def narrow(self, product: Any, out: Words) -> None:
        """Round to the nearest, ties to even."""
        out[...] = narrow_bits(product)

    def add(self, sums: Words, update: Words) -> None:
        """Sums of float32 numbers are multiples of 2^-149."""
        sums[...] = narrow_bits(self.sums64(sums, update))

    def subtract(self, sums: Words, update: Words) -> None:
        """The sum with the opposite number."""
        self.add(sums, update ^ _SIGN)

    def multiply(self, numbers: Words, scale: int) -> None:
        """Products of float32 numbers have 48 bits."""
        numbers[...] = narrow_bits(widen_bits(numbers) * widen_bits(np.array(scale, np.uint32)))

    def sums64(self, left: Words, right: Words) -> Any:
        """One sum."""
        sums = widen_bits(left)
        sums += widen_bits(right)
        sums += 0.0
        return sums


def widen_bits(words: Words) -> Any:
    """float32 numbers, given as bits, as float64."""
    wide = words.astype(np.uint64)
    fraction, field = wide & np.uint64(0x7FFFFF), wide >> np.uint64(23) & np.uint64(0xFF)
    # The field moves from 255 to 2047 where it is full.
    moved = field + np.where(field == 255, np.uint64(1792), np.uint64(896))
    normal = (moved << np.uint64(52) | fraction << np.uint64(29)).view(np.float64)
    magnitude = np.where(field == 0, fraction.astype(np.float64) * 2.0**-149, normal)
    bits = np.asarray(magnitude).view(np.uint64) | wide >> np.uint64(31) << np.uint64(63)
    return bits.view(np.float64)


def narrow_bits(numbers: Any) -> Words:
    """float64 numbers as the bits of the nearest float32, ties to even; those from 2^128 - 2^103 on become infinite."""
    bits = np.asarray(numbers, np.float64).view(np.uint64)
    magnitude = bits & np.uint64((1 << 63) - 1)
    odd = magnitude >> np.uint64(29) & np.uint64(1)
    normal = (magnitude - np.uint64(896 << 52) + np.uint64((1 << 28) - 1) + odd) >> np.uint64(29)
    result = np.where(magnitude >= np.uint64(0x47F0000000000000), np.uint64(_INFINITE), normal)
    is_nan = magnitude > np.uint64(0x7FF0000000000000)
    small = magnitude < np.uint64(897 << 52)
    # Multiples of 2^-149 below 2^-126 are what is left of the fraction of 2^-97 when they are added to it.
    with_unit = np.where(small, magnitude, np.uint64(0)).view(np.float64) + 2.0**-97
    result = np.where(small, with_unit.view(np.uint64) - np.uint64(926 << 52), result)
    result = np.where(is_nan, np.uint64(0x7FC00000), result)
    return (result.astype(np.uint32) | (bits >> np.uint64(32)).astype(np.uint32) & _SIGN).astype(np.uint32)


_IEEE: Final = Ieee()
_PLAIN: Final = Plain()

_PROBES: Final = np.array(
    [
        1 + 2.0**-24,
        1 + 3 * 2.0**-24,
        -1 - 2.0**-24,
        -1 - 3 * 2.0**-24,
        1 + 2.0**-24 + 2.0**-50,
        2.0**-130,
        3 * 2.0**-150,
        -(2.0**-126) + 2.0**-150,
        2.0**-149,
        1.5,
        -7e-4,
    ]
)
_ADDED: Final = np.array([2.0**-24, -(2.0**-25), 2.0**-126, -(2.0**-130), 2.0**-149, 3 * 2.0**-25, 2.0**-25, 0.0])


def _probes() -> tuple[Any, Words]:
    """Every probe with every addend, twice: long enough for vector instructions."""
    first, second = (each.ravel() for each in np.meshgrid(_PROBES, _ADDED))
    return np.tile(first, 2), np.tile(narrow_bits(second), 2)


_FIRST, _SECOND = _probes()


def _canary(floats: Floats) -> Words:
    numbers = np.empty(len(_FIRST), np.uint32)
    floats.narrow(_FIRST, numbers)
    product = numbers.copy()
    floats.add(numbers, _SECOND)
    floats.multiply(product, 0x3F000001)
    sums: Words = floats.sums64(numbers, _SECOND).view(np.uint32)
    return np.concatenate((numbers, product, sums))


_EXPECTED: Final = "95cda2e8159c12caf49cca55e11e157a"
"""XXH3-128 of what the canary gives."""


def floats_here() -> Floats:
    """The quickest float operations that give the specified bits in this thread.

    Raises:
        MergeError: this thread rounds otherwise than to the nearest.
    """
    with np.errstate(all="ignore"):
        for floats in (_IEEE, _PLAIN):
            if checksum_of(_canary(floats).tobytes()) == _EXPECTED:
                return floats
    raise MergeError(
        "this process does not round float64 numbers to the nearest: predicted tensors would be others",
        hint="run in a fresh process, or find what changes the rounding mode",
    )


def widen(words: Words, element: str, out: Words) -> None:
    """Numbers of type `element` as bits of float32; NaN and infinities keep a full exponent."""
    if element == "F32":
        out[...] = words
        return
    out[...] = words
    if element == "BF16":
        out <<= np.uint32(16)
        return
    sign = out & np.uint32(0x8000)
    sign <<= np.uint32(16)
    out &= np.uint32(0x7FFF)
    special = words & np.uint16(0x7FFF)
    flat, rare = out.reshape(-1), np.flatnonzero(np.subtract(special, np.uint16(0x400)).reshape(-1) >= 0x7800)
    odd = special.reshape(-1)[rare].astype(np.uint32)
    out <<= np.uint32(13)
    out += np.uint32(112 << 23)
    if len(rare):
        small = (odd.astype(np.float32) * np.float32(2.0**-24)).view(np.uint32)
        flat[rare] = np.where(odd < 0x400, small, odd << np.uint32(13) | np.uint32(_INFINITE))
    out |= sign


def round_to(bits: Words, element: str, spare: Words) -> None:
    """Round float32 bits to numbers of type `element`, still float32, ties to even; too large ones become infinite."""
    if element == "F32":
        return
    shift = np.uint32(16 if element == "BF16" else 13)
    if element == "F16":
        magnitude = (bits & _MAGNITUDE).reshape(-1)
        small, large = np.flatnonzero(magnitude < _F16_SMALL), np.flatnonzero(magnitude >= np.uint32(0x477FF000))
        flat = bits.reshape(-1)
        signs, above = flat[small] & _SIGN, magnitude[large]
    np.right_shift(bits, shift, out=spare)
    spare &= np.uint32(1)
    spare += np.uint32((1 << (int(shift) - 1)) - 1)
    bits += spare
    bits &= np.uint32((1 << 32) - (1 << int(shift)))
    if element == "F16":
        flat[small] = _small_f16(magnitude[small]) | signs
        flat[large] = flat[large] & _SIGN | np.where(above > _INFINITE, np.uint32(0x7FC00000), np.uint32(_INFINITE))


def _small_f16(magnitude: Words) -> Words:
    """float32 bits below 2^-14, rounded to multiples of 2^-24. Nothing here is subnormal but what rounds to 0."""
    floats = magnitude.view(np.float32) + np.float32(0.5)
    floats -= np.float32(0.5)
    rounded: Words = floats.view(np.uint32)
    return rounded


def narrow_words(bits: Words, element: str, out: Words, spare: Words) -> None:
    """Round bits of float32 to words of type `element`. `bits` stays; NaN becomes any word with a full exponent."""
    if element == "F32":
        out[...] = bits
    elif element == "BF16":
        np.right_shift(bits, np.uint32(16), out=spare)
        spare &= np.uint32(1)
        spare += bits
        spare += np.uint32(0x7FFF)
        out[...] = spare.view("<u2")[..., 1::2]
    else:
        magnitude = bits & _MAGNITUDE
        np.right_shift(magnitude, np.uint32(13), out=spare)
        spare &= np.uint32(1)
        spare += magnitude
        spare -= np.uint32((112 << 23) - 0xFFF)
        spare >>= np.uint32(13)
        flat, magnitude = spare.reshape(-1), magnitude.reshape(-1)
        small = np.flatnonzero(magnitude < _F16_SMALL)
        units = magnitude[small].view(np.float32) + np.float32(0.5)
        flat[small] = units.view(np.uint32) - np.uint32(126 << 23)
        flat[np.flatnonzero(magnitude >= np.uint32(0x477FF000))] = 0x7C00
        spare |= (bits >> np.uint32(16)) & np.uint32(0x8000)
        out[...] = spare
