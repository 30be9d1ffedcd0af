"""The updates of a prediction's stages: what every range of a tensor needs of their factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ckptfmt.encodings.factors import (
    FACTOR_TYPES,
    ONE,
    WIDTHS,
    FactorType,
    Split,
    largest_of,
    left_limbs,
    right_values,
    scale_of,
    split,
)
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.rounding import RULES, Rule
from ckptfmt.encodings.stage import Stage
from ckptfmt.encodings.words import Words, word_type


class Update(NamedTuple):
    """A stage of which all is known that every range needs.

    Attributes:
        begin: first row of the update.
        end: one past its last.
        transposed: whether the left factor is V's transpose, and not U.
        rows: of U or V, as it is stored.
        columns: likewise.
        left: how the left factor is read.
        right: the right factor, shape (rank, columns of the update), float64.
        split: how elements become integers.
        rule: how the update is added.
        late_scale: bits of what the product is multiplied by after a rounding, or None.
    """

    begin: int
    end: int
    transposed: bool
    rows: int
    columns: int
    left: FactorType
    right: Any
    split: Split
    rule: Rule
    late_scale: int | None


def read_right(stage: Stage, left: Source, right: Source) -> Words:
    """The right factor of a stage's product, as it is stored: V, or U where the product is transposed."""
    if stage.form == "transposed":
        return _Factor(FACTOR_TYPES[stage.left].stored, stage.rows, stage.rank, left).words(0, stage.rows)
    rows, columns = (stage.columns, stage.rank) if stage.form == "across" else (stage.rank, stage.columns)
    return _Factor(FACTOR_TYPES[stage.right].stored, rows, columns, right).words(0, rows)


def prepare(stage: Stage, words: Words) -> Update:
    """Make the right factor of a stage's product, as `read_right` gives it, into numbers.

    Raises:
        FormatError: it holds NaN or an infinity.
    """
    rule = RULES[stage.rule]
    scale = ONE if rule.scaled_late else scale_of(stage.scale)
    types = FACTOR_TYPES[stage.left], FACTOR_TYPES[stage.right]
    transposed = stage.form == "transposed"
    outer, inner = types[::-1] if transposed else types
    rows, columns = (stage.rank, stage.columns) if transposed else (stage.rows, stage.rank)
    words = inner.numbers(words)
    parted = split(outer.read, (inner.read, largest_of(words, inner.read)), stage.rank, scale)
    values = right_values(words if stage.form == "product" else np.ascontiguousarray(words.T), parted)
    end = stage.begin + (columns if transposed else rows)
    late_scale = stage.scale if rule.scaled_late else None
    return Update(stage.begin, end, transposed, rows, columns, outer, values, parted, rule, late_scale)


class _Factor(NamedTuple):
    element: str
    rows: int
    columns: int
    source: Source

    def words(self, begin: int, end: int) -> Words:
        """Rows from `begin` to `end`."""
        width = WIDTHS[self.element]
        given = self.source(begin * self.columns * width, end * self.columns * width)
        return np.frombuffer(given, word_type(width)).reshape(end - begin, self.columns)

    def words_across(self, begin: int, end: int) -> Words:
        """Columns from `begin` to `end`, as rows."""
        width, line = WIDTHS[self.element], self.columns
        parts = [self.source((row * line + begin) * width, (row * line + end) * width) for row in range(self.rows)]
        joined = np.frombuffer(b"".join(parts), word_type(width)).reshape(self.rows, end - begin)
        return np.ascontiguousarray(joined.T)


def limbs_of(update: Update, source: Source, begin: int, end: int) -> list[Any]:
    """The left factor of rows `begin` to `end` of the update."""
    factor = _Factor(update.left.stored, update.rows, update.columns, source)
    words = factor.words_across(begin, end) if update.transposed else factor.words(begin, end)
    return left_limbs(update.left.numbers(words), update.split)
