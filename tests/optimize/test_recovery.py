"""Lost adapters: found, rounded, and good for what the encoding makes of them."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ckptfmt.errors import InvalidInput
from ckptfmt.optimize import intervals
from ckptfmt.optimize.recovery import recover
from tests.optimize.lost import TYPES, base_of, merge, normal, stored_bytes, update_of, words_of

SHAPE = (512, 768)
FACTORS = {"BF16": 15, "F16": 18, "F32": 30}
"""Bits of a factor's element that are enough."""


@pytest.mark.parametrize("rank", [4, 8])
@pytest.mark.parametrize("rule", ["once", "twice"])
@pytest.mark.parametrize("element", TYPES)
def test_factors_are_found_with_rank_and_rule(element: str, rule: str, rank: int) -> None:
    if (element, rule) == ("F32", "twice"):
        rule = "twice-BF16"
    rounded = {"once": None, "twice": TYPES[element], "twice-BF16": torch.bfloat16}[rule]
    base = base_of(*SHAPE, element)
    merged = merge(base, update_of(*SHAPE, rank, 3e-4), rounded)
    found = recover(words_of(base), words_of(merged), element)
    assert found is not None
    assert found.rank == rank
    assert found.rule == (f"twice-{element}" if rule == "twice" else rule)
    assert (found.left.shape, found.right.shape) == ((SHAPE[0], rank), (rank, SHAPE[1]))
    size, wrong = stored_bytes(words_of(base), words_of(merged), found)
    assert wrong == pytest.approx(found.mispredicted, rel=0.3, abs=2e-3)
    assert wrong < (0.06 if element == "F32" else 0.02)
    # Where float32 holds an update of 16 bits, a wrong one is thousands of steps off.
    assert 8 * size <= (4 if rule == "twice-BF16" and element == "F32" else 2) * found.residual_bits + 2000
    assert found.factor_bits <= FACTORS[element] * rank * sum(SHAPE)


def test_a_transposed_shape() -> None:
    base = base_of(900, 300, "BF16")
    merged = merge(base, update_of(900, 300, 4, 3e-4))
    for first, second in ((base, merged), (base.T.contiguous(), merged.T.contiguous())):
        found = recover(words_of(first), words_of(second), "BF16")
        assert found is not None
        assert found.left.shape == (len(first), 4)
        assert stored_bytes(words_of(first), words_of(second), found)[1] < 0.02


def test_what_is_no_number_is_left_out() -> None:
    base = base_of(*SHAPE, "BF16")
    base[::7, ::5] = math.nan
    base[3] = math.inf
    merged = merge(base, update_of(*SHAPE, 4, 3e-4))
    merged[10, 10], merged[11, 11] = -math.inf, math.nan
    found = recover(words_of(base), words_of(merged), "BF16")
    assert found is not None
    assert found.mispredicted < 0.02
    stored_bytes(words_of(base), words_of(merged), found)


def test_rows_that_were_left_alone_and_a_rank_that_is_not_full() -> None:
    base = base_of(*SHAPE, "BF16")
    update = update_of(*SHAPE, 3, 3e-4)
    update[100:300] = 0
    merged = merge(base, update)
    found = recover(words_of(base), words_of(merged), "BF16", rank=8)
    assert found is not None
    assert 3 <= found.rank <= 5
    assert stored_bytes(words_of(base), words_of(merged), found)[1] < 0.02


def test_directions_too_weak_to_be_seen_at_first_are_found_later() -> None:
    base = base_of(1024, 1024, "BF16")
    update = update_of(1024, 1024, 4, 5e-4) + normal(1024, 1, seed=7) @ normal(1, 1024, seed=8) * 2e-6
    found = recover(words_of(base), words_of(merge(base, update)), "BF16")
    assert found is not None
    assert found.rank == 5


