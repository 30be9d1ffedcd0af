"""Predicted words, tile by tile: the base's, and the updates of every stage rounded as the merge rounded them.

A tile is small enough to stay in a core's cache with all that is computed on the way, so memory is read and written
once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

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
TILE: Final = 1 << 17
"""Elements of a tile."""
PICKED: Final = 1 << 11
"""Elements here and there that are computed together."""
FEW: Final = 16
"""More than such a part of all are not worth picking."""
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


class _Elements(Protocol):
    """Elements of a tensor, in rows of a two-dimensional array."""

    def rows(self, begin: int, end: int) -> slice:
        """Which rows of the array belong to the tensor's rows from `begin` to `end`."""
        ...

    def multiply(self, active: _Active, part: slice, out: Any, spare: Any) -> None:
        """The product for some rows of the array, float64; as `factors.multiply`."""
        ...


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows and columns of the tensor."""

    row: int
    end: int
    column: int
    stop: int

    def rows(self, begin: int, end: int) -> slice:
        low = min(max(begin, self.row), self.end)
        return slice(low - self.row, max(low, min(end, self.end)) - self.row)

    def multiply(self, active: _Active, part: slice, out: Any, spare: Any) -> None:
        rows = slice(self.row + part.start - active.begin, self.row + part.stop - active.begin)
        limbs = [each[rows] for each in active.limbs]
        multiply(limbs, active.update.right[:, self.column : self.stop], out, spare)


class _Picked(NamedTuple):
    """Elements here and there, ascending, each a row of its own."""

    row: Words
    column: Words

    def rows(self, begin: int, end: int) -> slice:
        low, high = np.searchsorted(self.row, (begin, end)).tolist()
        return slice(low, high)

    def multiply(self, active: _Active, part: slice, out: Any, spare: Any) -> None:
        """Sums are exact, so that they may be taken in any order."""
        right = active.update.right.take(self.column[part], axis=1).T
        rows = self.row[part] - active.begin
        for index, limb in enumerate(active.limbs):
            np.sum(limb.take(rows, axis=0) * right, axis=1, keepdims=True, out=spare if index else out)
            if index:
                np.add(out, spare, out=out)


class Part:
    """The elements of a predicted tensor from `first` on, as many as `base` has; all that they need has been read."""

    def __init__(
        self, base: Buffer, first: int, target: Target, updates: Sequence[Update], sources: Sequence[Source]
    ) -> None:
        """Read the factors of a part.

        Args:
            base: words of the held type.
            first: index of the first element in the tensor.
            target: what is predicted.
            updates: what is added.
            sources: U and V of each stage.

        Raises:
            MergeError: floats cannot be trusted in this thread.
        """
        _keep_freed_memory()
        self._given = np.frombuffer(base, word_type(WIDTHS[target.held]))
        self._first, self._last, self._target = first, first + len(self._given), target
        begin, end = first // target.columns, -(-self._last // target.columns)
        self._active: list[_Active] = []
        for index, update in enumerate(updates):
            low, high = max(begin, update.begin), min(end, update.end)
            if low < high:
                source = sources[2 * index + update.transposed]
                limbs = limbs_of(update, source, low - update.begin, high - update.begin)
                self._active.append(_Active(update, low, high, limbs))
        self._floats = floats_here()

    def predict(self, *, classes: bool) -> tuple[Words, Words | None]:
        """Words of type `element`, and their classes if they are wanted."""
        words = np.empty(len(self._given), word_type(WIDTHS[self._target.element]))
        made = np.empty(len(words), np.uint8) if classes else None
        columns = self._target.columns
        merge = _Merge(self._target, self._floats, self._active, TILE)
        with np.errstate(all="ignore"):
            for tile in _tiles(self._first, self._last, columns):
                at = tile.row * columns + tile.column - self._first
                shape = tile.end - tile.row, tile.stop - tile.column
                span = slice(at, at + (shape[0] - 1) * columns + shape[1])
                base, under = (_rectangle(array[span], shape, columns) for array in (self._given, words))
                merge.run(tile, base, under, None if made is None else _rectangle(made[span], shape, columns))
        return words, made

    def classes_at(self, places: Words) -> Words:
        """The classes of the elements at these ascending places."""
        if len(places) > len(self._given) // FEW:
            _, made = self.predict(classes=True)
            return np.empty(0, np.uint8) if made is None else made.take(places)
        classes = np.empty((len(places), 1), np.uint8)
        words = np.empty((min(len(places), PICKED), 1), word_type(WIDTHS[self._target.element]))
        merge = _Merge(self._target, self._floats, self._active, PICKED)
        with np.errstate(all="ignore"):
            for begin in range(0, len(places), PICKED):
                some = places[begin : begin + PICKED]
                picked = _Picked(*np.divmod(some + self._first, self._target.columns))
                base = self._given.take(some).reshape(-1, 1)
                merge.run(picked, base, words[: len(some)], classes[begin : begin + PICKED])
        return classes.reshape(-1)


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

    def __init__(self, target: Target, floats: Floats, active: Sequence[_Active], most: int) -> None:
        self._target, self._floats, self._active = target, floats, active
        self._scratch = _Scratch(most, target, active)

    def run(self, tile: _Elements, base: Words, words: Words, classes: Words | None) -> None:
        """Predict some elements, at most `most`, into `words` and, if it is given, `classes`."""
        target, scratch, shape = self._target, self._scratch, base.shape
        bits, spare = _shaped(scratch.bits, shape), _shaped(scratch.spare, shape)
        widen(base, target.held, bits)
        last = np.full(len(bits), -1)
        for index, active in enumerate(self._active):
            part = tile.rows(active.begin, active.end)
            if part.start < part.stop:
                if index and target.held != "F32":
                    round_to(bits[part], target.held, spare[part])
                self._add(active, tile, part, shape, keep=classes is not None)
                last[part] = index
        narrow_words(bits, target.element, words, spare)
        lost = self._restore(base, bits, words)
        if classes is None:
            return
        edges = [0, *(np.flatnonzero(np.diff(last)) + 1).tolist(), len(last)]
        for begin, end in itertools.pairwise(edges):
            part = slice(begin, end)
            classes[part] = self._classes(int(last[begin]), part, shape, words[part])
        if lost is not None:
            classes[lost] = NEVER

    def _add(self, active: _Active, tile: _Elements, part: slice, shape: tuple[int, int], *, keep: bool) -> None:
        """Add one update to some rows of a tile; `keep` what classes need."""
        scratch, its = self._scratch, active.update
        bits, update, spare = (_shaped(each, shape)[part] for each in (scratch.bits, scratch.update, scratch.spare))
        product, limb = _shaped(scratch.product, shape)[part], _shaped(scratch.limb, shape)[part]
        tile.multiply(active, part, product, limb)
        self._floats.narrow(product, update)
        if its.rule.rounded is not None:
            if keep:
                raw = _shaped(scratch.raw, shape)[part]
                raw[...] = update
                if its.late_scale is not None:
                    self._floats.multiply(raw, its.late_scale)
                _shaped(scratch.under, shape)[part] = bits
            if its.late_scale is not None:
                round_to(update, its.rule.rounded, spare)
                self._floats.multiply(update, its.late_scale)
            round_to(update, its.rule.rounded, spare)
        elif keep and self._target.element == "F32":
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
