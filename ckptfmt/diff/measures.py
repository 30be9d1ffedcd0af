"""How much two tensors of the same shape differ, block by block, in memory that does not depend on their size.

Sums of squares are taken in float32 over 8,192 elements where all of them are finite and none over- or underflows,
else in float64 with a scale; block norms are joined by `hypot`. So a norm is right to about 1e-6 of itself, for numbers
of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ckptfmt.diff.elements import COMPLEX, MATRICES, PACKED, Array, big_integers_of, floats_of, width_of, words_of
from ckptfmt.diff.ranks import Gram, Projection
from ckptfmt.digest import Buffer

CHUNK: Final = 1 << 18
"""Elements whose arrays lie in the cache together."""
BLOCK_ELEMENTS: Final = 1 << 21
"""Elements of a block at most; a block is also at most 4 MiB of either tensor."""

_NONE: Final[Array] = np.empty(0)
_DOT: Final = 1 << 13
"""Elements of a dot product."""
_SMALLEST: Final = 1e-30
"""Sums of squares in float32 below this may have lost numbers to underflow."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What is known of some elements of A and B, with D = B - A. `norm_*` are Frobenius norms.

    Attributes:
        norm_a: of A.
        norm_b: of B.
        norm: of D.
        largest: largest absolute value in D.
        changed: elements whose values differ; NaN equals NaN, and -0.0 equals 0.0.
        changed_bits: bits that differ; 0 where the types differ.
        not_finite: elements of which one is NaN or infinite; they count in `changed` and `changed_bits` alone.
    """

    norm_a: float = 0.0
    norm_b: float = 0.0
    norm: float = 0.0
    largest: float = 0.0
    changed: int = 0
    changed_bits: int = 0
    not_finite: int = 0

    def joined(self, other: Sums) -> Sums:
        """What is known of the elements of both."""
        return Sums(
            math.hypot(self.norm_a, other.norm_a),
            math.hypot(self.norm_b, other.norm_b),
            math.hypot(self.norm, other.norm),
            max(self.largest, other.largest),
            self.changed + other.changed,
            self.changed_bits + other.changed_bits,
            self.not_finite + other.not_finite,
        )

    @property
    def relative(self) -> float | None:
        """See `relative_norm`."""
        return relative_norm(self.norm_a, self.norm)

    @property
    def cosine(self) -> float | None:
        """See `cosine_of`."""
        return cosine_of(self.norm_a, self.norm_b, self.norm)


def relative_norm(norm_a: float, norm: float) -> float | None:
    """||D|| / ||A||; 0 where D is zero, None where only A is."""
    if norm == 0:
        return 0.0
    ratio = norm / norm_a if norm_a else math.inf
    return ratio if math.isfinite(ratio) else None


def cosine_of(norm_a: float, norm_b: float, norm: float) -> float | None:
    """The cosine between A and B from three norms; None where one of A and B is zero.

    `1 - (||D||^2 - (||B|| - ||A||)^2) / (2 ||A|| ||B||)`: unlike the dot product, it loses nothing where B is nearly A.
    """
    if not norm_a or not norm_b:
        return None
    longer = norm_b - norm_a
    found = 1 - ((norm / norm_a) * (norm / norm_b) - (longer / norm_a) * (longer / norm_b)) / 2
    return min(max(found, -1.0), 1.0) if math.isfinite(found) else None


@dataclass(frozen=True, slots=True)
class Measured:
    """A block: its sums, and what it adds to the Gram matrix of the projected update."""

    sums: Sums
    gram: Gram | None


def block_elements(dtype_a: str, dtype_b: str, limit_bytes: int) -> int:
    """Elements of a block of two tensors; of packed types, bytes."""
    return min(BLOCK_ELEMENTS, limit_bytes // max(width_of(dtype_a), width_of(dtype_b)))


def measure(
    first: Buffer, second: Buffer, dtypes: tuple[str, str], *, begin: int = 0, projection: Projection | None = None
) -> Measured:
    """Compare a block of two tensors, the same elements of both.

    Args:
        first: elements of A in C order.
        second: the same of B.
        dtypes: their types, as safetensors names them. Of packed types only bits are compared.
        begin: index of the first element in its tensor.
        projection: how the update's rank is found; None where it is not.
    """
    dtype_a, dtype_b = dtypes
    views = memoryview(first).cast("B"), memoryview(second).cast("B")
    widths = width_of(dtype_a), width_of(dtype_b)
    count = len(views[0]) // widths[0]
    updates: Array | None = None
    if projection is not None and {dtype_a, dtype_b} <= MATRICES:
        updates = np.empty(count, np.float64 if "F64" in dtypes else np.float32)
    sums = Sums()
    with np.errstate(all="ignore"):  # NaN and infinities are as welcome as any number.
        for at in range(0, count, CHUNK):
            end = min(at + CHUNK, count)
            parts = [view[at * width : end * width] for view, width in zip(views, widths, strict=True)]
            found, update = _chunk(parts[0], parts[1], dtype_a, dtype_b)
            sums = sums.joined(found)
            if updates is not None:
                updates[at:end] = update
        gram = projection.gram(updates, begin) if projection is not None and updates is not None else None
    return Measured(sums, gram)


def _chunk(first: memoryview, second: memoryview, dtype_a: str, dtype_b: str) -> tuple[Sums, Array]:
    """The sums of a chunk, and its D; where no rank is asked for, an empty one."""
    words = words_of(first, dtype_a) ^ words_of(second, dtype_b) if dtype_a == dtype_b else None
    bits = 0 if words is None else _bits(words)
    if {dtype_a, dtype_b} & PACKED:
        return Sums(changed_bits=bits), _NONE
    if words is not None and (whole := big_integers_of(first, dtype_a)) is not None:
        return replace(_big_integers(whole, big_integers_of(second, dtype_b)), changed_bits=bits), _NONE
    a, b = floats_of(first, dtype_a), floats_of(second, dtype_b)
    if {dtype_a, dtype_b} & COMPLEX:
        return replace(_complex(_as_complex(a, dtype_a), _as_complex(b, dtype_b)), changed_bits=bits), _NONE
    update = b - a
    squares = [_square(each) for each in (a, b, update)]
    if not all(_is_sound(square, each) for square, each in zip(squares, (a, b, update), strict=True)):
        found, update = _careful(a, b)
        return replace(found, changed_bits=bits), update
    largest = max(float(update.max()), -float(update.min())) if len(update) else 0.0
    norm_a, norm_b, norm = map(math.sqrt, squares)
    return Sums(norm_a, norm_b, norm, largest, _changed(a, b, words, dtype_a), bits), update


def _bits(words: Array) -> int:
    """How many bits are set."""
    data = words.view(np.uint8)
    whole = len(data) // 8 * 8
    counted = np.bitwise_count(data[:whole].view("<u8")).sum(dtype=np.uint32)
    return int(counted) + int(np.bitwise_count(data[whole:]).sum(dtype=np.uint32))


def _changed(a: Array, b: Array, words: Array | None, dtype: str) -> int:
    """Elements whose values differ, none of them NaN: in one type of floats, those of other bits but 0.0 and -0.0."""
    if words is None or dtype not in MATRICES:
        return int(np.count_nonzero(a != b))
    changed = int(np.count_nonzero(words))
    sign = words == words.dtype.type(1 << (8 * words.itemsize - 1))
    return changed - int(np.count_nonzero(sign & (a == 0))) if sign.any() else changed


def _square(values: Array) -> float:
    """The sum of squares, in parts that no BLAS shares among threads: those would wait for each other here."""
    whole = len(values) // _DOT * _DOT
    parts = values[:whole].reshape(-1, _DOT)
    rest = values[whole:]
    return float(np.vecdot(parts, parts).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def _is_sound(square: float, values: Array) -> bool:
    """Whether a sum of squares neither met what is not finite nor over- or underflowed."""
    return _SMALLEST < square < math.inf or (square <= _SMALLEST and not values.any())


def _careful(a: Array, b: Array) -> tuple[Sums, Array]:
    """As `_chunk`, for numbers of any size and for what is not finite: there D is 0."""
    finite = np.isfinite(a) & np.isfinite(b)
    changed = int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))
    kept_a, kept_b = (np.where(finite, each, 0).astype(np.float64) for each in (a, b))
    update = kept_b - kept_a
    update[~np.isfinite(update)] = 0  # Two numbers at the ends of float64: their distance is none of its numbers.
    largest = float(np.abs(update).max()) if len(update) else 0.0
    not_finite = int(np.count_nonzero(~finite))
    return Sums(_norm(kept_a), _norm(kept_b), _norm(update), largest, changed, not_finite=not_finite), update


def _norm(values: Array) -> float:
    """The Frobenius norm of finite float64 numbers, without overflow or underflow."""
    scale = float(np.abs(values).max()) if len(values) else 0.0
    if scale == 0:
        return 0.0
    exponent = math.frexp(scale)[1]
    scaled = np.ldexp(values, -exponent)
    try:
        return math.ldexp(math.sqrt(float(np.dot(scaled, scaled))), exponent)
    except OverflowError:
        return math.inf


def _big_integers(a: Array, b: Array | None) -> Sums:
    """The sums of integers of 32 or 64 bits: their distance is exact before it is rounded."""
    assert b is not None
    unsigned = f"<u{a.itemsize}"
    distance = (np.maximum(a, b).view(unsigned) - np.minimum(a, b).view(unsigned)).astype(np.float64)
    norm_a, norm_b = (_norm(each.astype(np.float64)) for each in (a, b))
    largest = float(distance.max()) if len(distance) else 0.0
    return Sums(norm_a, norm_b, _norm(distance), largest, int(np.count_nonzero(a != b)))


def _as_complex(values: Array, dtype: str) -> Array:
    found: Array = values.view(f"<c{2 * values.itemsize}") if dtype in COMPLEX else values
    return found.astype(np.complex128)


def _complex(a: Array, b: Array) -> Sums:
    """The sums of complex numbers: norms of moduli; a number is finite where both its parts are."""
    finite = np.isfinite(a) & np.isfinite(b)
    changed = int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))
    kept_a, kept_b = np.where(finite, a, 0), np.where(finite, b, 0)
    sizes = [np.abs(each) for each in (kept_a, kept_b, kept_b - kept_a)]
    for each in sizes:
        each[~np.isfinite(each)] = 0
    largest = float(sizes[2].max()) if len(finite) else 0.0
    norm_a, norm_b, norm = map(_norm, sizes)
    return Sums(norm_a, norm_b, norm, largest, changed, not_finite=int(np.count_nonzero(~finite)))
