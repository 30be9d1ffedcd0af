"""Low-rank updates compared without building them: norms and singular values from QR of their factors, in float64.

`s B A` has the singular values of the small matrix `s R_B R_A^T`, where `B = Q_B R_B` and `A^T = Q_A R_A`. The
difference of two updates is one of stacked factors: `B2 A2 - B1 A1 = [B2 - B1, B1] [A2; A2 - A1]` where their ranks
agree, so that nearly equal factors lose no digits, and `[B2, -B1] [A2; A1]` where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ckptfmt.diff.elements import Array
from ckptfmt.diff.measures import cosine_of, relative_norm
from ckptfmt.diff.ranks import rank_of

_ROWS: Final = 2048
"""Rows that are factored at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The update `scaling x left x right` of one module.

    Attributes:
        left: float32 or float64, shape (rows, r).
        right: float32 or float64, shape (r, columns).
        scaling: what the product is multiplied by.
    """

    left: Array
    right: Array
    scaling: float


@dataclass(frozen=True, slots=True)
class ComparedUpdates:
    """Two updates U and V, and D = V - U: norms, cosine and effective ranks."""

    norm_a: float
    norm_b: float
    norm: float
    effective_rank_a: float | None
    effective_rank_b: float | None
    effective_rank: float | None

    @property
    def relative(self) -> float | None:
        """||D|| / ||U||."""
        return relative_norm(self.norm_a, self.norm)

    @property
    def cosine(self) -> float | None:
        """Between U and V."""
        return cosine_of(self.norm_a, self.norm_b, self.norm)


def compare_updates(first: Factors | None, second: Factors | None) -> ComparedUpdates:
    """Compare the updates of one module; None is an update of zero. Of two, the shapes must agree.

    NaN or infinite factors give NaN for all that depends on them.
    """
    a, b = (_singular([each]) if each is not None else np.zeros(0) for each in (first, second))
    both = [each for each in (first, second) if each is not None]
    d = _difference(first, second) if first is not None and second is not None else _singular(both[:1])
    norms = [float(np.linalg.norm(each)) for each in (a, b, d)]
    return ComparedUpdates(norms[0], norms[1], norms[2], rank_of(a), rank_of(b), rank_of(d))


def _difference(first: Factors, second: Factors) -> Array:
    """Singular values of V - U."""
    if first.right.shape[0] != second.right.shape[0]:
        return _singular([Factors(first.left, first.right, -first.scaling), second])
    return _core(_near_columns(first, second), _near_rows(first, second))


def _near_columns(first: Factors, second: Factors) -> Iterator[Array]:
    """Rows of [s2 B2 - s1 B1, s1 B1]."""
    for at in range(0, len(first.left), _ROWS):
        mine = first.left[at : at + _ROWS].astype(np.float64) * first.scaling
        theirs = second.left[at : at + _ROWS].astype(np.float64) * second.scaling
        yield np.concatenate([theirs - mine, mine], axis=1)


def _near_rows(first: Factors, second: Factors) -> Iterator[Array]:
    """Rows of [A2; A2 - A1]^T."""
    for at in range(0, first.right.shape[1], _ROWS):
        mine, theirs = (each.right[:, at : at + _ROWS].T.astype(np.float64) for each in (first, second))
        yield np.concatenate([theirs, theirs - mine], axis=1)


def _singular(parts: list[Factors]) -> Array:
    """Singular values of the sum of updates, those that may be other than zero."""

    def columns() -> Iterator[Array]:
        for at in range(0, len(parts[0].left), _ROWS):
            yield np.concatenate([each.left[at : at + _ROWS].astype(np.float64) * each.scaling for each in parts], 1)

    def rows() -> Iterator[Array]:
        for at in range(0, parts[0].right.shape[1], _ROWS):
            yield np.concatenate([each.right[:, at : at + _ROWS].T.astype(np.float64) for each in parts], 1)

    return _core(columns(), rows()) if parts else np.zeros(0)


def _core(left: Iterator[Array], right: Iterator[Array]) -> Array:
    """Singular values of `L R^T`, given the rows of L and those of R, block by block."""
    with np.errstate(all="ignore"):
        upper, lower = _triangle(left), _triangle(right)
        if upper is None or lower is None:
            return np.zeros(0)
        core = upper @ lower.T
        if not np.isfinite(core).all():
            return np.full(1, np.nan)
        found: Array = np.linalg.svd(core, compute_uv=False)
        return found


def _triangle(blocks: Iterator[Array]) -> Array | None:
    """R of the QR decomposition of a tall matrix (Demmel and others 2012, TSQR); None where it has no rows."""
    found: Array | None = None
    for block in blocks:
        if not np.isfinite(block).all():
            return np.full((1, block.shape[1]), np.nan)
        stacked = block if found is None else np.concatenate([found, block])
        found = np.asarray(np.linalg.qr(stacked, mode="r"))
    return found
