"""Factors as integers: as coarse as makes factors and residual together smallest.

Each doubling of the product's step saves half a bit for every element of U and V and doubles what the product is off,
and so the residual. Steps of both factors are equal when their columns and rows have equal norms: then the longer
factor, of which there is more to store, has the smaller integers, which is where the size is least
(docs/design/004-recovering-factors.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from ckptfmt.optimize.fitting import Fit, balanced, misses_of, next_scale
from ckptfmt.optimize.intervals import Bounds, Pair

SAMPLE_ROWS: Final = 512
_CLASSES: Final = 40
_FINEST: Final = 0.25
"""Classes are of distances from a boundary; each reaches so many times further, in octaves."""
_LARGEST: Final = 30
"""Bits of an integer; the encoding takes 31 and a sign."""
_NARROW: Final = 15
_LISTS: Final = 1.2
"""What the encoding's lists of changes take, in entropies."""
_REFIT: Final = 0.5
_CODER: Final = 0.08
"""Bits an integer takes beyond its entropy."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Factors as integers: the update is `left` x `right` x 2^`exponent`.

    Attributes:
        left: shape (rows, rank), float64 that holds integers.
        right: shape (rank, columns), likewise.
        exponent: binary logarithm of the product's step.
    """

    left: torch.Tensor
    right: torch.Tensor
    exponent: int

    @property
    def rank(self) -> int:
        """Columns of U."""
        return self.left.shape[1]

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(float(self.left.abs().max()), float(self.right.abs().max()))

    @property
    def error(self) -> float:
        """Standard deviation of what rounding the factors changes in the product."""
        square = float(self.left.square().mean()) + float(self.right.square().mean())
        return math.ldexp(math.sqrt(self.rank * square / 12), self.exponent)

    def update(self, begin: int, end: int, work: torch.dtype) -> torch.Tensor:
        """Rows of the product, exact but for the rounding to `work`."""
        return (self.left[begin:end] @ self.right).mul_(math.ldexp(1.0, self.exponent)).to(work)

    def bits(self) -> float:
        """What both factors take, estimated: normally distributed integers in every column of U and row of V."""
        deviations = torch.cat((self.left.T.std(1, correction=0), self.right.std(1, correction=0)))
        counts = [len(self.left)] * self.left.shape[1] + [self.right.shape[1]] * len(self.right)
        pairs = zip(counts, deviations.tolist(), strict=True)
        return sum(count * (_CODER + _entropy(deviation)) for count, deviation in pairs)


def _entropy(deviation: float) -> float:
    """Bits of a normally distributed number that is rounded to an integer."""
    if deviation > 1:
        return math.log2(deviation * math.sqrt(2 * math.pi * math.e))
    return 2.1 * deviation


def rounded(left: torch.Tensor, right: torch.Tensor, exponent: int) -> Integers:
    """Round balanced factors, so that the product's step is 2^`exponent`."""
    unit = math.sqrt(math.ldexp(1.0, exponent))
    return Integers((left / unit).round_(), (right / unit).round_(), exponent)


def residual_bits(update: torch.Tensor, bounds: Bounds, error: float) -> float:
    """What storing the elements takes that `update` predicts wrongly, all of a block together.

    Elements are classed by their distance from the nearest boundary, which a decoder knows; in each class, which
    ones are on the wrong side of it takes their entropy. Those that are further off than one interval's width take a
    number as well.

    Args:
        update: shape (rows, columns).
        bounds: theirs.
        error: how far the update may be off; the unit of the classes.
    """
    inside = torch.minimum(update - bounds.low, bounds.high - update)
    wrong = inside < 0
    missed = inside[wrong].neg_()
    steps = 1 + missed / (bounds.high - bounds.low)[wrong].clamp_min_(torch.finfo(update.dtype).tiny)
    distance = inside.abs_().nan_to_num_(posinf=1e30).div_(error).clamp_(1e-9, 1e30).log2_()
    classes = distance.div_(_FINEST).add_(_CLASSES / 2).clamp_(0, _CLASSES - 1).to(torch.int64)
    total = torch.bincount(classes.flatten(), minlength=_CLASSES).double()
    failed = torch.bincount(classes[wrong], minlength=_CLASSES).double()
    share = (failed / total.clamp_min(1)).clamp_(1e-12, 1 - 1e-12)
    entropy = -(failed * share.log2() + (total - failed) * (1 - share).log2()).sum()
    far = steps[steps > 2].double().log2_().mul_(2)
    return _LISTS * float(entropy + far.sum())


