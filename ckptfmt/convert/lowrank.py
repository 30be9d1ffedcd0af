"""Factoring an update: the lowest rank at which base plus product is the tuned tensor, as far as its dtype can tell.

A tuned tensor is known to half a step of its dtype either way, so its update is known as an interval for each element.
What counts as error is what a product leaves *outside* the intervals: rounding that any product would meet alike is
none. For fp32 that is, but for the last bits, the plain Frobenius error of the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

EXACT_SIDE: Final = 768
"""Up to this smaller side the whole decomposition is computed; beyond, as many singular vectors as are needed."""

_FIRST_RANK: Final = 64
_POWER_ROUNDS: Final = 3
_ROUNDS: Final = 200
_EXACT_ROUNDS: Final = 20
_PATIENCE: Final = 40
_RELAXATION: Final = 1.6
_EDGE: Final = 1.05
_PRECISION: Final = {torch.bfloat16: (8, -125), torch.float16: (11, -13), torch.float32: (24, -125)}
"""Bits of the significand, and the exponent (as `frexp` counts) below which steps stay the same."""


@dataclass(frozen=True, slots=True)
class Factors:
    """An update as a product.

    Attributes:
        left: B, fp32, shape (out, rank).
        right: A, fp32, shape (rank, in).
        error: Frobenius norm of what lies outside the intervals, over that of the update.
    """

    left: torch.Tensor
    right: torch.Tensor
    error: float

    @property
    def rank(self) -> int:
        """Number of columns of `left`."""
        return self.left.shape[1]


def factorize(base: torch.Tensor, tuned: torch.Tensor, tolerance: float | None) -> Factors | None:
    """The update from `base` to `tuned` at the smallest rank that reaches the tolerance.

    Args:
        base: shape (out, in), floating point.
        tuned: the same shape; its dtype decides how exactly the update is known.
        tolerance: largest error, as `Factors.error`; None: adding the product to `base` gives the bits of `tuned`.

    Returns:
        The factors; None where no rank that saves anything reaches it: the update is not of low rank.
    """
    update = tuned.float() - base.float()
    most = most_rank(*update.shape)
    size = float(torch.linalg.vector_norm(update))
    if most < 1 or not math.isfinite(size) or not size:
        return None
    task = _Task(base, tuned, update, half_steps(tuned), size, tolerance)
    count = min(_FIRST_RANK, most)
    while True:
        vectors = _decompose(update, count)
        found = _smallest(task, vectors, most)
        if found is not None:
            return found
        if vectors.is_whole or count >= most or task.is_noise(vectors):
            return None
        count = min(4 * count, most)


def most_rank(out: int, into: int) -> int:
    """The largest rank whose factors are smaller than the tensor."""
    return (out * into - 1) // (out + into)


def half_steps(tensor: torch.Tensor) -> torch.Tensor:
    """Half the distance to the next value of a tensor's dtype, for each element, in fp32."""
    bits, least = _PRECISION.get(tensor.dtype, _PRECISION[torch.float32])
    exponent = torch.frexp(tensor.float()).exponent.clamp_(min=least)
    return torch.exp2((exponent - bits - 1).float())


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Singular vectors and values, the largest first; `is_whole` if those are all."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    is_whole: bool

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        root = self.values[:rank].sqrt()
        return (self.left[:, :rank] * root).contiguous(), (root[:, None] * self.right[:rank]).contiguous()


