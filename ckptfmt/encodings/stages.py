"""Predicted words, tile by tile: the base's, and the updates of every stage rounded as the merge rounded them.

A tile is small enough to stay in a core's cache with all that is computed on the way, so memory is read and written
once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import Buffer
from ckptfmt.encodings.factors import WIDTHS, multiply
from ckptfmt.encodings.nearness import NEVER, Before, classes_of_sums, classes_of_updates
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.references import Cast
from ckptfmt.encodings.rounding import Floats, floats_here, narrow_words, round_to, widen
from ckptfmt.encodings.updates import Update, limbs_of
from ckptfmt.encodings.words import Words, word_type

TILE_ROWS: Final = 64
TILE: Final = 1 << 15
"""Elements of a tile."""
_keep_freed_memory = functools.cache(keep_freed_memory)
"""What it changes is the process's: once is enough."""
_FULL: Final = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
"""The exponent of NaN and infinities."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted.

    Attributes:
        held: the type of the base's words, and of sums between stages.
        element: the type of the result.
        columns: of the tensor.
        noise: see `nearness`.
    """

    held: str
    element: str
    columns: int
    noise: int


class _Active(NamedTuple):
    """An update in a range.

    Attributes:
        update: it.
        begin: first row of the tensor in the range to which it adds.
        end: one past the last.
        limbs: the left factor of these rows.
    """

    update: Update
    begin: int
    end: int
    limbs: list[Any]


class _Scratch:
    """Arrays that every tile of a range uses again.

    Attributes:
        bits: sums, bits of float32.
        update: what is added to them.
        spare: for any step.
        product: float64.
        limb: float64, where a left factor has limbs.
        exact: sums before they are rounded to float32; where the result is float32.
        under: what an update is added to; where a rule rounds updates.
        raw: updates before they are rounded; likewise.
    """

    def __init__(self, tile: int, target: Target, active: Sequence[_Active]) -> None:
        rounds = tile if any(each.update.rule.rounded for each in active) else 0
        limbs = tile if any(each.update.split.limbs > 1 for each in active) else 0
        self.bits, self.update, self.spare = (np.empty(tile, np.uint32) for _ in range(3))
        self.product, self.limb = np.empty(tile), np.empty(limbs)
        self.exact = np.empty(tile if target.element == "F32" else 0)
        self.under, self.raw = np.empty(rounds, np.uint32), np.empty(rounds, np.uint32)


