"""Low rank or not: what a sample tells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ckptfmt.optimize.probe import probe
from tests.optimize.lost import TYPES, base_of, merge, normal, update_of, words_of

SHAPE = (600, 900)


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("rank", [1, 4, 16, 64])
def test_the_rank_of_a_low_rank_update_is_found(element: str, rank: int) -> None:
    base = base_of(*SHAPE, element)
    seen = probe(words_of(base), words_of(merge(base, update_of(*SHAPE, rank, 2e-4))), element)
    # An update of rank one rounds alike along a row, which looks like a few directions more.
    assert rank <= seen.rank <= rank + (10 if rank == 1 else 1)


@pytest.mark.parametrize("element", TYPES)
def test_singular_values_may_fall_by_magnitudes(element: str) -> None:
    base = base_of(*SHAPE, element)
    update = (normal(SHAPE[0], 12, seed=1) * 0.6 ** torch.arange(12.0)) @ normal(12, SHAPE[1], seed=2) * 3e-4
    assert 5 <= probe(words_of(base), words_of(merge(base, update)), element).rank <= 12


@pytest.mark.parametrize("rms", [1e-5, 3e-5])
def test_the_rank_is_found_where_most_elements_have_not_changed(rms: float) -> None:
    base = base_of(*SHAPE, "BF16")
    seen = probe(words_of(base), words_of(merge(base, update_of(*SHAPE, 8, rms))), "BF16")
    assert seen.changed < 0.35
    assert 6 <= seen.rank <= 10


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("rms", [3e-6, 1e-5, 1e-4, 1e-3])
def test_a_full_update_is_not_of_low_rank(element: str, rms: float) -> None:
    base = base_of(*SHAPE, element)
    assert not probe(words_of(base), words_of(merge(base, normal(*SHAPE, seed=3) * rms)), element).low_rank


@pytest.mark.parametrize("element", TYPES)
def test_other_updates_are_not_of_low_rank(element: str) -> None:
    base = base_of(*SHAPE, element)
    sign = torch.sign(normal(*SHAPE, seed=3)) * 1e-4
    heavy = normal(*SHAPE, seed=4) * normal(*SHAPE, seed=5).abs().pow(4) * 1e-4
    both = update_of(*SHAPE, 8, 1e-4) + normal(*SHAPE, seed=6) * 1e-4
    for update in (sign, heavy, both, base.float() * 0.001):
        assert not probe(words_of(base), words_of(merge(base, update)), element).low_rank


def test_equal_sparse_and_constant_matrices_are_not_of_low_rank() -> None:
    base = words_of(base_of(*SHAPE, "BF16"))
    sparse, row = base.copy(), base.copy()
    sparse[np.random.default_rng(0).random(SHAPE) < 0.01] += 1
    row[5] += 3
    for merged in (base, sparse, row):
        assert not probe(base, merged, "BF16").low_rank
    zeros = np.zeros(SHAPE, "<u2")
    assert not probe(zeros, zeros, "BF16").low_rank


def test_what_is_no_number_is_left_out() -> None:
    base = base_of(*SHAPE, "BF16")
    base[::7, ::5] = math.nan
    base[3] = math.inf
    merged = merge(base, update_of(*SHAPE, 4, 2e-4))
    merged[10, 10] = -math.inf
    assert 1 <= probe(words_of(base), words_of(merged), "BF16").rank <= 8


def test_the_type_that_was_added_to_may_be_another() -> None:
    base = base_of(*SHAPE, "F32")
    merged = merge(base, update_of(*SHAPE, 4, 1e-3)).bfloat16()
    assert probe(words_of(base), words_of(merged), "BF16", held="F32").rank >= 4