@pytest.mark.parametrize("element", TYPES)
def test_singular_values_may_fall_by_magnitudes(element: str) -> None:
    base = base_of(*SHAPE, element)
    update = (normal(SHAPE[0], 12, seed=1) * 0.6 ** torch.arange(12.0)) @ normal(12, SHAPE[1], seed=2) * 3e-4
    merged = merge(base, update)
    found = recover(words_of(base), words_of(merged), element)
    assert found is not None
    assert found.rank <= 12
    assert stored_bytes(words_of(base), words_of(merged), found)[1] < (0.1 if element == "F32" else 0.03)


def test_the_type_that_was_added_to_may_be_another() -> None:
    base = base_of(*SHAPE, "F32")
    merged = merge(base, update_of(*SHAPE, 4, 1e-3)).bfloat16()
    found = recover(words_of(base), words_of(merged), "BF16", held="F32")
    assert found is not None
    assert stored_bytes(words_of(base), words_of(merged), found)[1] < 0.02


def test_what_is_not_of_low_rank_is_declined() -> None:
    base = base_of(*SHAPE, "BF16")
    for update in (normal(*SHAPE, seed=3) * 1e-4, update_of(*SHAPE, 4, 1e-5) * 0, base.float() * 0.01):
        assert recover(words_of(base), words_of(merge(base, update)), "BF16") is None
    zeros = np.zeros(SHAPE, "<u2")
    assert recover(zeros, zeros, "BF16") is None
    assert recover(zeros, words_of(base), "BF16") is None


def test_declined_where_it_would_save_nothing_even_if_the_rank_is_told() -> None:
    base = base_of(*SHAPE, "BF16")
    merged = words_of(merge(base, normal(*SHAPE, seed=3) * 1e-4))
    assert recover(words_of(base), merged, "BF16", rank=8) is None
    low = words_of(merge(base, update_of(*SHAPE, 4, 3e-4)))
    assert recover(words_of(base), low, "BF16", at_most_bits=1000.0) is None


def test_constant_bases() -> None:
    base = torch.full(SHAPE, 0.5).bfloat16()
    merged = merge(base, update_of(*SHAPE, 4, 1e-2))
    found = recover(words_of(base), words_of(merged), "BF16")
    assert found is None or stored_bytes(words_of(base), words_of(merged), found)[1] < 0.2


def test_vectors_and_other_shapes_are_refused_and_small_matrices_declined() -> None:
    flat = np.zeros(1 << 16, "<u2")
    with pytest.raises(InvalidInput):
        recover(flat, flat, "BF16")
    with pytest.raises(InvalidInput):
        recover(flat.reshape(256, 256), flat.reshape(128, 512), "BF16")
    assert recover(flat[:100].reshape(10, 10), flat[:100].reshape(10, 10), "BF16") is None


def test_matrices_that_cannot_be_written_to() -> None:
    base = base_of(*SHAPE, "BF16")
    before, after = words_of(base), words_of(merge(base, update_of(*SHAPE, 4, 3e-4)))
    before.flags.writeable = after.flags.writeable = False
    assert recover(before, after, "BF16") is not None


def test_intervals_are_computed_again_where_they_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_CACHE_BYTES", 0)
    base = base_of(*SHAPE, "BF16")
    merged = merge(base, update_of(*SHAPE, 4, 3e-4))
    found = recover(words_of(base), words_of(merged), "BF16")
    assert found is not None
    assert found.rank == 4


MEMORY = """
import resource, sys
import numpy as np, torch
from ckptfmt.optimize import intervals
from ckptfmt.optimize.recovery import recover
intervals._CACHE_BYTES = 0
torch.manual_seed(0)
base = (torch.randn(8192, 2048) * 0.02).bfloat16()
merged = torch.cat([(part.float() + torch.randn(256, 8) @ factor).bfloat16() for factor in [torch.randn(8, 2048) * 1e-4]
                    for part in base.split(256)])
words = [each.view(torch.int16).numpy().view("<u2") for each in (base, merged)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert recover(*words, "BF16") is not None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_beside_the_matrices_does_not_grow_with_their_rows() -> None:
    """Intervals of 16M elements would take 128 MiB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True, timeout=240)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 110 << 20
