"""The encoding `lowrank`: a frame by what a prediction from base and factors got wrong.

Specified in docs/format/encodings/lowrank.md. Where a merge was made elsewhere, or its factors had to be found again, a
few predictions fail, nearly all of them where the predicted sum lies next to a boundary between two numbers. The basis
says how near, in a class for each element (`nearness`). Classes in which predictions fail about as often make a group,
and each group has its list of changes. Where a prediction is poor, the frame is stored as `delta` stores it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.levels import MAX_GROUPS, choose_groups
from ckptfmt.encodings.nearness import FAR
from ckptfmt.encodings.places import places_of, room_for
from ckptfmt.encodings.prediction import Prediction, parse_prediction
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

SAME_FORM: Final = 0
GROUPED_FORM: Final = 1
DELTA_FORM: Final = 2

LEVELS: Final = 128
"""Levels of a class: its lowest bit says on which side the nearest boundary is."""
_DELTA_TRIED_FROM: Final = 0.1
"""A frame that becomes smaller than this part is hardly ever smaller by `delta`."""
_MANY: Final = 100
"""Changes from which on grouping is worth its table."""


class _Changes(NamedTuple):
    """What differs from a prediction.

    Attributes:
        places: of elements, ascending.
        steps: by how many representable numbers, towards the nearest boundary.
    """

    places: Words
    steps: Words


class Lowrank:
    """Stores a merged tensor by what its base and a low-rank update do not tell."""

    name = "lowrank"

    def parse(self, name: str) -> Prediction:
        """Read the text of a prediction.

        Raises:
            FormatError: it is none.
        """
        return parse_prediction(name)

    def encode(self, frame: Buffer, element: str | None, basis: Basis) -> Buffer | None:
        """Encode `frame` against a prediction, in the smallest of three forms; None where none is smaller than it.

        Raises:
            FormatError: frame and basis differ in length.
        """
        _check_lengths(len(frame), basis, element)
        if len(frame) < 2:
            return None
        if np.array_equal(np.frombuffer(frame, np.uint8), np.frombuffer(basis.words, np.uint8)):
            return bytes((SAME_FORM,))
        _, width = kind_of(element)
        stored: Buffer | None = None
        if len(frame) % width == 0:
            stored = b"".join((bytes((GROUPED_FORM,)), *_write_grouped(frame, element, basis)))
        if stored is None or len(stored) > _DELTA_TRIED_FROM * len(frame):
            by_delta = DELTA.encode(frame, element, Basis(basis.words))
            if by_delta is not None and (stored is None or 1 + len(by_delta) < len(stored)):
                stored = b"".join((bytes((DELTA_FORM,)), by_delta))
        return stored if stored is not None and len(stored) < len(frame) else None

    def decode(self, stored: Buffer, length: int, element: str | None, basis: Basis) -> Buffer:
        """Give back the `length` bytes of a frame. Memory: at most about thirty times `length`.

        Raises:
            FormatError: `stored` is no such frame, decodes to more or fewer bytes, or `basis` is not as long.
        """
        _check_lengths(length, basis, element)
        if not 1 < length <= FRAME_BYTES or not len(stored):
            raise FormatError(f"no lowrank frame of {length} bytes: {len(stored)} are stored")
        _, width = kind_of(element)
        reader = Reader(stored)
        (form,) = reader.take(1)
        if form == SAME_FORM:
            reader.finish()
            return basis.words
        if form == DELTA_FORM:
            return DELTA.decode(memoryview(stored)[1:], length, element, Basis(basis.words))
        if form != GROUPED_FORM or length % width:
            raise FormatError(f"a lowrank frame of {length} bytes has the unknown form {form}")
        words = _read_grouped(reader, length // width, element, basis)
        reader.finish()
        return words.view(np.uint8).data


def _check_lengths(length: int, basis: Basis, element: str | None) -> None:
    _, width = kind_of(element)
    if length != basis.length or (basis.count is not None and basis.count != length // width):
        raise FormatError(f"a lowrank frame of {length} bytes has a basis of {basis.length}")


def _ordered(words: Words, element: str | None) -> Words:
    """Words as signed integers in the order of the elements, of 16 bits or more; its own inverse for floats."""
    kind, width = kind_of(element)
    signed: Words = words.view(f"<i{width}").astype(f"<i{max(width, 2)}")
    if kind == "float":
        turned = signed >> (8 * width - 1)
        turned &= signed.dtype.type((1 << (8 * width - 1)) - 1)
        signed ^= turned
    return signed


def _words(ordered: Words, element: str | None) -> Words:
    kind, width = kind_of(element)
    if kind == "float":
        ordered = _ordered(ordered.view(word_type(width)), element)
    return ordered.astype(f"<i{width}", copy=False).view(word_type(width))


# ------------------------------------------------------------------------------------------------------------- writing


def _write_grouped(frame: Buffer, element: str | None, basis: Basis) -> list[bytes]:
    _, width = kind_of(element)
    words, under = (np.frombuffer(buffer, word_type(width)) for buffer in (frame, basis.words))
    places = np.flatnonzero(words != under)
    steps = _ordered(words.take(places), element)
    steps -= _ordered(under.take(places), element)
    if len(places) >= _MANY and basis.classes is not None:
        classes = np.frombuffer(basis.classes, np.uint8)
        of = classes.take(places)
    else:
        classes, of = None, basis.classes_at(places)
    lower = of & np.uint8(1) != 0
    steps[lower] = -steps[lower]
    changes = _Changes(places, steps)
    if classes is None:
        return [bytes((1,)), *_write_changes(changes)]
    levels = classes >> np.uint8(1)
    counted = np.bincount(levels, minlength=LEVELS)
    groups = choose_groups(counted, of >> np.uint8(1), steps)
    if groups.number == 1:
        return [bytes((1,)), *_write_changes(changes)]
    group = groups.table.take(of >> np.uint8(1))
    members = _members(groups.table, levels)
    dense, parts = bytearray(groups.number), []
    for index in range(groups.number):
        chosen = np.flatnonzero(group == index)
        some = _Changes(places.take(chosen), steps.take(chosen))
        if index:
            some = _Changes(np.searchsorted(members[index], some.places), some.steps)
        listed = b"".join(_write_changes(some))
        if index and 2 * len(chosen) > len(members[index]):
            every = _write_all(some, len(members[index]))
            if len(every) < len(listed):
                dense[index], listed = 1, every
        parts.append(listed)
    return [bytes((groups.number,)), bytes(dense), write_coded(groups.table), *parts]


def _write_changes(changes: _Changes) -> list[bytes]:
    """The places, and which of these steps are not 1, and what they are."""
    others = np.flatnonzero(changes.steps != 1)
    return [
        write_gaps(changes.places),
        write_gaps(others),
        write_symbols(*to_symbols(changes.steps.take(others))),
    ]


def _write_all(changes: _Changes, count: int) -> bytes:
    """The steps of all elements of a group."""
    steps = np.zeros(count, changes.steps.dtype)
    steps[changes.places] = changes.steps
    return write_symbols(*to_symbols(steps))


# ------------------------------------------------------------------------------------------------------------- reading


def _read_grouped(reader: Reader, count: int, element: str | None, basis: Basis) -> Words:
    _, width = kind_of(element)
    work = np.dtype(f"<i{max(width, 2)}")
    (number,) = reader.take(1)
    if not 0 < number <= MAX_GROUPS:
        raise FormatError(f"a lowrank frame has {number} groups")
    dense, members = [0], [np.empty(0, np.int64)]
    if number > 1:
        dense = list(reader.take(number))
        table = read_coded(reader, LEVELS)
        if max(dense) > 1 or dense[0] or int(table.max()) >= number:
            raise FormatError("a lowrank frame has an impossible table of groups")
        levels = np.frombuffer(basis.classes or bytes(count), np.uint8) >> np.uint8(1)
        members = _members(table, levels)
    under = np.frombuffer(basis.words, word_type(width))
    words = under.copy()
    for index in range(number):
        among = members[index] if index else None
        total = count if among is None else len(among)
        if dense[index] and among is not None:
            places = among
            steps = read_symbols(reader, len(places), work)
        else:
            places = read_gaps(reader, total)
            if among is not None:
                places = among.take(places)
            others = read_gaps(reader, len(places))
            steps = np.ones(len(places), work)
            steps[others] = read_symbols(reader, len(others), work)
        lower = basis.classes_at(places) & np.uint8(1) != 0
        steps[lower] = -steps[lower]
        steps += _ordered(under.take(places), element)
        words[places] = _words(steps, element)
    return words


def _members(table: Words, levels: Words) -> list[Any]:
    """The places of the elements of each group, ascending; group 0 has those of all, and is left empty.

    Most elements are far from a boundary, which hardly ever makes a group.
    """
    if table[FAR]:
        some = np.arange(len(levels))
    else:
        room = room_for(len(levels))
        np.not_equal(levels, FAR, out=room[: len(levels)])
        some = places_of(room, len(levels))
    group = table.take(levels.take(some))
    kept = np.flatnonzero(group != 0)
    some, group = some.take(kept), group.take(kept)
    ordered = some.take(np.argsort(group, kind="stable"))
    ends = np.cumsum(np.bincount(group, minlength=MAX_GROUPS))
    return np.split(ordered, ends[:-1])


LOWRANK: Final = Lowrank()
