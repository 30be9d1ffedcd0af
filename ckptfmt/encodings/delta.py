"""The encoding `delta`: a frame by its differences from a reference. Specified in docs/format/encodings/delta.md.

Floats are mapped to integers in their own order and subtracted, so that a difference counts the representable values
between two weights. Differences are grouped by the exponent of the reference value (`groups`). Where hardly an
element of a group has changed, the places of the changes are stored, and else every difference is: scaled by its
exponent to a symbol that is Huffman-coded (`streams`), and low bits that are noise and kept as they are (`bits`).
XOR with byte planes, as ZipLLM's BitX has it (arXiv:2505.06252), is what is stored where that is smaller.
There is no float arithmetic: every bit pattern comes back, on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.bits import LANES, Widths, pack, unpack
from ckptfmt.encodings.groups import (
    CLASSES,
    Grouping,
    choose_grouping,
    classes_of,
    pieces_of,
    places_below,
    widths_of,
)
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.references import Reference, parse_reference
from ckptfmt.encodings.streams import (
    Reader,
    read_coded,
    read_gaps,
    read_symbols,
    to_symbols,
    write_coded,
    write_gaps,
    write_symbols,
)
from ckptfmt.encodings.words import Words, kind_of, word_type
from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS

SAME_FORM: Final = 0
GROUPED_FORM: Final = 1
XOR_FORM: Final = 2

TILE: Final = 1 << 18
"""Elements whose low bits are packed together: what stays in the cache."""

_HEAD = np.dtype([("rest", "<u2"), ("symbol_bits", "u1"), ("dropped", "u1"), ("pivot", "u1")])
_HEAD_COMPARED: Final = 64 << 10
_XOR_TRIED_FROM: Final = 0.15
"""A frame that becomes smaller than this part is never smaller as XOR."""
_XOR_SAMPLE: Final = 1 << 15
_XOR_MARGIN: Final = 1.02


class _Arithmetic(NamedTuple):
    """How the words of an element type are subtracted.

    Attributes:
        words: unsigned words as they lie in a frame.
        signed: the same, signed.
        work: signed words of 16 bits or more, in which differences are held.
        is_float: whether words are sign and magnitude.
    """

    words: np.dtype[Any]
    signed: np.dtype[Any]
    work: np.dtype[Any]
    is_float: bool

    def differences(self, words: Words, basis: Words) -> Words:
        """What is to be added to `basis`, in `work`."""
        if self.is_float:
            difference = words ^ basis
            self._turn(difference)
            difference ^= words
            difference -= basis
        else:
            difference = words - basis
        return difference.view(self.signed).astype(self.work, copy=False)

    def add(self, basis: Words, differences: Words, out: Words | None = None) -> Words:
        """The inverse of `differences`; what goes beyond the words' range wraps around.

        A float counts away from zero, whatever its sign. Where that changes the sign, all other bits are complemented:
        so a step below zero is a step of the other sign.
        """
        sums: Words = differences.astype(self.signed, copy=False).view(self.words)
        if not self.is_float:
            return np.add(basis, sums, out=out)
        sums = basis + sums
        turned = sums ^ basis
        self._turn(turned)
        return np.bitwise_xor(sums, turned, out=out)

    def _turn(self, flipped: Words) -> None:
        """Make all bits below the sign where the sign is set, and none elsewhere."""
        signed = flipped.view(self.signed)
        signed >>= self.signed.type(8 * self.words.itemsize - 1)
        flipped >>= self.words.type(1)


@functools.cache
class Delta:
    """Stores a tensor by its differences from another: a fine-tuned one from its base, a step from the one before."""

    name = "delta"

    def parse(self, name: str) -> Reference:
        """See `Relative.parse`."""
        return parse_reference(name)

    def encode(self, frame: Buffer, element: str | None, basis: Basis) -> Buffer | None:
        """Encode `frame` against the words of `basis`, in the smallest of three forms; None where none is smaller.

        Args:
            frame: decoded bytes, at most 4 MiB.
            element: dtype name of what both hold, or None where it is not numbers.
            basis: as many bytes, of the elements that stand in the same places.

        Raises:
            FormatError: frame and reference differ in length.
        """
        reference = basis.words
        _check_lengths(len(frame), len(reference))
        if (element is not None and element not in BITS) or len(frame) < 2:
            return None
        given, under = (np.frombuffer(buffer, np.uint8) for buffer in (frame, reference))
        if all(np.array_equal(given[:end], under[:end]) for end in (_HEAD_COMPARED, len(given))):
            return bytes((SAME_FORM,))
        keep_freed_memory()
        arithmetic = _arithmetic(element)
        count = len(frame) // arithmetic.words.itemsize
        tail = bytes(frame[count * arithmetic.words.itemsize :])
        stored: Buffer | None = None
        if count:
            words = np.frombuffer(frame, arithmetic.words, count)
            below = np.frombuffer(reference, arithmetic.words, count)
            stored = b"".join((bytes((GROUPED_FORM,)), tail, *_write_grouped(words, below, element, arithmetic)))
            if len(stored) > _XOR_TRIED_FROM * len(frame):
                stored = _smaller(stored, words, below, tail, element)
        return stored if stored is not None and len(stored) < len(frame) else None

    def decode(self, stored: Buffer, length: int, element: str | None, basis: Basis) -> Buffer:
        """Give back the `length` bytes of a frame. Memory: at most about thirty times `length`.

        Raises:
            FormatError: `stored` is no such frame, decodes to more or fewer bytes, or `basis` is not as long.
        """
        reference = basis.words
        _check_lengths(length, len(reference))
        if not 1 < length <= FRAME_BYTES or not len(stored):
            raise FormatError(f"no delta frame of {length} bytes: {len(stored)} are stored")
        keep_freed_memory()
        arithmetic = _arithmetic(element)
        count, spare = divmod(length, arithmetic.words.itemsize)
        reader = Reader(stored)
        (form,) = reader.take(1)
        if form == SAME_FORM:
            reader.finish()
            return bytes(reference)
        under = np.frombuffer(reference, arithmetic.words, count)
        tail = reader.take(spare)
        if form == GROUPED_FORM and count:
            words = _read_grouped(reader, under, element, arithmetic)
            reader.finish()
        elif form == XOR_FORM and count:
            body = memoryview(stored)[1 + spare :]
            planes = PLANES.decode(body, count * arithmetic.words.itemsize, element)
            words = np.frombuffer(planes, arithmetic.words) ^ under
        else:
            raise FormatError(f"a delta frame has the unknown form {form}")
        decoded = words.view(np.uint8).data
        return b"".join((decoded, tail)) if spare else decoded


def _check_lengths(length: int, reference: int) -> None:
    if length != reference:
        raise FormatError(f"a delta frame of {length} bytes has a reference of {reference}")


def _arithmetic(element: str | None) -> _Arithmetic:
    """Widths and kinds as words.kind_of has them; floats of a byte have their sign on top as well."""
    kind, width = kind_of(element)
    is_float = kind == "float" or (element is not None and element.startswith("F8_") and element != "F8_E8M0")
    return _Arithmetic(word_type(width), np.dtype(f"<i{width}"), np.dtype(f"<i{max(width, 2)}"), is_float)


def _smaller(stored: Buffer, words: Words, basis: Words, tail: bytes, element: str | None) -> Buffer:
    """`stored`, or the XOR form where that is smaller; on a sample first, where it is by far larger."""
    pieces = pieces_of(len(words), _XOR_SAMPLE)
    sample = np.concatenate([words[piece] ^ basis[piece] for piece in pieces])
    estimate = len(PLANES.encode(sample.view(np.uint8).data, element) or sample.data.nbytes * b".")
    if estimate / sample.nbytes > _XOR_MARGIN * len(stored) / words.nbytes:
        return stored
    planes = PLANES.encode((words ^ basis).view(np.uint8).data, element)
    if planes is None or 1 + len(tail) + len(planes) >= len(stored):
        return stored
    return b"".join((bytes((XOR_FORM,)), tail, planes))


def _tiles(count: int) -> Iterator[slice]:
    for begin in range(0, count, TILE):
        yield slice(begin, min(begin + TILE, count))


# ------------------------------------------------------------------------------------------------------------- writing


def _write_grouped(words: Words, basis: Words, element: str | None, arithmetic: _Arithmetic) -> list[bytes]:
    pieces = pieces_of(len(words))
    some, under = (np.concatenate([array[piece] for piece in pieces]) for array in (words, basis))
    grouping = choose_grouping(arithmetic.differences(some, under), classes_of(under, element))
    head = np.zeros(1, _HEAD)
    for name in _HEAD.names or ():
        head[name] = getattr(grouping, name)
    parts = [head.tobytes()]
    if grouping.rest == CLASSES:
        rest, changed = _write_rest(words, basis, element, arithmetic, grouping)
        parts += rest
    else:
        changed = np.flatnonzero(words != basis)
        if grouping.rest:
            changed = changed.take(np.flatnonzero(classes_of(basis.take(changed), element) >= grouping.rest))
            places = places_below(basis, element, grouping.rest)
            rest, wide = _write_rest(words.take(places), basis.take(places), element, arithmetic, grouping)
            parts += rest
            if len(wide):
                changed = np.sort(np.concatenate((changed, places.take(wide))))
    differences = arithmetic.differences(words.take(changed), basis.take(changed))
    return [*parts, write_gaps(changed), write_symbols(*to_symbols(differences, 8), 8)]


def _write_rest(
    words: Words, basis: Words, element: str | None, arithmetic: _Arithmetic, grouping: Grouping
) -> tuple[list[bytes], Words]:
    """Differences by their dropped bytes, their symbols and their low bits; and where they are too wide for that."""
    planes = np.empty((grouping.dropped, len(words)), np.uint8)
    symbols, bits, places = [], [], [np.empty(0, np.int64)]
    half = arithmetic.work.type(1 << (grouping.symbol_bits - 1))
    for tile in _tiles(len(words)):
        difference = arithmetic.differences(words[tile], basis[tile])
        for plane in planes:
            plane[tile] = difference
            difference >>= arithmetic.work.type(8)
        widths = Widths(widths_of(classes_of(basis[tile], element), grouping.pivot))
        wide = widths.each.astype(arithmetic.work)
        if len(difference) < len(wide):
            difference = np.append(difference, np.zeros(len(wide) - len(difference), arithmetic.work))
        numbers = difference >> wide
        difference -= numbers << wide
        low = difference.astype(np.uint8)
        beyond = np.flatnonzero((numbers + half).view(f"u{half.itemsize}") >= 2 * half)
        symbol = numbers.astype(np.uint8)
        symbol[beyond] = 0
        low[beyond] = 0
        places.append(beyond + tile.start)
        symbols.append(_pairs(symbol) if grouping.symbol_bits == 4 else symbol[: tile.stop - tile.start])
        bits.append(pack(low, widths))
    coded = [write_coded(plane) for plane in planes]
    return [*coded, write_coded(np.concatenate(symbols)), *bits], np.concatenate(places)


def _pairs(symbols: Words) -> Words:
    """Symbols of 4 bits, two to a byte: one of the first half of a tile below one of the second."""
    half = len(symbols) // 2
    pairs: Words = symbols[half:] << np.uint8(4)
    pairs |= symbols[:half] & np.uint8(15)
    return pairs


# ------------------------------------------------------------------------------------------------------------- reading


def _read_grouped(reader: Reader, basis: Words, element: str | None, arithmetic: _Arithmetic) -> Words:
    grouping = _read_grouping(reader, arithmetic)
    if grouping.rest == CLASSES:
        words = _read_rest(reader, basis, element, arithmetic, grouping)
    else:
        words = basis.copy()
        if grouping.rest:
            places = places_below(basis, element, grouping.rest)
            words[places] = _read_rest(reader, basis.take(places), element, arithmetic, grouping)
    changed = read_gaps(reader, len(basis))
    differences = read_symbols(reader, len(changed), 8, arithmetic.work)(0, len(changed))
    words[changed] = arithmetic.add(basis.take(changed), differences)
    return words


def _read_grouping(reader: Reader, arithmetic: _Arithmetic) -> Grouping:
    (head,) = np.frombuffer(reader.take(_HEAD.itemsize), _HEAD)
    rest, symbol_bits, dropped, pivot = (int(head[name]) for name in _HEAD.names or ())
    if rest > CLASSES or symbol_bits not in (4, 8) or dropped >= arithmetic.words.itemsize:
        raise FormatError(f"a delta frame has an impossible head: {head}")
    return Grouping(rest, 4 if symbol_bits == 4 else 8, dropped, pivot)


def _read_rest(reader: Reader, basis: Words, element: str | None, arithmetic: _Arithmetic, grouping: Grouping) -> Words:
    count = len(basis)
    planes = [read_coded(reader, count) for _ in range(grouping.dropped)]
    filled = count + -count % LANES
    symbols = read_coded(reader, count if grouping.symbol_bits == 8 else filled // 2).view(np.int8)
    words = np.empty(count, arithmetic.words)
    for tile in _tiles(count):
        widths = Widths(widths_of(classes_of(basis[tile], element), grouping.pivot))
        half = len(widths.each) // 2
        # Sixteen bits hold every number, and what wraps around on the way comes back.
        numbers = np.empty(2 * half, np.int16)
        if grouping.symbol_bits == 8:
            size = tile.stop - tile.start
            numbers[:size] = symbols[tile]
            numbers[size:] = 0
        else:
            pairs = symbols[tile.start // 2 : tile.start // 2 + half]
            np.right_shift(pairs << np.int8(4), np.int8(4), out=numbers[:half], casting="unsafe")
            np.right_shift(pairs, np.int8(4), out=numbers[half:])
        pairs, first = unpack(reader.plane(widths.packed_bytes), widths)
        first, second = first.astype(np.int16), pairs.astype(np.int16)
        numbers[half:] -= first
        numbers <<= widths.each.astype(np.int16)
        numbers[:half] += first
        numbers[half:] += second
        difference = numbers[: tile.stop - tile.start]
        if planes:
            difference = difference.astype(arithmetic.work)
            difference <<= arithmetic.work.type(8 * len(planes))
            lanes = difference.view(np.uint8)
            for index, plane in enumerate(planes):
                lanes[index :: arithmetic.work.itemsize] = plane[tile]
        arithmetic.add(basis[tile], difference, words[tile])
    return words


DELTA: Final = Delta()
