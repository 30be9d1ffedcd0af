"""What a merged element says of the update: the interval of all updates that round to it.

An element X of a merged tensor was rounded from W + D, so W + D lay between the middles of X and its neighbours; with
W known, D lies in an interval. Where D was rounded to 16 bits first, the interval's ends move to the middles around the
outermost numbers of that type inside it. Docs: docs/design/004-recovering-factors.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from ckptfmt.encodings.words import Words
from ckptfmt.errors import InvalidInput

TYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
BYTES: Final = {"BF16": 2, "F16": 2, "F32": 4}
_INTEGERS: Final = {2: torch.int16, 4: torch.int32}
_BLOCK: Final = 1 << 19
"""Elements of a block: so many stay in the cache through all steps."""
_LEAST_ROWS: Final = 64
_CACHE_BYTES: Final = 1 << 30
"""Intervals are kept between sweeps where they take no more than this."""

RULES: Final[dict[str, torch.dtype | None]] = {
    "once": None,
    "twice-BF16": torch.bfloat16,
    "twice-F16": torch.float16,
}
"""The type an update is rounded to before it is added, by the names of `encodings.rounding.RULES`."""


def rules_for(held: str) -> tuple[str, ...]:
    """The rules by which an update can have been added to a base of type `held`, the likeliest first."""
    return tuple(RULES) if held == "F32" else ("once", f"twice-{held}")


def next_above(numbers: torch.Tensor) -> torch.Tensor:
    """The next larger number of each's own type; of the largest finite one, infinity. -0.0 must not be among them."""
    words = numbers.view(_INTEGERS[numbers.element_size()])
    # Words of floats ascend with the value from 0 on, and descend below it.
    return torch.where(words < 0, words - 1, words + 1).view(numbers.dtype)


def next_below(numbers: torch.Tensor) -> torch.Tensor:
    """The next smaller number of each's own type. -0.0 must not be among them."""
    return -next_above(-numbers + 0.0)


def interval(
    base: torch.Tensor, merged: torch.Tensor, rule: str, work: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The updates by which `base` becomes `merged`.

    Args:
        base: shape (rows, columns), of the type that was added to.
        merged: the same shape, of the type that it was rounded to at last.
        rule: a key of `RULES`.
        work: type of the result.

    Returns:
        The lowest and the highest update of each element; -inf and inf where an element is no number.
    """
    wide, exact = merged.to(work), base.to(work)
    merged = merged + 0.0
    low = next_below(merged).to(work).add_(wide).mul_(0.5).sub_(exact)
    high = next_above(merged).to(work).add_(wide).mul_(0.5).sub_(exact)
    unknown = ~(torch.isfinite(low) & torch.isfinite(high))
    rounded = RULES[rule]
    if rounded is not None:
        # A sum that lies in the middle is rounded to the even one of its neighbours, and such sums are frequent here.
        even = merged.view(_INTEGERS[merged.element_size()]) & 1 == 0
        low, high = -_last_that_rounds_below(-low, even, rounded), _last_that_rounds_below(high, even, rounded)
    if bool(unknown.any()):
        low[unknown], high[unknown] = -torch.inf, torch.inf
    return low, high


def _last_that_rounds_below(ends: torch.Tensor, inclusive: torch.Tensor, rounded: torch.dtype) -> torch.Tensor:
    """The middle between the last number of type `rounded` that is not above `ends` and the next one.

    Where `inclusive` is not set, the last number that is below `ends`.
    """
    nearest = ends.to(rounded) + 0.0
    wide = nearest.to(ends.dtype)
    beyond = (wide > ends) | ((wide == ends) & ~inclusive)
    last = torch.where(beyond, next_below(nearest), nearest) + 0.0
    return last.to(ends.dtype).add_(next_above(last).to(ends.dtype)).mul_(0.5)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Intervals of a block of rows; shape (rows, columns) each.

    Attributes:
        begin: first row.
        low: lowest updates.
        high: highest updates.
    """

    begin: int
    low: torch.Tensor
    high: torch.Tensor

    @property
    def end(self) -> int:
        """One past the last row."""
        return self.begin + len(self.low)


class Pair:
    """A base matrix and what was merged from it, as intervals of the update, block of rows after block.

    What is wider than high is read transposed: the fit keeps more for a column than for a row.
    """

    def __init__(
        self, base: Words, merged: Words, held: str, element: str, rule: str, *, device: str = "cpu", rows: Any = None
    ) -> None:
        """Take two matrices of words, which may be mapped from a file.

        Args:
            base: shape (m, n), words of type `held`.
            merged: shape (m, n), words of type `element`.
            held: a key of `TYPES`.
            element: a key of `TYPES`.
            rule: a key of `RULES`.
            device: where the fit is computed, as torch names it.
            rows: indices of the rows to look at, of the matrix as given; all where it is None.
        """
        if base.ndim != 2 or base.shape != merged.shape:
            raise InvalidInput(f"no factors can be found for tensors of shapes {base.shape} and {merged.shape}")
        if rows is not None:
            base, merged = base[rows], merged[rows]
        self.transposed = base.shape[1] > base.shape[0]
        self._base, self._merged = (base.T, merged.T) if self.transposed else (base, merged)
        self._types = TYPES[held], TYPES[element]
        self.rule = rule
        self.device = device
        self.rows, self.columns = self._base.shape
        self.work = torch.float64 if element == "F32" else torch.float32
        self._height = max(_LEAST_ROWS, min(self.rows, _BLOCK // self.columns))
        keep = 2 * self.work.itemsize * self.rows * self.columns <= _CACHE_BYTES
        self._kept: dict[int, Bounds] | None = {} if keep else None

    def begins(self) -> range:
        """First rows of all blocks."""
        return range(0, self.rows, self._height)

    def block(self, begin: int) -> Bounds:
        """The intervals of the block that begins at row `begin`."""
        if self._kept is not None and begin in self._kept:
            return self._kept[begin]
        low, high = interval(*self.numbers(begin), self.rule, self.work)
        bounds = Bounds(begin, low, high)
        if self._kept is not None:
            self._kept[begin] = bounds
        return bounds

    def numbers(self, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Base and merged elements of the block that begins at row `begin`."""
        rows = slice(begin, begin + self._height)
        base, merged = (
            torch.from_numpy(np.array(words[rows], order="C").view(f"<i{words.dtype.itemsize}"))
            .to(self.device)
            .view(kind)
            for words, kind in zip((self._base, self._merged), self._types, strict=True)
        )
        return base, merged
