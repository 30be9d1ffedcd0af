"""Factoring an update: the rank that was there is found, in every dtype, and noise is told from it."""

from __future__ import annotations

import pytest
import torch

from ckptfmt.convert.lowrank import factorize, half_steps, most_rank


def tuned(out: int, into: int, rank: int, rms: float, dtype: object) -> tuple[object, object, object]:
    torch.manual_seed(out + into)
    base = (torch.randn(out, into) * 0.02).to(dtype)
    update = torch.randn(out, rank) @ torch.randn(rank, into)
    update *= rms / update.std()
    return base, (base.float() + update).to(dtype), update


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("out", "into", "rank", "rms"), [(32, 32, 4, 1e-2), (64, 160, 3, 1e-3), (256, 256, 8, 1e-3)])
def test_the_rank_is_found(dtype: str, out: int, into: int, rank: int, rms: float) -> None:
    base, full, update = tuned(out, into, rank, rms, getattr(torch, dtype))
    found = factorize(base, full, 1e-3)
    assert found is not None
    assert found.rank == rank
    assert found.error <= 1e-3
    distance = torch.linalg.vector_norm(found.left @ found.right - update) / torch.linalg.vector_norm(update)
    assert distance < (1e-5 if dtype == "float32" else 0.02)


def test_a_large_matrix_is_factored_from_a_random_start() -> None:
    base, full, _ = tuned(1000, 900, 16, 1e-3, torch.bfloat16)
    found = factorize(base, full, 1e-3)
    assert found is not None
    assert found.rank == 16


def test_what_is_not_of_low_rank_is_none() -> None:
    torch.manual_seed(0)
    base = torch.randn(64, 48)
    assert factorize(base, base + torch.randn(64, 48) * 0.01, 1e-3) is None
    assert factorize(base, base.clone(), 1e-3) is None
    assert factorize(base, torch.full_like(base, float("nan")), 1e-3) is None


def test_a_looser_tolerance_takes_fewer() -> None:
    torch.manual_seed(0)
    base = torch.zeros(64, 64)
    left, right = torch.linalg.qr(torch.randn(64, 6)).Q, torch.linalg.qr(torch.randn(64, 6)).Q
    update = left @ torch.diag(torch.tensor([1.0, 0.5, 0.1, 0.05, 0.01, 0.001])) @ right.T
    found = [factorize(base, base + update, tolerance) for tolerance in (0.6, 0.05, 0.02, 1e-4)]
    assert [each and each.rank for each in found] == [1, 3, 4, 6]


def test_exact_means_the_same_bits() -> None:
    """An update by whole steps of a coarse dtype, that factors represent without rounding."""
    base = torch.zeros(16, 24)
    full = torch.outer(torch.arange(16.0), 2.0 ** torch.arange(24.0))
    found = factorize(base, full, None)
    assert found is None or torch.equal(found.left @ found.right, full)
    halves = torch.randn(32, 32).to(torch.bfloat16)
    noisy = (halves.float() + torch.randn(32, 32) * 0.1).to(torch.bfloat16)
    assert factorize(halves, noisy, None) is None


def test_the_largest_rank_still_saves() -> None:
    for out, into in ((1, 1), (2, 3), (32, 32), (4096, 11008)):
        rank = most_rank(out, into)
        assert rank * (out + into) < out * into <= (rank + 1) * (out + into)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_half_a_step(dtype: str) -> None:
    kind = getattr(torch, dtype)
    values = torch.tensor([1.0, 1.5, -3.0, 0.02, 1e-3, 1000.0]).to(kind)
    above = torch.nextafter(values.abs(), torch.full_like(values, torch.inf))
    assert torch.equal(half_steps(values), (above.double() - values.abs().double()).float() / 2)
