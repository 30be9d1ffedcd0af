"""Which differences belong together: elements are grouped by the exponent of the reference value.

An update of a given size moves a large weight by a fraction of its last place and a small one by many of its own, so
how large a difference is follows from the exponent (the *class*) of the value that it is taken from. Both sides know
the reference, so classes cost nothing. Specified in docs/format/encodings/delta.md.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from ckptfmt.encodings.places import places_of, room_for
from ckptfmt.encodings.words import Words

SymbolBits = Literal[4, 8]

CLASSES: Final = 256
MAX_WIDTH: Final = 8

_EXPONENTS: Final[dict[str, tuple[int, int]]] = {
    "BF16": (8, 0),
    "F16": (5, 0),
    "F32": (8, 0),
    "C64": (8, 0),
    "F64": (11, 800),
    "C128": (11, 800),
    "F8_E4M3": (4, 0),
    "F8_E5M2": (5, 0),
    "F8_E4M3FNUZ": (4, 0),
    "F8_E5M2FNUZ": (5, 0),
}
"""Exponent bits, and the exponent field that is class 0."""

_BLOCK: Final = 1 << 17
"""Elements that stay in the cache."""
_SAMPLE: Final = 1 << 14
_PIECES: Final = 8
_FEW: Final = 24
"""Elements of a class in the sample below which nothing is concluded from it."""
_SPARSE: Final = 0.15
"""Classes with fewer changes than this are stored by the places of the changes."""
_REST_MOST: Final = 0.5
"""Taking more than this out of a frame costs more time than it saves bytes."""
_ESCAPE_BITS: Final = 20
_PATIENCE: Final = 3
"""Pivots tried after the best one."""
_LOW_BIT_COST: Final = 0.08
"""Low bits take more time than symbols: a pivot that is lower by one may cost so many bits for each that it saves."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a frame is grouped; the fields of its head.

    Attributes:
        rest: classes below this one are stored element by element, each difference cut into a symbol and low bits.
        symbol_bits: bits of a symbol.
        dropped: lowest bytes of a difference, which are stored as planes.
        pivot: an element of class c has min(max(pivot - c, 0), 8) low bits.
    """

    rest: int
    symbol_bits: SymbolBits = 8
    dropped: int = 0
    pivot: int = 0


def classes_of(words: Words, element: str | None) -> Words:
    """The class of each word: its exponent field, uint8. For F64, the field less 800, held within 0 to 255."""
    if element not in _EXPONENTS:
        return np.zeros(len(words), np.uint8)
    bits, lowest = _EXPONENTS[element]
    shift = words.dtype.type(8 * words.dtype.itemsize - 1 - bits)
    if not lowest:
        classes = np.empty(len(words), np.uint8)
        # Of what is above the field, the sign, a byte cuts off all but what stands in it.
        np.right_shift(words, shift, out=classes, casting="unsafe")
        if bits < 8:
            classes &= np.uint8((1 << bits) - 1)
        return classes
    fields: Words = (words + words) >> (shift + words.dtype.type(1))  # The sign goes.
    fields = np.clip(fields, lowest, lowest + CLASSES - 1)
    fields -= fields.dtype.type(lowest)
    return fields.astype(np.uint8)


def parted(words: Words, element: str | None, rest: int) -> tuple[Words, Words]:
    """Tell of each element whether its class is below `rest`, which is 1 to 255.

    Returns:
        One truth value an element, and where they are true, ascending.
    """
    bits, lowest = _EXPONENTS.get(element or "", (0, 0))
    count = len(words)
    if rest >= 1 << bits:
        return np.ones(count, np.bool_), np.arange(count)
    room = room_for(count)
    bound = words.dtype.type((rest + lowest) << (8 * words.dtype.itemsize - bits))
    for begin in range(0, count, _BLOCK):
        block = words[begin : begin + _BLOCK]
        np.less(block + block, bound, out=room[begin : min(begin + _BLOCK, count)])  # The sign goes.
    return room[:count], places_of(room, count)


def widths_of(classes: Words, pivot: int) -> Words:
    """How many low bits an element of each class wants, uint8."""
    widths: Words = classes.clip(np.uint8(max(pivot - MAX_WIDTH, 0)), np.uint8(pivot))
    np.subtract(np.uint8(pivot), widths, out=widths)
    return widths


def pieces_of(count: int, sample: int = _SAMPLE) -> list[slice]:
    """Ranges spread evenly over `count` elements, `sample` of them together; all, where there are not more."""
    if count <= sample:
        return [slice(0, count)]
    size = sample // _PIECES
    step = (count - size) // (_PIECES - 1)
    return [slice(index * step, index * step + size) for index in range(_PIECES)]


def choose_grouping(differences: Words, classes: Words) -> Grouping:
    """Choose what makes a frame small, from a sample.

    Args:
        differences: signed, of the sampled elements.
        classes: theirs.
    """
    changed = differences != 0
    total = np.bincount(classes, minlength=CLASSES)
    moved = np.bincount(classes[changed], minlength=CLASSES)
    dense = (moved >= _SPARSE * total) & (total >= _FEW)
    rest = int(np.flatnonzero(dense)[-1]) + 1 if dense.any() else 0
    share = int(total[:rest].sum()) / len(classes)
    if share > _REST_MOST:
        rest = CLASSES
    if not rest:
        return Grouping(0)
    chosen = classes < rest
    return _cut(differences[chosen], classes[chosen], rest)


def _places_bits(count: int, chosen: float) -> float:
    """Entropy of which `chosen` of `count` elements they are, bits."""
    if not 0 < chosen < count:
        return 0.0
    part = chosen / count
    return -count * (part * math.log2(part) + (1 - part) * math.log2(1 - part))


def _cut(differences: Words, classes: Words, rest: int) -> Grouping:
    """How the differences below class `rest` are cut into dropped bytes, symbols and low bits."""
    size = differences.dtype.itemsize
    magnitude = int(np.median(np.abs(differences.astype(np.int64) | 1)))
    lowest = max(0, (magnitude.bit_length() - 2) // 8)
    low, high = (int(each) for each in np.percentile(classes, (2, 98)))
    best, grouping = math.inf, Grouping(rest)
    for dropped in sorted({min(lowest, size - 1), min(lowest + 1, size - 1)}):
        kept = differences >> (8 * dropped)
        planes = sum(_entropy((differences >> (8 * plane)).astype(np.uint8)) for plane in range(dropped))
        since = 0
        for pivot in range(low, min(high + MAX_WIDTH, CLASSES - 1) + 1):
            widths = widths_of(classes, pivot).astype(kept.dtype)
            numbers = kept >> widths
            plain = planes + (1 + _LOW_BIT_COST) * float(widths.mean())
            since += 1
            if plain >= best or since > _PATIENCE:
                break
            for bits in (4, 8):
                cost = plain + _symbol_cost(numbers, bits)
                if cost < best - 0.01:
                    best, since = cost, 0
                    grouping = Grouping(rest, 4 if bits == 4 else 8, dropped, pivot)
    return grouping


def _entropy(plane: Words) -> float:
    """Bits a byte of `plane` takes on its own."""
    counts: Any = np.bincount(plane)
    shares = counts[counts > 0] / len(plane)
    return float(-(shares * np.log2(shares)).sum())


def _symbol_cost(numbers: Words, bits: int) -> float:
    """Bits a number takes as Huffman-coded symbol, two to a code where they have 4 bits, and as escape."""
    half = 1 << (bits - 1)
    fits = (numbers > -half) & (numbers < half)
    symbols = np.where(fits, numbers + numbers.dtype.type(half), numbers.dtype.type(0))
    counts: Any = np.bincount(symbols.astype(np.int64), minlength=2 * half)
    shares = counts[counts > 0] / len(numbers)
    escapes = _ESCAPE_BITS * float(1 - fits.mean())
    if bits == 8:
        return _huffman_bits(shares.tolist()) + escapes
    # A code takes a whole bit at least, and so wastes what the most frequent pair is worth less.
    pair = float(shares.max()) ** 2
    waste = 1 - _places_bits(1, pair) if 0.5 < pair < 1 else 0.03
    return float(-(shares * np.log2(shares)).sum()) + waste / 2 + escapes


def _huffman_bits(shares: list[float]) -> float:
    """Mean length of a Huffman code, bits: the sum of the shares of its inner nodes."""
    heapq.heapify(shares)
    length = 0.0
    while len(shares) > 1:
        joined = heapq.heappop(shares) + shares[0]
        heapq.heapreplace(shares, joined)
        length += joined
    return length
