"""The updates of a prediction's stages: what every range of a tensor needs of their factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ckptfmt.encodings.factors import (
    FLOATS,
    ONE,
    WIDTHS,
    Split,
    largest_of,
    left_limbs,
    right_values,
    scale_of,
    split,
)
from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.rounding import RULES, Rule
from ckptfmt.encodings.words import Words, word_type

if TYPE_CHECKING:
    from ckptfmt.encodings.prediction import Stage

_SCAN: Final = 1 << 20
"""Elements of a factor that are looked at together."""


class Update(NamedTuple):
    """A stage of which all is known that every range needs.

    Attributes:
        begin: first row of the update.
        end: one past its last.
        transposed: whether the left factor is V's transpose, and not U.
        rows: of U or V, as it is stored.
        columns: likewise.
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
    right: Any
    split: Split
    rule: Rule
    late_scale: int | None


def prepare(stage: Stage, left: Source, right: Source) -> Update:
    """Read the right factor of a stage's product, and look at the left one.

    Raises:
        FormatError: a factor holds NaN or an infinity.
    """
    rule = RULES[stage.rule]
    given = _Factor(stage.left, stage.rows, stage.rank, left), _Factor(stage.right, stage.rank, stage.columns, right)
    outer, inner = reversed(given) if stage.transposed else given
    scale = ONE if rule.scaled_late else scale_of(stage.scale)
    parted = split((outer.element, _largest(outer)), (inner.element, _largest(inner)), stage.rank, scale)
    words = inner.words(0, inner.rows)
    values = right_values(np.ascontiguousarray(words.T) if stage.transposed else words, parted)
    end = stage.begin + (stage.columns if stage.transposed else stage.rows)
    late_scale = stage.scale if rule.scaled_late else None
    return Update(stage.begin, end, stage.transposed, outer.rows, outer.columns, values, parted, rule, late_scale)


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


def _largest(factor: _Factor) -> int:
    """The largest magnitude of integers; what floats are made of does not depend on it."""
    if factor.element in FLOATS:
        return 0
    height = max(1, _SCAN // factor.columns)
    starts = range(0, factor.rows, height)
    return max(
        largest_of(factor.words(begin, min(begin + height, factor.rows)).reshape(-1), factor.element)
        for begin in starts
    )


def limbs_of(update: Update, source: Source, begin: int, end: int) -> list[Any]:
    """The left factor of rows `begin` to `end` of the update."""
    factor = _Factor(update.split.left, update.rows, update.columns, source)
    words = factor.words_across(begin, end) if update.transposed else factor.words(begin, end)
    return left_limbs(words, update.split)
