"""Real factors whose product lies within the intervals: an ordered logit, by Newton's method on rows and columns.

The model: an element's interval [l, h] was hit by u·v + s·noise, the noise logistic. With s at the size of the
product's error, the negative log-likelihood is what storing the element's residual costs. It is convex in the rows of U
while V stands still, and in the columns of V while U does. s starts at the error of a singular value decomposition of
the middles and follows the error down. Sources and formulas: docs/design/004-recovering-factors.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from ckptfmt.optimize.intervals import Bounds, Pair

_OVERSAMPLED: Final = 8
_POWER_ROUNDS: Final = 2
_GROWTH_ROUNDS: Final = 3
_STANDS_OUT: Final = 1.1
_DAMPING: Final = 1e-3
_SCALE: Final = 0.6
"""Scale of the logistic, in standard deviations of the error: one of the same spread has 0.55."""
_MEDIAN_EXCESS: Final = 0.495
"""How far beyond a boundary errors lead that cross one, in their median, in standard deviations of all errors."""


@dataclass(frozen=True, slots=True)
class Misses:
    """How a product misses the intervals.

    Attributes:
        share: elements outside their interval, of all.
        error: standard deviation of the product's error that they tell of.
    """

    share: float
    error: float


class Fit:
    """Factors of a pair's update: `left`, shape (rows, rank), times `right`, shape (rank, columns)."""

    def __init__(self, pair: Pair, rank: int, *, seed: int = 0) -> None:
        """Start from singular vectors of the interval's middles.

        Args:
            pair: the intervals.
            rank: columns of U.
            seed: of the random start.
        """
        self.pair = pair
        self._set_rank(rank)
        self._random = torch.Generator(pair.device).manual_seed(seed)
        self.left, self.right = self._start()

    def _start(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Randomized subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4) on the shrunk middles."""
        pair = self.pair
        width = min(self.rank + _OVERSAMPLED, pair.rows, pair.columns)
        variance = statistics.fmean(
            float(_known_middle(bounds).square_().mean(dtype=torch.float64)) for bounds in self._few_blocks()
        )
        found = torch.randn(pair.columns, width, generator=self._random, device=pair.device, dtype=pair.work)
        for _ in range(_POWER_ROUNDS):
            found = torch.linalg.qr(found).Q
            _, found = self._multiplied(found, variance)
        found = torch.linalg.qr(found).Q
        images, _ = self._multiplied(found, variance)
        vectors, values, rotated = torch.linalg.svd(images, full_matrices=False)
        roots = values[: self.rank].clamp_min(torch.finfo(pair.work).tiny).sqrt()
        left = torch.zeros(pair.rows, self.rank, device=pair.device, dtype=pair.work)
        right = torch.zeros(self.rank, pair.columns, device=pair.device, dtype=pair.work)
        kept = len(roots)
        left[:, :kept] = vectors[:, : self.rank] * roots
        right[:kept] = (rotated[: self.rank] @ found.T) * roots[:, None]
        return left, right

    def _multiplied(self, vectors: torch.Tensor, variance: float) -> tuple[torch.Tensor, torch.Tensor]:
        """M·vectors and M'·M·vectors, of the middles M, each shrunk as far as its interval is wide."""
        # Small arrays that stay, made between large ones that go, would leave holes in the heap: they are made before.
        images = torch.empty(self.pair.rows, vectors.shape[1], device=vectors.device, dtype=vectors.dtype)
        back = torch.zeros_like(vectors)
        for begin in self.pair.begins():
            bounds = self.pair.block(begin)
            width = bounds.high - bounds.low
            middles = _known_middle(bounds)
            middles *= variance / (width.square_().div_(12).add_(max(variance, 1e-300)))
            torch.matmul(middles, vectors, out=images[begin : bounds.end])
            back.addmm_(middles.T, images[begin : bounds.end])
        return images, back

    def sweep(self, scale: float) -> Misses:
        """One Newton step for every row of U, then one for every column of V.

        Args:
            scale: s of the logistic noise, in the update's units.

        Returns:
            How U, moved, and V, not yet, miss.
        """
        pair = self.pair
        products = self._products(self.right.T)
        hessian = torch.zeros(pair.columns, len(self._first), device=pair.device, dtype=pair.work)
        gradient = torch.zeros(pair.columns, self.rank, device=pair.device, dtype=pair.work)
        tally = _Tally()
        for begin in pair.begins():
            bounds = pair.block(begin)
            rows = self.left[begin : bounds.end]
            slopes, curves = _terms(rows @ self.right, bounds, scale)
            rows -= self._newton(curves @ products, slopes @ self.right.T, scale)
            update = rows @ self.right
            tally.add(update, bounds)
            slopes, curves = _terms(update, bounds, scale)
            hessian.addmm_(curves.T, self._products(rows))
            gradient.addmm_(slopes.T, rows)
        self.right -= self._newton(hessian, gradient, scale).T
        return tally.misses(pair.rows * pair.columns)

    def misses(self) -> Misses:
        """How the product misses, in blocks at the beginning, in the middle and at the end."""
        tally, count = _Tally(), 0
        for bounds in self._few_blocks():
            tally.add(self.left[bounds.begin : bounds.end] @ self.right, bounds)
            count += bounds.low.numel()
        return tally.misses(count)

    def _few_blocks(self) -> Iterator[Bounds]:
        begins = self.pair.begins()
        for index in sorted({0, len(begins) // 2, len(begins) - 1}):
            yield self.pair.block(begins[index])

    def refit(self, rows: torch.Tensor, right: torch.Tensor, bounds: Bounds, scale: float) -> torch.Tensor:
        """One Newton step for some rows of U, against any V."""
        slopes, curves = _terms(rows @ right, bounds, scale)
        return rows - self._newton(curves @ self._products(right.T), slopes @ right.T, scale)

    def grow(self, scale: float, most: int) -> int:
        """Add what the intervals still pull towards: singular vectors of all slopes that stand out of their noise.

        Noise has no singular value above the largest norm of a row and of a column together.

        Args:
            scale: s of the logistic noise.
            most: columns of U to add at most.

        Returns:
            How many were added.
        """
        pair = self.pair
        found = torch.randn(pair.columns, most + 4, generator=self._random, device=pair.device, dtype=pair.work)
        values, edge = torch.zeros(0), 0.0
        for _ in range(_GROWTH_ROUNDS):
            found = torch.linalg.qr(found).Q
            back, squares, highest = torch.zeros_like(found), torch.zeros_like(found[:, 0]), 0.0
            for begin in pair.begins():
                bounds = pair.block(begin)
                slopes, _ = _terms(self.left[begin : bounds.end] @ self.right, bounds, scale)
                back.addmm_(slopes.T, slopes @ found)
                slopes.square_()
                squares += slopes.sum(0)
                highest = max(highest, float(slopes.sum(1).max()))
            edge = math.sqrt(highest) + math.sqrt(float(squares.max()))
            found, values, _ = torch.linalg.svd(back, full_matrices=False)
        added = int((values[:most].sqrt() > _STANDS_OUT * edge).sum())
        if added:
            rms = float(self.right.square().mean().sqrt())
            new = found[:, :added].T * (rms * math.sqrt(pair.columns))
            self.left = torch.cat((self.left, torch.zeros_like(self.left[:, :1]).expand(-1, added)), 1)
            self.right = torch.cat((self.right, new))
            self._set_rank(self.rank + added)
        return added

    def keep(self, rank: int) -> None:
        """Leave all but the strongest directions out."""
        left, right, _ = balanced(self.left, self.right)
        self.left, self.right = left[:, :rank].to(self.pair.work), right[:rank].to(self.pair.work)
        self._set_rank(rank)

    def _set_rank(self, rank: int) -> None:
        self.rank = rank
        self._first, self._second = torch.triu_indices(rank, rank, device=self.pair.device)

    def _products(self, vectors: torch.Tensor) -> torch.Tensor:
        """Of each row, the products of any two elements: a row of the upper triangle of its outer product."""
        return vectors[:, self._first] * vectors[:, self._second]

    def _newton(self, hessian: torch.Tensor, gradient: torch.Tensor, scale: float) -> torch.Tensor:
        """Steps, shape (count, rank), for as many packed Hessians; both are given without their powers of 1/scale."""
        full = torch.empty(len(hessian), self.rank, self.rank, device=hessian.device, dtype=hessian.dtype)
        full[:, self._first, self._second] = hessian
        full[:, self._second, self._first] = hessian
        diagonal = full.diagonal(dim1=1, dim2=2)
        # Of each direction on its own: the weak ones would hardly move.
        diagonal += _DAMPING * diagonal.mean(0) + torch.finfo(hessian.dtype).tiny * 1e6
        factor, failed = torch.linalg.cholesky_ex(full)
        steps = torch.cholesky_solve(gradient.unsqueeze(2), factor).squeeze(2)
        steps[(failed > 0) | ~torch.isfinite(steps).all(1)] = 0
        return scale * steps


def next_scale(misses: Misses, floor: float) -> float:
    """The scale for the next sweep: the error that the misses tell of, and never below `floor`."""
    return max(_SCALE * misses.error, floor)


def misses_of(update: torch.Tensor, bounds: Bounds) -> Misses:
    """How an update misses the intervals of a block."""
    tally = _Tally()
    tally.add(update, bounds)
    return tally.misses(update.numel())


class _Tally:
    """Counts of misses over blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._excess = 0.0

    def add(self, update: torch.Tensor, bounds: Bounds) -> None:
        beyond = torch.maximum(update - bounds.high, bounds.low - update)
        missed = beyond[beyond > 0]
        if len(missed):
            self._count += len(missed)
            # The median, for a few rows may be far off that are not found yet.
            self._excess += len(missed) * float(missed.median())

    def misses(self, count: int) -> Misses:
        if not self._count:
            return Misses(0.0, 0.0)
        return Misses(self._count / count, self._excess / self._count / _MEDIAN_EXCESS)


def _known_middle(bounds: Bounds) -> torch.Tensor:
    """Middles of the intervals, 0 where they are infinite."""
    middles = (bounds.low + bounds.high).mul_(0.5)
    return middles.nan_to_num_(0.0, 0.0, 0.0)


def _terms(update: torch.Tensor, bounds: Bounds, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """First derivative of every element's loss times scale, and a curvature times scale squared.

    The loss is -log(F((h - d)/s) - F((l - d)/s)), F the logistic function. Its derivative is F(a) - F(b), where
    a = (d - h)/s and b = (l - d)/s; its second one F(a)F(-a) + F(b)F(-b). Beyond a boundary that one vanishes and a
    Newton step would fly off: there the curvature is at least F(a)/(2a), of the parabola that bounds the loss from
    above.
    """
    above = (update - bounds.high).div_(scale)
    below = torch.sub(bounds.low, update, out=update).div_(scale)
    slopes, curves = _logistic(above)
    other, curvature = _logistic(below)
    return slopes.sub_(other), curves.add_(curvature)


def _logistic(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """F(x), and F(x)·max(F(-x), 1/(2 max(x, 1))). `at` is used up."""
    value = torch.sigmoid(at)
    curve = at.clamp_min_(1).reciprocal_().mul_(0.5)
    torch.maximum(curve, 1 - value, out=curve)
    return value, curve.mul_(value)


def balanced(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same product with orthogonal columns and rows of equal norms, float64, and its singular values.

    Returns:
        U sqrt(S), sqrt(S) V, and S, descending.
    """
    outer, inner = torch.linalg.qr(left.double())
    outer_right, inner_right = torch.linalg.qr(right.double().T)
    rotation, values, rotation_right = torch.linalg.svd(inner @ inner_right.T)
    roots = values.sqrt()
    return outer @ rotation * roots, (rotation_right @ outer_right.T) * roots[:, None], values


def rms_of(values: torch.Tensor, count: int) -> float:
    """Root of the mean square of a product's elements, from its singular values."""
    return math.sqrt(float(values.square().sum()) / count)