@dataclass(frozen=True, slots=True)
class Choice:
    """How factors are rounded, and what it will take.

    Attributes:
        integers: the factors.
        factor_bits: of the factors.
        residual_bits: of all that is predicted wrongly, estimated from a sample.
    """

    integers: Integers
    factor_bits: float
    residual_bits: float

    @property
    def bits(self) -> float:
        """Both together."""
        return self.factor_bits + self.residual_bits


def choose_step(fit: Fit, exponent: int | None = None) -> Choice | None:
    """Find the step by which factors and residual take least.

    Args:
        fit: the factors.
        exponent: where to start; a guess is made where it is None.

    Returns:
        None where no step leads to integers that can be stored.
    """
    left, right, values = balanced(fit.left, fit.right)
    if not float(values[0]) > 0:
        return None
    if exponent is None:
        pair = fit.pair
        exponent = math.floor(math.log2(float(values.mean()) / math.sqrt(pair.rows * pair.columns))) - 18
    sample = sample_of(fit.pair)
    tried: dict[int, Choice | None] = {}

    def bits(at: int) -> float:
        if at not in tried:
            tried[at] = _measured(fit, rounded(left, right, at), sample)
        found = tried[at]
        return math.inf if found is None else found.bits

    while math.isinf(bits(exponent)) and len(tried) < 2 * _LARGEST:
        exponent += 1
    for direction in (-1, 1):
        while bits(exponent + direction) < bits(exponent):
            exponent += direction
    return _pruned(fit, tried[exponent], sample)


def _pruned(fit: Fit, choice: Choice | None, sample: list[Bounds]) -> Choice | None:
    """Leave the weakest directions out as long as that takes less; the last ones are the weakest."""
    while choice is not None and choice.integers.rank > 1:
        integers = choice.integers
        fewer = _measured(fit, Integers(integers.left[:, :-1], integers.right[:-1], integers.exponent), sample)
        if fewer is None or fewer.bits > choice.bits:
            break
        choice = fewer
    return choice


def sample_of(pair: Pair) -> list[Bounds]:
    """Blocks spread over the matrix, of about `SAMPLE_ROWS` rows together where it has so many."""
    begins = pair.begins()
    count = min(len(begins), max(2, SAMPLE_ROWS // begins.step))
    return [pair.block(begins[index * (len(begins) - 1) // max(count - 1, 1)]) for index in range(count)]


def sampled_bits(fit: Fit, pair: Pair, steps: int) -> float:
    """What the residual of some rows takes by the rule of `pair`, U fitted to that rule again.

    Args:
        fit: the factors, found by another rule perhaps.
        pair: the intervals by this rule.
        steps: of Newton's method for each row.
    """
    total = 0.0
    for bounds in sample_of(pair):
        rows = fit.left[bounds.begin : bounds.end]
        misses = misses_of(rows @ fit.right, bounds)
        for _ in range(steps):
            if misses.error > 0:
                rows = fit.refit(rows, fit.right, bounds, next_scale(misses, 0.0))
                misses = misses_of(rows @ fit.right, bounds)
        if misses.error > 0:
            total += residual_bits(rows @ fit.right, bounds, misses.error)
    return total


def refined(fit: Fit, choice: Choice) -> Choice:
    """Fit U once more, against V as it was rounded, and round it: that makes up for a part of V's error."""
    integers, work = choice.integers, fit.pair.work
    if integers.rank != fit.rank:
        return choice
    unit = math.sqrt(math.ldexp(1.0, integers.exponent))
    right = (integers.right * unit).to(work)
    left = torch.empty_like(integers.left)
    for begin in fit.pair.begins():
        bounds = fit.pair.block(begin)
        rows = (integers.left[begin : bounds.end] * unit).to(work)
        moved = fit.refit(rows, right, bounds, _REFIT * integers.error)
        left[begin : bounds.end] = moved.double().div_(unit).round_()
    found = _measured(fit, Integers(left, integers.right, integers.exponent), sample_of(fit.pair))
    return found if found is not None and found.bits < choice.bits else choice


def _measured(fit: Fit, integers: Integers, sample: list[Bounds]) -> Choice | None:
    if integers.largest >= 1 << _LARGEST:
        return None
    work = fit.pair.work
    residual = sum(
        residual_bits(integers.update(bounds.begin, bounds.end, work), bounds, integers.error) for bounds in sample
    )
    seen = sum(bounds.low.numel() for bounds in sample)
    return Choice(integers, integers.bits(), residual * fit.pair.rows * fit.pair.columns / seen)
