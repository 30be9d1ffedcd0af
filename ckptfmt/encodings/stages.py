"""Predicted words, tile by tile: the base's, and the updates of every stage rounded as the merge rounded them.

A tile is small enough to stay in a core's cache with all that is computed on the way, so memory is read and written
once.
"""

from __future__ import annotations

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
from ckptfmt.encodings.nearness import NEVER, classes_of_sums
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


class _Scratch:
    """Arrays that every tile of a range uses again."""

    def __init__(self, tile: int, limbs: int) -> None:
        self._bits, self._update, self._spare = (np.empty(tile, np.uint32) for _ in range(3))
        self._product = np.empty(tile, np.float64)
        self._limb = np.empty(tile if limbs > 1 else 0, np.float64)

    def of(self, rows: int, columns: int) -> tuple[Words, Words, Words, Any, Any]:
        """bits, update, spare, product and limb, shaped as a tile."""
        every = self._bits, self._update, self._spare, self._product, self._limb
        bits, update, spare, product, limb = (
            each[: rows * columns].reshape(rows, columns) if len(each) else each for each in every
        )
        return bits, update, spare, product, limb


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows and columns of the tensor."""

    row: int
    end: int
    column: int
    stop: int


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
    active = []
    for index, stage in enumerate(stages):
        low, high = max(begin, stage.begin), min(end, stage.end)
        if low < high:
            source = sources[2 * index + stage.left_index]
            active.append((stage, low, high, _limbs(stage, source, low - stage.begin, high - stage.begin)))
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

    def __init__(self, target: Target, floats: Floats, active: list[tuple[PreparedStage, int, int, list[Any]]]) -> None:
        self._held, self._element, self._noise = target.held, target.element, target.noise
        self._floats, self._active = floats, active
        self._scratch = _Scratch(TILE, max((stage.split.limbs for stage, *_ in active), default=1))

    def run(self, tile: _Tile, base: Words, words: Words, classes: Words) -> None:
        """Predict one tile into `words` and `classes`."""
        bits, update, spare, product, limb = self._scratch.of(tile.end - tile.row, tile.stop - tile.column)
        widen(base, self._held, bits)
        sums: Any = bits
        exact = np.zeros(bits.shape) if self._element == "F32" else None
        touched = np.zeros(len(bits), np.bool_)
        for stage, low, high, limbs in self._active:
            begin, end = max(low, tile.row), min(high, tile.end)
            if begin >= end:
                continue
            part = slice(begin - tile.row, end - tile.row)
            if touched.any():
                round_to(bits[part], self._held, spare[part])
            cut = [each[begin - low : end - low] for each in limbs]
            multiply(cut, stage.right[:, tile.column : tile.stop], product[part], limb[part])
            self._update(stage, product[part], update[part], spare[part])
            if exact is not None:
                exact[part] = self._floats.sums64(bits[part], update[part])
            self._floats.add(bits[part], update[part])
            touched[part] = True
        narrow_words(bits, self._element, words, spare)
        self._restore(base, bits, words)
        if exact is not None:
            sums = exact
        classes[...] = classes_of_sums(sums, words, self._element, self._noise)
        classes[~touched] = NEVER
        classes[self._full(words)] = NEVER

    def _update(self, stage: PreparedStage, product: Any, update: Words, spare: Words) -> None:
        self._floats.narrow(product, update)
        rule = stage.rule
        if rule.rounded is None:
            return
        round_to(update, rule.rounded, spare)
        if stage.late_scale is not None:
            self._floats.multiply(update, stage.late_scale)
            round_to(update, rule.rounded, spare)

    def _full(self, words: Words) -> Any:
        full = words.dtype.type(_FULL[self._element])
        return (words & full) == full

    def _restore(self, base: Words, bits: Words, words: Words) -> None:
        """Where a sum is not finite, the word is the base's own."""
        if self._held != self._element:
            full = np.uint32(_FULL["F32"])
            words[(bits & full) == full] = _FULL[self._element]
        lost = self._full(words)
        if not lost.any():
            return
        own = base[lost]
        if self._held != self._element:
            cast, taken = Cast(self._held, self._element), own.tobytes()
            given = cast.read(lambda begin, end: taken[begin:end], 0, len(own) * WIDTHS[self._element])
            own = np.frombuffer(given, words.dtype)
        words[lost] = own
