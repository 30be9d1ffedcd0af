"""Find the factors of an adapter that is lost in what it was merged into.

Given are a base matrix and a merged one; found are integer factors from which, by a named rounding rule, nearly every
merged element is predicted: what the encoding `lowrank` stores instead of the matrix. Nothing here has to be exact or
the same everywhere: the encoding stores what a prediction gets wrong, and its decode is checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.prediction import Prediction
from ckptfmt.encodings.references import Reference
from ckptfmt.encodings.stage import Stage
from ckptfmt.encodings.words import Words
from ckptfmt.optimize.fitting import Fit, Misses, next_scale
from ckptfmt.optimize.intervals import BYTES, Pair, rules_for
from ckptfmt.optimize.probe import probe
from ckptfmt.optimize.quantize import Choice, Integers, choose_step, refined, sampled_bits

SMALLEST: Final = 1 << 14
"""Elements of a matrix below which factors save nothing worth a search."""
_PROBED: Final = (512, 1024)
_FIRST_SWEEPS: Final = 3
_MOST_SWEEPS: Final = 20
_FALL: Final = 8
"""How much smaller the scale of a sweep may be than that of the one before."""
_FINE: Final = 0.6
"""A fit is good enough when its error is this part of what rounding the factors changes."""
_STANDS: Final = 0.8
"""An error that falls less than to this part stands still."""
_RULE_STEPS: Final = 3
_GROWN_AT_ONCE: Final = 8
_WORTH: Final = 0.8
"""Factors must take no more than this part of what the tensor takes otherwise: both are estimates."""
_MEMORY_BYTES: Final = 5 << 28
"""What the normal equations of all columns may take."""
_DELTA_SAMPLE: Final = 1 << 19
_QUANTIZED: Final = 0.55
"""Scale of the logistic, in standard deviations of what rounding the factors changes."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Factors that were found: the update is `left` x `right` x 2^`exponent`.

    Attributes:
        left: U, shape (m, rank), int16 or int32, little-endian, C order.
        right: V, shape (rank, n), likewise and of the same type.
        exponent: binary logarithm of the product's step.
        rule: how the update was added, a key of `encodings.rounding.RULES`.
        noise: binary logarithm of how far the update may be off, as `Prediction` wants it.
        held: the type that was added to.
        element: the type of the merged tensor.
        mispredicted: share of the elements that the factors get wrong.
        factor_bits: what the factors take, estimated.
        residual_bits: what the residual takes, estimated.
        sweeps: rounds of the fit.
    """

    left: Words
    right: Words
    exponent: int
    rule: str
    noise: int
    held: str
    element: str
    mispredicted: float
    factor_bits: float
    residual_bits: float
    sweeps: int

    @property
    def rank(self) -> int:
        """Columns of U."""
        return int(self.left.shape[1])

    @property
    def factor_element(self) -> str:
        """Element type of both factors: I16 or I32."""
        return f"I{8 * self.left.dtype.itemsize}"

    @property
    def bits(self) -> float:
        """What factors and residual take together, estimated."""
        return self.factor_bits + self.residual_bits

    def prediction(self, reference: Reference) -> Prediction:
        """How the tensor is predicted from a base that `reference` reads, U and V, in this order."""
        rows, columns = self.left.shape[0], self.right.shape[1]
        kind = self.factor_element
        scale = int(np.array(math.ldexp(1.0, self.exponent), np.float32).view(np.uint32))
        stage = Stage(0, rows, self.rank, columns, kind, kind, scale, self.rule)
        return Prediction(reference, self.held, self.element, rows, columns, self.noise, (stage,))


def recover(
    base: Words,
    merged: Words,
    element: str,
    *,
    held: str | None = None,
    rank: int | None = None,
    max_rank: int = 256,
    at_most_bits: float | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Recovered | None:
    """Find low-rank factors of what was added to `base`.

    Memory: the matrices as given, which may be mapped from files, and at most 4 GB.

    Args:
        base: shape (m, n), words of type `held`.
        merged: shape (m, n), words of type `element`.
        element: type of the merged tensor, BF16, F16 or F32.
        held: type that was added to, where that is another one; the base is of this type.
        rank: of the update, where it is known; the probe's estimate if not.
        max_rank: no larger rank is looked for.
        at_most_bits: what the tensor takes otherwise; estimated from a sample by `delta` where it is not given.
        device: where to compute, as torch names it.
        seed: of what is random in the fit.

    Returns:
        None where no factors were found that take clearly less.

    Raises:
        InvalidInput: the tensors are no matrices of one shape.
    """
    held = held or element
    given = _Given(base, merged, held, element, device)
    pair = given.pair("once")
    if base.size < SMALLEST:
        return None
    if rank is None:
        seen = probe(base, merged, element, held=held, rows=_PROBED[0], columns=_PROBED[1])
        rank = seen.rank
    limit = _rank_limit(pair, max_rank)
    if not 0 < rank <= limit:
        return None
    if at_most_bits is None:
        at_most_bits = _delta_bits(base, merged, held, element)
    search = _Search(given, Fit(pair, rank, seed=seed), limit)
    choice = search.run(at_most_bits)
    return None if choice is None else search.result(choice)


@dataclass(frozen=True, slots=True)
class _Given:
    """Two matrices and where to compute; see `recover`."""

    base: Words
    merged: Words
    held: str
    element: str
    device: str

    def pair(self, rule: str) -> Pair:
        """The intervals by one rule."""
        return Pair(self.base, self.merged, self.held, self.element, rule, device=self.device)


class _Search:
    """Sweeps of a fit, until it takes no less."""

    def __init__(self, given: _Given, fit: Fit, limit: int) -> None:
        self._given, self._fit, self._limit = given, fit, limit
        self.sweeps = 0

    def run(self, at_most_bits: float) -> Choice | None:
        """Fit, find rule and rank, round, and fit again with the roundings' error in view."""
        scale = next_scale(self._fit.misses(), 0.0)
        for _ in range(_FIRST_SWEEPS):
            scale = next_scale(self._swept(scale), scale / _FALL)
        if self._choose_rule():
            scale = next_scale(self._fit.misses(), 0.0)
        best, last = None, Misses(math.inf, math.inf)
        while self.sweeps < _MOST_SWEEPS:
            misses = self._swept(scale)
            best = self._rounded(None if best is None else best.integers.exponent)
            if best is None:
                return None
            error, scale = best.integers.error, next_scale(misses, scale / _FALL)
            still = misses.error > _STANDS * last.error and misses.share > _STANDS * last.share
            if misses.error < _FINE * error or still:
                if not self._grow(max(scale, _QUANTIZED * error)):
                    break
                misses = self._fit.misses()
            last = misses
        if best is not None:
            self._swept(_QUANTIZED * best.integers.error)
            found = self._rounded(best.integers.exponent)
            best = found if found is not None and found.bits < best.bits else best
        if best is None or best.bits > _WORTH * at_most_bits:
            return None
        return refined(self._fit, best)

    def _swept(self, scale: float) -> Misses:
        if scale <= 0:
            return Misses(0.0, 0.0)
        self.sweeps += 1
        return self._fit.sweep(scale)

    def _rounded(self, exponent: int | None) -> Choice | None:
        """Round the factors; directions that do not pay are left out, and none are looked for any more."""
        choice = choose_step(self._fit, exponent)
        if choice is not None and choice.integers.rank < self._fit.rank:
            self._fit.keep(choice.integers.rank)
            self._limit = 0
        return choice

    def _choose_rule(self) -> bool:
        """Keep the rule by which rows that are fitted again miss least; tell whether it is another one."""
        best, kept = math.inf, self._fit.pair
        for rule in rules_for(self._given.held):
            pair = self._given.pair(rule)
            bits = sampled_bits(self._fit, pair, _RULE_STEPS)
            if bits < best * 0.98:
                best, kept = bits, pair
        changed = kept.rule != self._fit.pair.rule
        if changed:
            self._fit.pair = kept
        return changed

    def _grow(self, scale: float) -> bool:
        """Add directions in which the intervals still pull together; tell whether there were any."""
        most = min(_GROWN_AT_ONCE, self._limit - self._fit.rank)
        return most > 0 and self._fit.grow(scale, most) > 0

    def result(self, choice: Choice) -> Recovered:
        """What was found, as the caller's matrices lie."""
        pair, integers = self._fit.pair, choice.integers
        left, right = integers.left, integers.right
        if pair.transposed:
            left, right = right.T, left.T
        kind = "<i2" if integers.largest < 1 << 15 else "<i4"
        missed = sum(self._missed(integers, begin) for begin in pair.begins())
        return Recovered(
            left=np.ascontiguousarray(left.cpu().numpy().astype(kind)),
            right=np.ascontiguousarray(right.cpu().numpy().astype(kind)),
            exponent=integers.exponent,
            rule=pair.rule,
            noise=round(math.log2(integers.error)),
            held=self._given.held,
            element=self._given.element,
            mispredicted=missed / (pair.rows * pair.columns),
            factor_bits=choice.factor_bits,
            residual_bits=choice.residual_bits,
            sweeps=self.sweeps,
        )

    def _missed(self, integers: Integers, begin: int) -> int:
        bounds = self._fit.pair.block(begin)
        update = integers.update(bounds.begin, bounds.end, self._fit.pair.work)
        return int(torch.count_nonzero((update > bounds.high) | (update < bounds.low)))


def _rank_limit(pair: Pair, most: int) -> int:
    """The largest rank whose normal equations fit into memory, and that saves anything."""
    packed = 2 * pair.columns * pair.work.itemsize
    room = math.isqrt(2 * _MEMORY_BYTES // packed)
    return int(min(most, room, pair.columns // 4))


def _delta_bits(base: Words, merged: Words, held: str, element: str) -> float:
    """What `delta` makes of the merged matrix, from a sample of rows; half of it where the types differ."""
    size = 8.0 * BYTES[element] * merged.size
    if held != element:
        return size / 2
    rows = max(1, min(len(base), _DELTA_SAMPLE // base.shape[1]))
    chosen = np.linspace(0, len(base) - 1, rows).astype(np.int64)
    frame, under = (np.ascontiguousarray(words[chosen])[:, :_DELTA_SAMPLE].tobytes() for words in (merged, base))
    stored = DELTA.encode(frame, element, Basis(under))
    return size * min(1.0, len(stored) / len(frame)) if stored is not None else size
