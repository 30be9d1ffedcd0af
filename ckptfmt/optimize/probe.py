"""Is an update of low rank? Told from a few rows and columns, before anything costly is tried.

The update is known only as far as the merged type tells, so what is seen of a low-rank update is of low rank plus
rounding errors, each independent of the others. Their singular values lie close together; a few far above them are the
update's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ckptfmt.digest import Buffer
from ckptfmt.encodings.references import Cast
from ckptfmt.encodings.words import Words

ROWS: Final = 256
COLUMNS: Final = 512
Numbers = npt.NDArray[np.float64]

_PIECE: Final = 64
"""Neighbouring columns that are read together."""
_EDGE: Final = 1.08
"""How far above the largest singular value of noise one must be, for a sample of this size varies."""
_REPEATED: Final = 1.5
"""How much more of one half must lie in the directions of the other than in any."""
_MOST_LEFT: Final = 1.6
"""How much more than rounding may be left without the directions that stand out."""
_NARROW: Final = 0.02
"""Where rounding has less than this part of the update's variance, the update itself is seen."""
_FULL_RANK: Final = 0.7
"""An update of which so much is left where it can be seen is of full rank."""
_LEAST_SEEN: Final = 0.01
_ROUNDED: Final = 0.9
"""Share of the elements that must be numbers of 16 bits, where that is no accident."""
_VARIANCE_ROUNDS: Final = 8
_FRACTIONS: Final = {"BF16": 7, "F16": 10, "F32": 23}
_LEAST_EXPONENT: Final = {"BF16": -126, "F16": -14, "F32": -126}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a sample of an update told.

    Attributes:
        rank: how many singular values stand out; 0 where the update is none, or of full rank.
        changed: share of the elements that are others than the base's.
        rms: root mean square of the update, as far as it is seen.
    """

    rank: int
    changed: float
    rms: float

    @property
    def low_rank(self) -> bool:
        """Whether a search for factors is worth its time."""
        return self.rank > 0


def probe(
    base: Words,
    merged: Words,
    element: str,
    *,
    held: str | None = None,
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> Probe:
    """Look at some rows and columns of an update.

    Args:
        base: shape (m, n), words of type `held`.
        merged: shape (m, n), words of type `element`.
        element: BF16, F16 or F32.
        held: likewise; as `element` where it is not given.
        rows: how many rows to look at.
        columns: how many columns.
    """
    at = np.unique(np.linspace(0, base.shape[0] - 1, min(rows, base.shape[0])).astype(np.int64))
    before, after = (
        _numbers(_piecewise(words, at, columns), kind) for words, kind in ((base, held or element), (merged, element))
    )
    with np.errstate(all="ignore"):
        update = after - before
    finite = np.isfinite(update)
    update[~finite] = 0
    after[~finite] = 0
    changed = float(np.count_nonzero(update)) / update.size
    variance = float(np.square(update).mean())
    if not changed:
        return Probe(0, 0.0, 0.0)
    steps = _steps(after, element)
    errors = np.square(steps) / 12
    if (held or element) == "F32":
        errors = np.maximum(errors, _rounded_before(update, steps))
    return Probe(_rank(update, errors, _variance(update, errors)), changed, math.sqrt(variance))


def _rounded_before(update: Numbers, steps: Numbers) -> Numbers | float:
    """Variance of the rounding of an update that was of 16 bits before it was added to float32 numbers; or 0."""
    for kind in ("BF16", "F16"):
        own = _steps(update, kind)
        known = (update != 0) & (steps < own / 16)
        off = np.abs(update - np.round(update / own) * own)
        if known.any() and float((off <= steps)[known].mean()) > _ROUNDED:
            coarse: Numbers = np.square(own) / 12
            return coarse
    return 0.0


def _variance(update: Numbers, errors: Numbers) -> float:
    """Variance of an update, mostly from where it is not lost in the rounding."""
    squares = np.square(update)
    found = float(squares.mean())
    for _ in range(_VARIANCE_ROUNDS):
        weights = np.square(found / (found + errors))
        seen = float((weights * (squares - np.minimum(errors, found))).sum() / weights.sum())
        found = max(seen, 0.05 * found)
    return found


def _rank(update: Numbers, errors: Numbers, variance: float) -> int:
    """How many singular values stand out, if what is left without them is rounding.

    Args:
        update: as it is seen, shape (rows, columns).
        errors: variance of its rounding, likewise.
        variance: of the update itself.
    """
    if update.shape[0] > update.shape[1]:
        update, errors = update.T, errors.T
    weights = variance / (variance + errors)
    shrunk = weights * update
    scale = float(np.abs(shrunk).max())
    if not scale > 0:
        return 0
    shrunk /= scale
    values, vectors = np.linalg.eigh(shrunk @ shrunk.T)
    squares = np.maximum(values[::-1], 0)
    standing = min(_standing_out(np.sqrt(squares), shrunk.shape), len(squares) // 2)
    rank = min(standing, _repeated(shrunk, standing))
    if not rank:
        return 0
    weight = float(weights.mean())
    # Seen is weight x update + noise: of weights that are not alike, and of rounding.
    noise = np.square(weights - weight) * variance + np.square(weights) * np.minimum(errors, variance)
    freedom = (shrunk.shape[0] - standing) * (shrunk.shape[1] - standing)
    if float(squares[standing:].sum()) * scale**2 > _MOST_LEFT * float(noise.mean()) * freedom:
        return 0
    seen = errors < _NARROW * variance
    if float(seen.mean()) >= _LEAST_SEEN:
        kept = vectors[:, ::-1][:, :rank]
        left = update - kept @ (kept.T @ shrunk) * (scale / weight)
        if float(np.square(left[seen]).mean()) > _FULL_RANK * float(np.square(update[seen]).mean()):
            return 0
    return rank


def _repeated(shrunk: Numbers, rank: int) -> int:
    """How many of the strongest directions of one half of the columns are strong in the other half as well.

    A few large elements have singular values that stand out, too, but in one half only.
    """
    half = shrunk.shape[1] // 2
    one, other = shrunk[:, :half], shrunk[:, half:]
    _, vectors = np.linalg.eigh(one @ one.T)
    strengths = np.square(vectors.T @ other).sum(1)
    mean, usual = float(strengths.mean()), float(np.quantile(strengths, 0.25))
    if rank == 0 or float(strengths[-rank:].mean()) < _REPEATED * mean:
        return 0
    return int(np.count_nonzero(strengths > max(2 * usual, 0.01 * mean)))


def _standing_out(values: Numbers, shape: tuple[int, int]) -> int:
    """How many singular values lie above those that noise of the others' size has.

    The singular values of noise of variance one end at sqrt(m) + sqrt(n), and half of them lie above a known middle
    (Marchenko and Pastur; Gavish and Donoho 2014). The middle is taken of those that do not stand out.
    """
    floor = 1e-7 * values[0]  # Of float64, squared.
    rank = 0
    for _ in range(20):
        rest = values[rank:]
        if len(rest) < 8 or rest[0] <= floor:
            break
        middle = float(np.median(rest))
        limit = _EDGE * _edge_over_middle(shape[0] - rank, shape[1] - rank) * max(middle, floor)
        found = int(np.count_nonzero(values > limit))
        if found <= rank:
            break
        rank = found
    return rank


def _edge_over_middle(rows: int, columns: int) -> float:
    """Largest singular value of noise over the median one."""
    ratio = min(rows, columns) / max(rows, columns)
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # Median of the Marchenko-Pastur law; the substitution takes the roots at both ends away.
    angles = (np.arange(2000) + 0.5) * math.pi / 2000
    at = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    mass = np.cumsum(np.square(np.sin(angles)) / at)
    median = float(at[int(np.searchsorted(mass, mass[-1] / 2))])
    return math.sqrt(high / median)


def _piecewise(words: Words, rows: Words, columns: int) -> Words:
    """Some rows, and of them pieces of neighbouring columns, spread evenly."""
    width = words.shape[1]
    if width <= columns:
        return np.ascontiguousarray(words[rows])
    pieces = max(1, columns // _PIECE)
    size = columns // pieces
    begins = np.linspace(0, width - size, pieces).astype(np.int64)
    return np.concatenate([words[rows, begin : begin + size] for begin in begins.tolist()], axis=1)


def _numbers(words: Words, element: str) -> Numbers:
    """Words as numbers, float64."""
    given: Buffer = words.tobytes()
    if element == "BF16":
        narrow = given
        given = Cast("BF16", "F32").read(lambda begin, end: memoryview(narrow)[begin:end], 0, 2 * len(narrow))
    with np.errstate(invalid="ignore"):  # Signalling NaNs become quiet.
        numbers = np.frombuffer(given, "<f2" if element == "F16" else "<f4").astype(np.float64)
    return numbers.reshape(words.shape)


def _steps(numbers: Numbers, element: str) -> Numbers:
    """The distance between numbers of a type around each."""
    _, exponents = np.frexp(numbers)
    exponents = np.maximum(exponents - 1, _LEAST_EXPONENT[element]) - _FRACTIONS[element]
    steps: Numbers = np.ldexp(1.0, exponents)
    return steps