def _shaped(flat: Any, shape: tuple[int, int]) -> Any:
    """The beginning of `flat` in a shape; what is not used has none."""
    return flat[: shape[0] * shape[1]].reshape(shape) if len(flat) else flat


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows and columns of the tensor."""

    row: int
    end: int
    column: int
    stop: int


def predict(
    base: Buffer, first: int, target: Target, updates: Sequence[Update], sources: Sequence[Source]
) -> tuple[Words, Words]:
    """Predict the elements from `first` on, as many as `base` has.

    Args:
        base: words of the held type.
        first: index of the first element in the tensor.
        target: what is predicted.
        updates: what is added.
        sources: U and V of each stage.

    Returns:
        Words of type `element`, and their classes.
    """
    _keep_freed_memory()
    columns = target.columns
    given = np.frombuffer(base, word_type(WIDTHS[target.held]))
    words, classes = np.empty(len(given), word_type(WIDTHS[target.element])), np.empty(len(given), np.uint8)
    last = first + len(given)
    begin, end = first // columns, -(-last // columns)
    active: list[_Active] = []
    for index, update in enumerate(updates):
        low, high = max(begin, update.begin), min(end, update.end)
        if low < high:
            source = sources[2 * index + update.transposed]
            limbs = limbs_of(update, source, low - update.begin, high - update.begin)
            active.append(_Active(update, low, high, limbs))
    merge = _Merge(target, floats_here(), active)
    with np.errstate(all="ignore"):
        for tile in _tiles(first, last, columns):
            at = tile.row * columns + tile.column - first
            shape = tile.end - tile.row, tile.stop - tile.column
            span = (shape[0] - 1) * columns + shape[1]
            cut = [_rectangle(array[at : at + span], shape, columns) for array in (given, words, classes)]
            merge.run(tile, *cut)
    return words, classes


def _rectangle(flat: Words, shape: tuple[int, int], columns: int) -> Words:
    """A view of rows that begin `columns` elements apart."""
    width = flat.dtype.itemsize
    return np.ndarray(shape, flat.dtype, flat.data, 0, (columns * width, width))


def _tiles(first: int, last: int, columns: int) -> Iterator[_Tile]:
    """Cut a range of elements into rectangles: what is left of its first row, whole rows, the beginning of its last."""
    while first < last:
        row, column = divmod(first, columns)
        stop = min(columns, column + last - first)
        end = row + 1 if column or stop < columns else last // columns
        width = TILE // min(TILE_ROWS, end - row)
        for top in range(row, end, TILE_ROWS):
            bottom = min(top + TILE_ROWS, end)
            for begin in range(column, stop, width):
                yield _Tile(top, bottom, begin, min(begin + width, stop))
        first = end * columns if end > row + 1 or stop == columns else last


class _Merge:
    """Adds and rounds tiles."""

    def __init__(self, target: Target, floats: Floats, active: Sequence[_Active]) -> None:
        self._target, self._floats, self._active = target, floats, active
        self._scratch = _Scratch(TILE, target, active)

    def run(self, tile: _Tile, base: Words, words: Words, classes: Words) -> None:
        """Predict one tile into `words` and `classes`."""
        target, scratch, shape = self._target, self._scratch, base.shape
        bits, spare = _shaped(scratch.bits, shape), _shaped(scratch.spare, shape)
        widen(base, target.held, bits)
        last = np.full(len(bits), -1)
        for index, active in enumerate(self._active):
            begin, end = max(active.begin, tile.row), min(active.end, tile.end)
            if begin < end:
                part = slice(begin - tile.row, end - tile.row)
                if index and target.held != "F32":
                    round_to(bits[part], target.held, spare[part])
                self._add(active, slice(begin - active.begin, end - active.begin), tile, part, shape)
                last[part] = index
        narrow_words(bits, target.element, words, spare)
        lost = self._restore(base, bits, words)
        edges = [0, *(np.flatnonzero(np.diff(last)) + 1).tolist(), len(last)]
        for begin, end in itertools.pairwise(edges):
            part = slice(begin, end)
            classes[part] = self._classes(int(last[begin]), part, shape, words[part])
        if lost is not None:
            classes[lost] = NEVER

    def _add(self, active: _Active, rows: slice, tile: _Tile, part: slice, shape: tuple[int, int]) -> None:
        """Add one update to some rows of a tile."""
        scratch, its = self._scratch, active.update
        bits, update, spare = (_shaped(each, shape)[part] for each in (scratch.bits, scratch.update, scratch.spare))
        product, limb = _shaped(scratch.product, shape)[part], _shaped(scratch.limb, shape)[part]
        multiply([each[rows] for each in active.limbs], its.right[:, tile.column : tile.stop], product, limb)
        self._floats.narrow(product, update)
        if its.rule.rounded is not None:
            raw = _shaped(scratch.raw, shape)[part]
            raw[...] = update
            if its.late_scale is not None:
                self._floats.multiply(raw, its.late_scale)
                round_to(update, its.rule.rounded, spare)
                self._floats.multiply(update, its.late_scale)
            round_to(update, its.rule.rounded, spare)
            _shaped(scratch.under, shape)[part] = bits
        elif self._target.element == "F32":
            _shaped(scratch.exact, shape)[part] = self._floats.sums64(bits, update)
        self._floats.add(bits, update)

    def _classes(self, index: int, part: slice, shape: tuple[int, int], words: Words) -> Words | int:
        """Classes of some rows of a tile, to which the update `index` was added last; -1: none."""
        if index < 0:
            return NEVER
        scratch, target, rounded = self._scratch, self._target, self._active[index].update.rule.rounded
        bits = _shaped(scratch.bits, shape)[part]
        if rounded is None:
            sums = _shaped(scratch.exact, shape)[part] if target.element == "F32" else bits
            return classes_of_sums(sums, words, target.element, target.noise)
        before = Before(_shaped(scratch.under, shape)[part], _shaped(scratch.raw, shape)[part], rounded, self._floats)
        return classes_of_updates(bits, words, target.element, target.noise, before)

    def _restore(self, base: Words, bits: Words, words: Words) -> Any:
        """Where a sum is not finite, the word is the base's own; tell where, or None."""
        held, element = self._target.held, self._target.element
        full = words.dtype.type(_FULL[element])
        if held != element:
            words[(bits & np.uint32(_FULL["F32"])) == np.uint32(_FULL["F32"])] = full
        lost = (words & full) == full
        if not lost.any():
            return None
        own = base[lost]
        if held != element:
            cast, taken = Cast(held, element), own.tobytes()
            given = cast.read(lambda begin, end: taken[begin:end], 0, len(own) * WIDTHS[element])
            own = np.frombuffer(given, words.dtype)
        words[lost] = own
        return lost
