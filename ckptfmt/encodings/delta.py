"""The encoding `delta`: a frame by its differences from a reference. Specified in docs/format/encodings/delta.md.

Words are subtracted as integers, so that a difference counts the representable values between two weights. How large
one is to be expected follows from the exponent of the reference value (`groups`). Classes of exponents in which enough
has changed are stored element by element: each difference is scaled by its exponent to a symbol that is Huffman-coded
(`streams`), and low bits that are noise and kept as they are (`bits`). What changed elsewhere, and differences that are
too wide for a symbol, stand in one list with their places. XOR with byte planes, as ZipLLM's BitX has it
(arXiv:2505.06252), is what is stored where that is smaller. There is no float arithmetic: every bit pattern comes back,
on every machine.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.bits import LANES, pack, unpack
from ckptfmt.encodings.groups import (
    CLASSES,
    Grouping,
    choose_grouping,
    classes_of,
    parted,
    pieces_of,
    widths_of,
)
from ckptfmt.encodings.places import places_of, room_for
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
from ckptfmt.encodings.tiles import tiles_of
from ckptfmt.encodings.words import Words, kind_of, word_type
from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS

SAME_FORM: Final = 0
GROUPED_FORM: Final = 1
XOR_FORM: Final = 2

_HEAD = np.dtype([("rest", "<u2"), ("symbol_bits", "u1"), ("dropped", "u1"), ("pivot", "u1")])
_HEAD_COMPARED: Final = 64 << 10
_XOR_TRIED_FROM: Final = 0.15
"""A frame that becomes smaller than this part is never smaller as XOR."""
_XOR_SAMPLE: Final = 1 << 15
_XOR_MARGIN: Final = 1.02


class _Types(NamedTuple):
    """Integers for the words of an element type.

    Attributes:
        words: as they lie in a frame, unsigned.
        signed: the same, signed.
        work: signed integers of 16 bits or more, in which differences are held.
    """

    words: np.dtype[Any]
    signed: np.dtype[Any]
    work: np.dtype[Any]

    def differences(self, words: Words, basis: Words) -> Words:
        """What is to be added to `basis`, in `work`: the shorter way around."""
        differences: Words = np.subtract(words, basis).view(self.signed)
        return differences.astype(self.work, copy=False)

    def words_of(self, differences: Words) -> Words:
        """What is added to words, modulo their range."""
        return differences.astype(self.signed, copy=False).view(self.words)


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
        types = _types(element)
        count = len(frame) // types.words.itemsize
        tail = bytes(frame[count * types.words.itemsize :])
        stored: Buffer | None = None
        if count:
            words = np.frombuffer(frame, types.words, count)
            below = np.frombuffer(reference, types.words, count)
            stored = b"".join((bytes((GROUPED_FORM,)), tail, *_write_grouped(words, below, element, types)))
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
        types = _types(element)
        count, spare = divmod(length, types.words.itemsize)
        reader = Reader(stored)
        (form,) = reader.take(1)
        if form == SAME_FORM:
            reader.finish()
            return bytes(reference)
        under = np.frombuffer(reference, types.words, count)
        tail = reader.take(spare)
        if form == GROUPED_FORM and count:
            words = _read_grouped(reader, under, element, types)
            reader.finish()
        elif form == XOR_FORM and count:
            body = memoryview(stored)[1 + spare :]
            planes = PLANES.decode(body, count * types.words.itemsize, element)
            words = np.frombuffer(planes, types.words) ^ under
        else:
            raise FormatError(f"a delta frame has the unknown form {form}")
        decoded = words.view(np.uint8).data
        return b"".join((decoded, tail)) if spare else decoded


def _check_lengths(length: int, reference: int) -> None:
    if length != reference:
        raise FormatError(f"a delta frame of {length} bytes has a reference of {reference}")


@functools.cache
def _types(element: str | None) -> _Types:
    _, width = kind_of(element)
    return _Types(word_type(width), np.dtype(f"<i{width}"), np.dtype(f"<i{max(width, 2)}"))


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


# ------------------------------------------------------------------------------------------------------------- writing


def _write_grouped(words: Words, basis: Words, element: str | None, types: _Types) -> list[bytes]:
    pieces = pieces_of(len(words))
    some, under = (np.concatenate([array[piece] for piece in pieces]) for array in (words, basis))
    grouping = choose_grouping(types.differences(some, under), classes_of(under, element))
    head = np.zeros(1, _HEAD)
    for name in _HEAD.names or ():
        head[name] = getattr(grouping, name)
    parts = [head.tobytes()]
    if grouping.rest == CLASSES:
        rest, changed = _write_rest(words, basis, element, types, grouping)
        parts += rest
    elif grouping.rest:
        below, places = parted(basis, element, grouping.rest)
        rest, wide = _write_rest(words.take(places), basis.take(places), element, types, grouping)
        parts += rest
        changed = _places_where_changed(words, basis, below)
        if len(wide):
            # Two runs that ascend: a stable sort merges them.
            changed = np.sort(np.concatenate((changed, places.take(wide))), kind="stable")
    else:
        changed = _places_where_changed(words, basis, None)
    differences = types.differences(words.take(changed), basis.take(changed))
    return [*parts, write_gaps(changed), write_symbols(*to_symbols(differences))]


def _places_where_changed(words: Words, basis: Words, but: Words | None) -> Words:
    """Where words differ from the reference, but where `but` is true."""
    room = room_for(len(words))
    changed = np.not_equal(words, basis, out=room[: len(words)])
    if but is not None:
        np.greater(changed, but, out=changed)
    return places_of(room, len(words))


def _write_rest(
    words: Words, basis: Words, element: str | None, types: _Types, grouping: Grouping
) -> tuple[list[bytes], Words]:
    """Differences by their dropped bytes, their symbols and their low bits; and where they are too wide for that."""
    planes = np.empty((grouping.dropped, len(words)), np.uint8)
    symbols, bits, places = [], [], [np.empty(0, np.int64)]
    half = types.work.type(1 << (grouping.symbol_bits - 1))
    for tiles in tiles_of(len(words), words.dtype.itemsize):
        part = slice(tiles.begin, tiles.end)
        difference = types.differences(words[part], basis[part])
        for plane in planes:
            plane[part] = difference
            difference >>= types.work.type(8)
        widths = tiles.widths(widths_of(classes_of(basis[part], element), grouping.pivot))
        wide = widths.each.astype(types.work)
        difference = tiles.rows(difference)
        numbers = difference >> wide
        difference -= numbers << wide
        low = difference.astype(np.uint8)
        beyond = np.flatnonzero((numbers + half).view(f"u{half.itemsize}") >= 2 * half)
        symbol = numbers.astype(np.uint8)
        symbol.reshape(-1)[beyond] = 0
        low.reshape(-1)[beyond] = 0
        places.append(beyond + tiles.begin)
        symbols.append(_pairs(symbol) if grouping.symbol_bits == 4 else symbol.reshape(-1)[: tiles.end - tiles.begin])
        bits.append(pack(low, widths))
    coded = [write_coded(plane) for plane in planes]
    return [*coded, write_coded(np.concatenate(symbols)), *bits], np.concatenate(places)


def _pairs(symbols: Words) -> Words:
    """Symbols of 4 bits, two to a byte: one of the first half of a tile below one of the second."""
    half = symbols.shape[1] // 2
    pairs: Words = symbols[:, half:] << np.uint8(4)
    pairs |= symbols[:, :half] & np.uint8(15)
    return pairs.reshape(-1)


# ------------------------------------------------------------------------------------------------------------- reading


def _read_grouped(reader: Reader, basis: Words, element: str | None, types: _Types) -> Words:
    grouping = _read_grouping(reader, types)
    if grouping.rest == CLASSES:
        words = _read_rest(reader, basis, element, types, grouping)
    else:
        words = basis.copy()
        if grouping.rest:
            _, places = parted(basis, element, grouping.rest)
            words[places] = _read_rest(reader, basis.take(places), element, types, grouping)
    changed = read_gaps(reader, len(basis))
    differences = read_symbols(reader, len(changed), types.work)
    words[changed] = basis.take(changed) + types.words_of(differences)
    return words


def _read_grouping(reader: Reader, types: _Types) -> Grouping:
    (head,) = np.frombuffer(reader.take(_HEAD.itemsize), _HEAD)
    rest, symbol_bits, dropped, pivot = (int(head[name]) for name in _HEAD.names or ())
    if rest > CLASSES or symbol_bits not in (4, 8) or dropped >= types.words.itemsize:
        raise FormatError(f"a delta frame has an impossible head: {head}")
    return Grouping(rest, 4 if symbol_bits == 4 else 8, dropped, pivot)


def _read_rest(reader: Reader, basis: Words, element: str | None, types: _Types, grouping: Grouping) -> Words:
    count = len(basis)
    planes = [read_coded(reader, count) for _ in range(grouping.dropped)]
    filled = count + -count % LANES
    symbols = read_coded(reader, count if grouping.symbol_bits == 8 else filled // 2).view(np.int8)
    words = np.empty(count, types.words)
    for tiles in tiles_of(count, words.dtype.itemsize):
        part = slice(tiles.begin, tiles.end)
        widths = tiles.widths(widths_of(classes_of(basis[part], element), grouping.pivot))
        half = tiles.filled // 2
        at = words[part]
        # Words of 16 bits are worked on where they will stand.
        here = at.dtype.itemsize == 2 and tiles.filled == tiles.size
        numbers = (at if here else np.empty(tiles.number * tiles.filled, np.int16)).view(np.int16)
        numbers = numbers.reshape(tiles.number, tiles.filled)
        lower, upper = numbers[:, :half], numbers[:, half:]
        if grouping.symbol_bits == 8:
            numbers[:, : tiles.size] = symbols[part].reshape(tiles.number, -1)
            numbers[:, tiles.size :] = 0
        else:
            pairs = symbols[tiles.begin // 2 : tiles.begin // 2 + numbers.size // 2].reshape(tiles.number, -1)
            np.right_shift(pairs, np.int8(4), out=upper)
            np.left_shift(pairs, np.int16(12), out=lower)
            lower >>= np.int16(12)
            if numbers[:, tiles.size :].any():
                raise FormatError("a delta frame has one symbol too many")
        low, shifts = unpack(reader.plane(widths.packed_bytes), widths)
        first = low >> shifts[:, half:]
        # Low bits of the second half are those of the pair less the first's, shifted as the second's symbol is. What
        # leaves 16 bits on the way comes back.
        upper -= first.view(np.int16)
        numbers <<= shifts.view(np.int16)
        lower += first.view(np.int16)
        upper += low.view(np.int16)
        difference = numbers.reshape(-1)[: tiles.end - tiles.begin]
        if planes:
            room = at.view(types.work)
            room[...] = difference
            for plane in reversed(planes):
                room <<= types.work.type(8)
                room |= plane[part]
            at += basis[part]
        else:
            np.add(basis[part], types.words_of(difference), out=at)
    return words


DELTA: Final = Delta()
