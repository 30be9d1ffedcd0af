"""The effective rank of an update: `(sum of s^2)^2 / sum of s^4` over its singular values s.

It is `R_0` of D^T D in Bartlett, Long, Lugosi and Tsigler, "Benign overfitting in linear regression" (PNAS 2020): 1 for
a matrix of rank one, k for k equal singular values, never more than the rank. Unlike the entropy of the singular values
(Roy and Vetterli 2007), it needs no singular values: with G = D^T D it is `trace(G)^2 / ||G||_F^2`. What rounding
adds, small and spread over all directions, hardly counts.

For large matrices it is estimated in one pass. Let W be n x k of independent random signs and H = (D W)^T (D W). Each
element of H's diagonal has the mean trace(G), and the square of each element beside it the mean ||G||_F^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from ckptfmt.diff.elements import Array

COLUMNS: Final = 32
"""Columns of the random projection: the estimate is then right to about a tenth."""
EXACT_SIDE: Final = 64
"""The smaller side of a matrix whose rank is exact, if it has no more elements than `EXACT_ELEMENTS`."""
EXACT_ELEMENTS: Final = 1 << 19
MOST_COLUMNS: Final = 1 << 18
"""Wider matrices have no rank here: their projection alone would take more than 32 MiB."""
_TILE_ROWS: Final = 32
_TILE_COLUMNS: Final = 256
_SEED: Final = 0x636B7074


@dataclass(frozen=True, slots=True)
class Gram:
    """What some elements of D add to H.

    Attributes:
        whole: of the rows that lie in the block with all their columns, float64, shape (k, k).
        partial: of the other rows, by index: what their elements here add to their row of D W, float64, shape (k,).
    """

    whole: Array
    partial: tuple[tuple[int, Array], ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """How the rank of updates of one shape is found.

    Attributes:
        rows: first dimension.
        columns: product of all others.
        exact: the matrix comes in one block, and its own Gram matrix is taken.
    """

    rows: int
    columns: int
    exact: bool

    def gram(self, update: Array, begin: int) -> Gram:
        """What the elements of D from index `begin` on add, float32 or float64, shape (n,)."""
        if self.exact:
            matrix = update.reshape(self.rows, self.columns).astype(np.float64)
            matrix = matrix if self.columns <= self.rows else matrix.T
            return Gram(_scaled_gram(matrix), ())
        signs = _signs(self.columns)
        partial: list[tuple[int, Array]] = []
        at, end = 0, len(update)
        if column := begin % self.columns:
            at = min(self.columns - column, end)
            partial.append(self._partial(update[:at], begin, signs[column : column + at]))
        rows = (end - at) // self.columns
        whole = np.zeros((COLUMNS, COLUMNS))
        if rows:
            whole = _gram(_product(update[at : at + rows * self.columns].reshape(rows, self.columns), signs))
            at += rows * self.columns
        if at < end:
            partial.append(self._partial(update[at:], begin + at, signs[: end - at]))
        return Gram(whole, tuple(partial))

    def _partial(self, update: Array, begin: int, signs: Array) -> tuple[int, Array]:
        return begin // self.columns, _product(update.reshape(1, -1), signs)[0]

    def rank(self, grams: Sequence[Gram]) -> float | None:
        """The effective rank, from what all blocks added, in order; None for a zero update, or beyond float64."""
        total: Array = np.add.reduce([gram.whole for gram in grams])
        row, held = -1, np.zeros(len(total))
        for index, added in (item for gram in grams for item in gram.partial):
            if index != row:
                total = total + np.outer(held, held)
                row, held = index, np.zeros(len(total))
            held = held + added
        total = total + np.outer(held, held)
        return self._of(total)

    def _of(self, gram: Array) -> float | None:
        trace, squares = float(np.trace(gram)), float(np.square(gram).sum())
        if not self.exact:
            trace /= COLUMNS
            squares = (squares - float(np.square(np.diagonal(gram)).sum())) / (COLUMNS * (COLUMNS - 1))
        if not (math.isfinite(trace) and math.isfinite(squares)) or not trace or not squares:
            return None
        return min(max(trace * trace / squares, 1.0), float(min(self.rows, self.columns)))


def plan_rank(shape: Sequence[int]) -> Projection | None:
    """How the rank of updates of this shape is found; None for what is no matrix, is empty, or is too wide."""
    if len(shape) < 2:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    if not rows or not columns:
        return None
    exact = rows * columns <= EXACT_ELEMENTS and min(rows, columns) <= EXACT_SIDE
    return Projection(rows, columns, exact) if exact or columns <= MOST_COLUMNS else None


def rank_of(singular: Array) -> float | None:
    """The effective rank from singular values, shape (k,); None where all are zero."""
    if not len(singular) or not singular.max() > 0:
        return None
    shares = np.square(singular / singular.max())
    return float(shares.sum() ** 2 / np.square(shares).sum())


def _scaled_gram(matrix: Array) -> Array:
    """The Gram matrix up to a factor, which no rank depends on: numbers of any size fit."""
    largest = float(np.abs(matrix).max()) if matrix.size else 0.0
    scaled = np.ldexp(matrix, -math.frexp(largest)[1]) if largest else matrix
    return _gram(scaled)


def _product(matrix: Array, signs: Array) -> Array:
    """`matrix @ signs` as float64, in tiles that no BLAS shares among threads: those would wait for each other here."""
    rows, columns = matrix.shape
    whole = columns // _TILE_COLUMNS * _TILE_COLUMNS
    tiles = columns // _TILE_COLUMNS
    found = []
    for begin, end, height in _bands(rows, _TILE_ROWS):
        band = matrix[begin:end].reshape(-1, height, columns)
        total = np.matmul(band[:, :, whole:], signs[whole:]).astype(np.float64)
        if tiles:
            tiled = band[:, :, :whole].reshape(-1, height, tiles, _TILE_COLUMNS).transpose(2, 0, 1, 3)
            total += np.matmul(tiled, signs[:whole].reshape(tiles, 1, _TILE_COLUMNS, -1)).sum(axis=0)
        found.append(total.reshape(end - begin, -1))
    return np.concatenate(found)


def _gram(matrix: Array) -> Array:
    """`matrix.T @ matrix` of a float64 matrix of at most 64 columns, in tiles as `_product`."""
    total = np.zeros((matrix.shape[1], matrix.shape[1]))
    for begin, end, height in _bands(len(matrix), EXACT_SIDE):
        band = matrix[begin:end].reshape(-1, height, matrix.shape[1])
        total += np.matmul(band.transpose(0, 2, 1), band).sum(axis=0)
    return total


def _bands(rows: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Rows that are a multiple of `height`, and the rest: begin, end, and the height of a tile."""
    whole = rows // height * height
    if whole:
        yield 0, whole, height
    if rows > whole:
        yield whole, rows, rows - whole


@lru_cache(maxsize=2)
def _signs(columns: int) -> Array:
    """Random signs, float32, shape (columns, COLUMNS): the same in every run."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    signs: Array = generator.integers(0, 2, (columns, COLUMNS), np.int8).astype(np.float32)
    signs *= np.float32(2)
    signs -= np.float32(1)
    return signs