def _decompose(update: torch.Tensor, count: int) -> _Vectors:
    """The exact decomposition of a small update; of a large one, `count` vectors by power iteration on a random start.

    Source: Halko, Martinsson, Tropp, "Finding structure with randomness", algorithms 4.4 and 5.1.
    """
    if min(update.shape) <= EXACT_SIDE:
        left, values, right = torch.linalg.svd(update, full_matrices=False)
        return _Vectors(left, values, right, is_whole=True)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(update.shape[1], min(count + 16, *update.shape), generator=generator)
    basis = torch.linalg.qr(update @ start).Q
    for _ in range(_POWER_ROUNDS):
        basis = torch.linalg.qr(update @ torch.linalg.qr(update.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ update, full_matrices=False)
    return _Vectors((basis @ left)[:, :count], values[:count], right[:count], is_whole=False)


@dataclass(frozen=True, slots=True)
class _Task:
    base: torch.Tensor
    tuned: torch.Tensor
    update: torch.Tensor
    half: torch.Tensor
    size: float
    tolerance: float | None

    def edge(self) -> float:
        """The largest singular value that rounding alone would have (Marchenko-Pastur)."""
        rms = float(self.half.square().mean().sqrt()) / math.sqrt(3)
        return _EDGE * rms * (math.sqrt(self.update.shape[0]) + math.sqrt(self.update.shape[1]))

    def is_noise(self, vectors: _Vectors) -> bool:
        """Whether the last vectors found are rounding already, so that more of them would be too."""
        return bool(vectors.values[-1] < self.edge())

    def outside(self, product: torch.Tensor) -> float:
        """`Factors.error` of a product."""
        beyond = (product - self.update).abs_().sub_(self.half).clamp_(min=0)
        return float(torch.linalg.vector_norm(beyond)) / self.size

    def accepts(self, left: torch.Tensor, right: torch.Tensor) -> bool:
        """Whether a product is exact enough."""
        product = left @ right
        if self.tolerance is not None:
            return self.outside(product) <= self.tolerance
        return torch.equal((self.base + product).to(self.tuned.dtype), self.tuned)


def _smallest(task: _Task, vectors: _Vectors, most: int) -> Factors | None:
    """The smallest accepted rank: as decomposed; or, where rounding hides it, at the rank that stands out of it."""
    highest = min(len(vectors.values), most)
    signal = min(int((vectors.values > task.edge()).sum()), highest)
    if signal and task.accepts(*vectors.factors(signal)):
        return _factors(task, vectors, _bisect(lambda rank: task.accepts(*vectors.factors(rank)), 1, signal))
    if signal:
        refined = _refine(task, *vectors.factors(signal))
        if refined is not None:
            return refined
    if task.tolerance is not None and highest > signal and task.accepts(*vectors.factors(highest)):
        accepted = _bisect(lambda rank: task.accepts(*vectors.factors(rank)), signal + 1, highest)
        return _factors(task, vectors, accepted)
    return None


def _factors(task: _Task, vectors: _Vectors, rank: int) -> Factors:
    left, right = vectors.factors(rank)
    return Factors(left, right, task.outside(left @ right))


def _bisect(accepts: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest rank that is accepted, where `high` is known to be, and a larger one never is worse."""
    while low < high:
        middle = (low + high) // 2
        if accepts(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _refine(task: _Task, left: torch.Tensor, right: torch.Tensor) -> Factors | None:
    """Move a product into the intervals at the same rank: over-relaxed projections onto them, refitted each time."""
    basis = torch.linalg.qr(left).Q
    coefficients = basis.T @ (left @ right)
    best, waited = math.inf, 0
    for _ in range(_EXACT_ROUNDS if task.tolerance is None else _ROUNDS):
        product = basis @ coefficients
        excess = product - _clipped(product, task)
        error = float(torch.linalg.vector_norm(excess)) / task.size
        if task.tolerance is not None and error <= task.tolerance:
            return Factors(basis.contiguous(), coefficients.contiguous(), error)
        if task.tolerance is None and task.accepts(basis, coefficients):
            return Factors(basis.contiguous(), coefficients.contiguous(), error)
        waited = 0 if error < 0.97 * best else waited + 1
        best = min(best, error)
        if waited > _PATIENCE:
            return None
        wanted = product - _RELAXATION * excess
        basis = torch.linalg.qr(wanted @ coefficients.T).Q
        coefficients = basis.T @ wanted
    return None


def _clipped(product: torch.Tensor, task: _Task) -> torch.Tensor:
    """The nearest values inside the intervals."""
    return torch.minimum(torch.maximum(product, task.update - task.half), task.update + task.half)
