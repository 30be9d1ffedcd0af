"""Predicted words, tile by tile: the base's, and the updates of every stage rounded as the merge rounded them.

A tile is small enough to stay in a core's cache with all that is computed on the way, so memory is read and written
once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import Buffer
from ckptfmt.encodings.factors import (
    ONE,
    WIDTHS,
    Split,
    largest_of,
    left_limbs,
    multiply,
    right_values,
    scale_of,
    split,
)
from ckptfmt.encodings.nearness import NEVER, Before, classes_of_sums, classes_of_updates
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.references import Cast
from ckptfmt.encodings.rounding import RULES, Floats, Rule, floats_here, narrow_words, round_to, widen
from ckptfmt.encodings.words import Words, word_type

TILE_ROWS: Final = 64
TILE: Final = 1 << 15
"""Elements of a tile."""
_SCAN: Final = 4 << 20
"""Bytes of a factor that are looked at together."""
_FULL: Final = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
"""The exponent of NaN and infinities."""


class StageLike(Protocol):
    """What is computed of a stage; see `prediction.Stage`."""

    begin: int
    rows: int
    rank: int
    columns: int
    left: str
    right: str
    scale: int
    rule: str
    transposed: bool


class PreparedStage(NamedTuple):
    """A stage of which all is known that every range needs.

    Attributes:
        begin: first row of the update.
        end: one past its last.
        left: element type of the factor whose rows are the update's: U, or V where it is transposed.
        left_index: its place among a stage's two sources.
        rows: shape of U or V as it is stored.
        right: the other factor, shape (rank, columns), float64, with the product's step.
        split: how elements become integers.
        rule: how the update is added.
        late_scale: bits of what the product is multiplied by after a rounding, or None.
    """

    begin: int
    end: int
    left: str
    left_index: int
    shape: tuple[int, int]
    right: Any
    split: Split
    rule: Rule
    late_scale: int | None


def prepare(stage: Any, left: Source, right: Source) -> PreparedStage:
    """Look at both factors of a stage, and read the right one of the product.

    Raises:
        FormatError: a factor holds NaN or an infinity.
    """
    rule = RULES[stage.rule]
    given = ((stage.left, (stage.rows, stage.rank), left), (stage.right, (stage.rank, stage.columns), right))
    outer, inner = reversed(given) if stage.transposed else given
    late = rule.scaled_late
    parted = split(
        (outer[0], _largest(*outer)), (inner[0], _largest(*inner)), stage.rank, ONE if late else scale_of(stage.scale)
    )
    element, (height, width), source = inner
    words = np.frombuffer(source(0, height * width * WIDTHS[element]), word_type(WIDTHS[element]))
    integers = parted.right.integers(words).reshape(height, width)
    values = right_values(np.ascontiguousarray(integers.T) if stage.transposed else integers, parted)
    rows = stage.columns if stage.transposed else stage.rows
    late_scale = stage.scale if late else None
    return PreparedStage(
        stage.begin, stage.begin + rows, outer[0], int(stage.transposed), outer[1], values, parted, rule, late_scale
    )


def _largest(element: str, shape: tuple[int, int], source: Source) -> int:
    length, width = shape[0] * shape[1] * WIDTHS[element], WIDTHS[element]
    return max(
        largest_of(np.frombuffer(source(begin, min(begin + _SCAN, length)), word_type(width)), element)
        for begin in range(0, length, _SCAN)
    )


def _limbs(stage: PreparedStage, source: Source, begin: int, end: int) -> list[Any]:
    """The left factor of rows `begin` to `end` of the update."""
    width, (height, across) = WIDTHS[stage.left], stage.shape
    if stage.left_index:
        parts = [source((row * across + begin) * width, (row * across + end) * width) for row in range(height)]
        words = np.frombuffer(b"".join(parts), word_type(width)).reshape(height, end - begin).T
    else:
        given = source(begin * across * width, end * across * width)
        words = np.frombuffer(given, word_type(width)).reshape(end - begin, across)
    shape = words.shape
    return left_limbs(stage.split.left.integers(words.reshape(-1)).reshape(shape), stage.split)


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
    """A stage in a range.

    Attributes:
        stage: it.
        begin: first row of the tensor in the range to which it adds.
        end: one past the last.
        limbs: the left factor of these rows.
    """

    stage: PreparedStage
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
        rounds = tile if any(each.stage.rule.rounded for each in active) else 0
        limbs = tile if any(each.stage.split.limbs > 1 for each in active) else 0
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
    base: Buffer, first: int, target: Target, stages: Sequence[PreparedStage], sources: Sequence[Source]
) -> tuple[Words, Words]:
    """Predict the elements from `first` on, as many as `base` has.

    Args:
        base: words of the held type.
        first: index of the first element in the tensor.
        target: what is predicted.
        stages: what is added.
        sources: U and V of each stage.

    Returns:
        Words of type `element`, and their classes.
    """
    keep_freed_memory()
    columns = target.columns
    given = np.frombuffer(base, word_type(WIDTHS[target.held]))
    words, classes = np.empty(len(given), word_type(WIDTHS[target.element])), np.empty(len(given), np.uint8)
    last = first + len(given)
    begin, end = first // columns, -(-last // columns)
    active: list[_Active] = []
    for index, stage in enumerate(stages):
        low, high = max(begin, stage.begin), min(end, stage.end)
        if low < high:
            source = sources[2 * index + stage.left_index]
            active.append(_Active(stage, low, high, _limbs(stage, source, low - stage.begin, high - stage.begin)))
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
    return np.lib.stride_tricks.as_strided(flat, shape, (columns * width, width))


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
        scratch, stage = self._scratch, active.stage
        bits, update, spare = (_shaped(each, shape)[part] for each in (scratch.bits, scratch.update, scratch.spare))
        product, limb = _shaped(scratch.product, shape)[part], _shaped(scratch.limb, shape)[part]
        multiply([each[rows] for each in active.limbs], stage.right[:, tile.column : tile.stop], product, limb)
        self._floats.narrow(product, update)
        if stage.rule.rounded is not None:
            raw = _shaped(scratch.raw, shape)[part]
            raw[...] = update
            if stage.late_scale is not None:
                self._floats.multiply(raw, stage.late_scale)
                round_to(update, stage.rule.rounded, spare)
                self._floats.multiply(update, stage.late_scale)
            round_to(update, stage.rule.rounded, spare)
            _shaped(scratch.under, shape)[part] = bits
        elif self._target.element == "F32":
            _shaped(scratch.exact, shape)[part] = self._floats.sums64(bits, update)
        self._floats.add(bits, update)

    def _classes(self, index: int, part: slice, shape: tuple[int, int], words: Words) -> Words | int:
        """Classes of some rows of a tile, to which the update `index` was added last; -1: none."""
        if index < 0:
            return NEVER
        scratch, target, rounded = self._scratch, self._target, self._active[index].stage.rule.rounded
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
