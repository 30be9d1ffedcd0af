"""Effective ranks against an SVD: exact ones to the digit, estimated ones to a tenth, however the matrix is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ckptfmt.diff.ranks import MOST_COLUMNS, plan_rank, rank_of
from tests.diff import oracle


def found_rank(matrix: Any, step: int) -> float | None:
    plan = plan_rank(matrix.shape)
    assert plan is not None
    flat = matrix.reshape(-1)
    return plan.rank([plan.gram(flat[at : at + step], at) for at in range(0, flat.size, step)])


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (40, 30), (64, 700), (700, 64), (5, 3, 2, 2)])
def test_a_small_matrix_has_its_own_rank(shape: tuple[int, ...]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    plan = plan_rank(shape)
    assert plan is not None
    assert plan.exact
    assert found_rank(matrix, matrix.size) == pytest.approx(oracle.rank(matrix), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 16, 64, 600])
@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("shape", [(600, 777), (2100, 256), (300, 2000)])
def test_a_large_matrix_has_about_its_rank(shape: tuple[int, int], rank: int, noise: float) -> None:
    random = np.random.default_rng(rank)
    matrix = random.standard_normal((shape[0], rank)) @ random.standard_normal((rank, shape[1])) / np.sqrt(rank)
    matrix = (matrix + noise * random.standard_normal(shape)).astype("<f4")
    plan = plan_rank(shape)
    assert plan is not None
    assert not plan.exact or min(shape) <= 64
    whole = found_rank(matrix, matrix.size)
    assert whole == pytest.approx(oracle.rank(matrix), rel=0.12, abs=0.1)
    # The cut changes nothing but the order of additions.
    for step in (shape[1] * 7 + 5, 100_003, shape[1] - 1 if shape[1] < 400 else 65_536):
        assert found_rank(matrix, step) == pytest.approx(whole, rel=1e-4)


def test_it_is_the_same_in_every_run() -> None:
    matrix = np.random.default_rng(1).standard_normal((300, 300)).astype("<f4")
    assert found_rank(matrix, 5000) == found_rank(matrix, 5000)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_size_of_the_numbers_does_not_matter(scale: float) -> None:
    matrix = np.diag([1.0, 1.0, 0.0]) * scale
    assert found_rank(matrix, 9) == pytest.approx(2.0)


def test_what_is_no_matrix_has_no_rank() -> None:
    assert [plan_rank(shape) for shape in ((), (5,), (0, 4), (4, 0), (70, MOST_COLUMNS + 1))] == [None] * 5
    assert found_rank(np.zeros((3, 3)), 9) is None
    assert found_rank(np.zeros((300, 3000), "<f4"), 4000) is None


def test_numbers_beyond_float32_have_no_estimate() -> None:
    with np.errstate(all="ignore"):
        assert found_rank(np.full((300, 3000), np.inf, "<f4"), 300 * 3000) is None


def test_the_rank_of_singular_values() -> None:
    assert rank_of(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert rank_of(np.array([1e-200, 0.0])) == 1.0
    assert rank_of(np.zeros(3)) is None
    assert rank_of(np.zeros(0)) is None
