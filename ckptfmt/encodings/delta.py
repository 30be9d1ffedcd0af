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
from ckptfmt.encodings.bits import BitReader, BitWriter
from ckptfmt.encodings.groups import (
    CLASSES,
    MAX_BANDS,
    Grouping,
    choose_grouping,
    classes_of,
    pieces_of,
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

_HEAD = np.dtype([("rest", "<u2"), ("bands", "u1"), ("symbol_bits", "u1"), ("dropped", "u1"), ("pivot", "u1")])
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
        work: signed words of 16 bits or more, in which differences are computed.
        is_float: whether words are sign and magnitude.
    """

    words: np.dtype[Any]
    signed: np.dtype[Any]
    work: np.dtype[Any]
    is_float: bool

    def ordered(self, words: Words) -> Words:
        """Words as integers in the elements' order, in `work`; two's complement words are so already."""
        given: Words = words.view(self.signed).astype(self.work, copy=not self.is_float)
        return self._turned(given) if self.is_float else given

    def words_of(self, ordered: Words) -> Words:
        """The inverse of `ordered`; integers beyond the words' range wrap around. `ordered` is used up."""
        turned = self._turned(ordered) if self.is_float else ordered
        return turned.astype(self.signed, copy=False).view(self.words)

    def _turned(self, given: Words) -> Words:
        """Complement all bits below the sign where it is set: its own inverse."""
        turned: Words = given >> (8 * self.work.itemsize - 1)
        turned &= self.work.type((1 << (8 * self.words.itemsize - 1)) - 1)
        turned ^= given
        return turned


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


def _difference(words: Words, basis: Words, arithmetic: _Arithmetic) -> Words:
    difference = arithmetic.ordered(words)
    difference -= arithmetic.ordered(basis)
    return difference


# ------------------------------------------------------------------------------------------------------------- writing


def _write_grouped(words: Words, basis: Words, element: str | None, arithmetic: _Arithmetic) -> list[bytes]:
    pieces = pieces_of(len(words))
    some, under = (np.concatenate([array[piece] for piece in pieces]) for array in (words, basis))
    grouping = choose_grouping(_difference(some, under, arithmetic), classes_of(under, element), len(words))
    head = np.zeros(1, _HEAD)
    for name in _HEAD.names or ():
        head[name] = getattr(grouping, name)
    parts = [head.tobytes()]
    if grouping.rest == CLASSES:
        return parts + _write_rest(words, basis, element, arithmetic, grouping)
    places = _Places(basis, element, grouping)
    if len(places.rest):
        parts += _write_rest(words.take(places.rest), basis.take(places.rest), element, arithmetic, grouping)
    for band in places.bands:
        parts += _write_changes(words.take(band), basis.take(band), arithmetic)
    return parts + _write_changes(words, basis, arithmetic, element, grouping.rest + grouping.bands)


def _write_changes(
    words: Words, basis: Words, arithmetic: _Arithmetic, element: str | None = None, lowest: int = 0
) -> list[bytes]:
    """The places of the changes of a class from `lowest` on, and the differences there."""
    changed = np.flatnonzero(words != basis)
    if lowest:
        changed = changed.take(np.flatnonzero(classes_of(basis.take(changed), element) >= lowest))
    differences = _difference(words.take(changed), basis.take(changed), arithmetic)
    return [write_gaps(changed), write_symbols(*to_symbols(differences, 8), 8)]


def _write_rest(
    words: Words, basis: Words, element: str | None, arithmetic: _Arithmetic, grouping: Grouping
) -> list[bytes]:
    """Every difference: its dropped bytes, its symbol, its low bits."""
    planes = np.empty((grouping.dropped, len(words)), np.uint8)
    symbols = np.empty(len(words), np.uint8)
    escapes, bits = [], BitWriter()
    for tile in _tiles(len(words)):
        difference = _difference(words[tile], basis[tile], arithmetic)
        for plane in planes:
            plane[tile] = difference
            difference >>= arithmetic.work.type(8)
        widths = widths_of(classes_of(basis[tile], element), grouping.pivot)
        wide = widths.astype(arithmetic.work)
        numbers = difference >> wide
        difference -= numbers << wide
        bits.add(difference, widths)
        symbols[tile], escaped = to_symbols(numbers, grouping.symbol_bits)
        escapes.append(escaped)
    coded = [write_coded(plane) for plane in planes]
    return [*coded, write_symbols(symbols, np.concatenate(escapes), grouping.symbol_bits), bits.finish()]


# ------------------------------------------------------------------------------------------------------------- reading


def _read_grouped(reader: Reader, basis: Words, element: str | None, arithmetic: _Arithmetic) -> Words:
    grouping = _read_grouping(reader, arithmetic)
    if grouping.rest == CLASSES:
        return _read_rest(reader, basis, element, arithmetic, grouping)
    words = basis.copy()
    places = _Places(basis, element, grouping)
    if len(places.rest):
        words[places.rest] = _read_rest(reader, basis.take(places.rest), element, arithmetic, grouping)
    for band in places.bands:
        _read_changes(reader, words, basis, band, arithmetic)
    _read_changes(reader, words, basis, None, arithmetic)
    return words


def _read_grouping(reader: Reader, arithmetic: _Arithmetic) -> Grouping:
    (head,) = np.frombuffer(reader.take(_HEAD.itemsize), _HEAD)
    rest, bands, symbol_bits, dropped, pivot = (int(head[name]) for name in _HEAD.names or ())
    sound = (
        rest <= CLASSES
        and bands <= min(MAX_BANDS, CLASSES - rest)
        and symbol_bits in (4, 8)
        and dropped < arithmetic.words.itemsize
    )
    if not sound:
        raise FormatError(f"a delta frame has an impossible head: {head}")
    return Grouping(rest, bands, 4 if symbol_bits == 4 else 8, dropped, pivot)


def _read_changes(reader: Reader, words: Words, basis: Words, among: Words | None, arithmetic: _Arithmetic) -> None:
    changed = read_gaps(reader, len(basis if among is None else among))
    if among is not None:
        changed = among.take(changed)
    numbers = read_symbols(reader, len(changed), 8, arithmetic.work)(0, len(changed))
    numbers += arithmetic.ordered(basis.take(changed))
    words[changed] = arithmetic.words_of(numbers)


def _read_rest(reader: Reader, basis: Words, element: str | None, arithmetic: _Arithmetic, grouping: Grouping) -> Words:
    planes = [read_coded(reader, len(basis)) for _ in range(grouping.dropped)]
    numbers = read_symbols(reader, len(basis), grouping.symbol_bits, arithmetic.work)
    tiles = list(_tiles(len(basis)))
    widths = [widths_of(classes_of(basis[tile], element), grouping.pivot) for tile in tiles]
    bits = BitReader(reader, widths)
    words = np.empty(len(basis), arithmetic.words)
    for index, tile in enumerate(tiles):
        difference = numbers(tile.start, tile.stop)
        difference <<= widths[index].astype(arithmetic.work)
        difference += bits.tile(index).view("<i2")
        for plane in reversed(planes):
            difference <<= arithmetic.work.type(8)
            difference |= plane[tile]
        difference += arithmetic.ordered(basis[tile])
        words[tile] = arithmetic.words_of(difference)
    return words


class _Places:
    """Where the elements of the rest and of each band stand, ascending."""

    def __init__(self, basis: Words, element: str | None, grouping: Grouping) -> None:
        end = grouping.rest + grouping.bands
        self.rest: Words = np.empty(0, np.int64)
        self.bands: list[Words] = []
        if not end:
            return
        parts: list[list[Words]] = [[] for _ in range(grouping.bands + 1)]
        for tile in _tiles(len(basis)):
            classes = classes_of(basis[tile], element)
            below = np.flatnonzero(classes < end) if end < CLASSES else np.arange(len(classes))
            # `take` is twice as quick as an index in brackets.
            classes = classes.take(below)
            below += tile.start
            for band in range(grouping.bands, 0, -1):
                is_band = classes == grouping.rest + band - 1
                parts[band].append(below.take(np.flatnonzero(is_band)))
                np.logical_not(is_band, out=is_band)
                others = np.flatnonzero(is_band)
                below = below.take(others)
                if band > 1:
                    classes = classes.take(others)
            parts[0].append(below)
        self.rest, *self.bands = map(np.concatenate, parts)


DELTA: Final = Delta()
