"""Low-rank updates against the updates that are built: the same numbers, and none lost where two are nearly equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.diff.updates import ComparedUpdates, Factors, compare_updates
from tests.diff import oracle


def factors(seed: int, rows: int, columns: int, rank: int, scaling: float = 2.0, dtype: str = "<f4") -> Factors:
    random = np.random.default_rng(seed)
    return Factors(
        random.standard_normal((rows, rank)).astype(dtype),
        random.standard_normal((rank, columns)).astype(dtype),
        scaling,
    )


def built(one: Factors | None, other: Factors | None) -> Any:
    it = one or other
    assert it is not None
    if one is None:
        return np.zeros((it.left.shape[0], it.right.shape[1]))
    return one.scaling * (one.left.astype(float) @ one.right.astype(float))


def check(first: Factors | None, second: Factors | None) -> ComparedUpdates:
    found = compare_updates(first, second)
    u, v = built(first, second), built(second, first)
    for name, matrix in (("norm_a", u), ("norm_b", v), ("norm", v - u)):
        assert getattr(found, name) == pytest.approx(np.linalg.norm(matrix), rel=1e-6, abs=1e-12), name
    for name, matrix in (("effective_rank_a", u), ("effective_rank_b", v), ("effective_rank", v - u)):
        if np.linalg.norm(matrix) > 1e-9:
            assert getattr(found, name) == pytest.approx(oracle.rank(matrix), rel=1e-6), name
    if u.any() and v.any():
        assert found.cosine == pytest.approx(np.vdot(u, v) / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-6)
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 100))
def test_two_updates(rows: int, columns: int, first: int, second: int, scaling: float) -> None:
    check(factors(0, rows, columns, first), factors(1, rows, columns, second, scaling))


def test_more_rows_than_are_factored_at_a_time() -> None:
    for shape in ((5000, 30), (30, 5000)):
        check(factors(0, *shape, 4), factors(1, *shape, 6))
        check(factors(0, *shape, 4), factors(1, *shape, 4))


def test_an_adapter_that_leaves_a_module_alone() -> None:
    found = check(None, factors(1, 8, 6, 2))
    assert (found.norm_a, found.relative, found.cosine, found.effective_rank_a) == (0.0, None, None, None)
    assert check(factors(1, 8, 6, 2), None).relative == pytest.approx(1.0)


def test_a_factor_of_zeros_is_where_training_begins() -> None:
    begun = Factors(np.zeros((8, 2), "<f4"), factors(0, 8, 6, 2).right, 1.0)
    found = check(begun, factors(1, 8, 6, 2))
    assert found.relative is None
    assert compare_updates(begun, begun).relative == 0.0


def test_a_tiny_step_keeps_its_digits() -> None:
    first = factors(0, 200, 300, 8, dtype="<f8")
    step = 1e-13 * np.random.default_rng(5).standard_normal(first.left.shape)
    second = Factors(first.left + step, first.right, first.scaling)
    wanted = np.linalg.norm(first.scaling * (second.left - first.left) @ first.right)
    assert compare_updates(first, second).norm == pytest.approx(wanted, rel=1e-9, abs=0)


def test_the_same_update_of_other_factors_is_the_same() -> None:
    first = factors(0, 200, 300, 8, dtype="<f8")
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0]
    second = Factors(first.left @ turn, turn.T @ first.right, first.scaling)
    found = compare_updates(first, second)
    assert found.relative is not None
    assert found.relative < 1e-13
    assert found.cosine == pytest.approx(1.0)


def test_the_same_factors_of_another_scaling() -> None:
    first = factors(0, 20, 30, 4)
    found = compare_updates(first, Factors(first.left, first.right, 3.0))
    assert found.relative == pytest.approx(0.5)
    assert found.cosine == pytest.approx(1.0)


def test_what_is_not_finite_has_no_norms() -> None:
    broken = factors(0, 20, 30, 4)
    broken.left[3, 1] = np.nan
    found = compare_updates(factors(1, 20, 30, 4), broken)
    assert found.norm_a > 0
    assert np.isnan([found.norm_b, found.norm]).all()
    assert (found.relative, found.cosine, found.effective_rank) == (None, None, None)


def test_factors_without_elements() -> None:
    empty = Factors(np.zeros((0, 2), "<f4"), np.zeros((2, 5), "<f4"), 1.0)
    assert compare_updates(empty, empty).norm == 0.0
