"""Intervals: exactly the updates that give what was merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ckptfmt.errors import InvalidInput
from ckptfmt.optimize.intervals import RULES, Pair, interval, next_above, next_below, rules_for
from tests.optimize.lost import TYPES, base_of, merge, normal, update_of, words_of

SMALLEST = {"BF16": 2.0**-133, "F16": 2.0**-24, "F32": 2.0**-149}


@pytest.mark.parametrize("element", TYPES)
def test_neighbours(element: str) -> None:
    kind = TYPES[element]
    largest = torch.finfo(kind).max
    given = torch.tensor([0.0, 1.0, -1.0, SMALLEST[element], -SMALLEST[element], largest, -largest]).to(kind)
    infinities = torch.full_like(given, math.inf)
    assert torch.equal(next_above(given), torch.nextafter(given, infinities))
    assert torch.equal(next_below(given), torch.nextafter(given, -infinities))


@pytest.mark.parametrize("element", TYPES)
def test_updates_inside_give_the_merged_number_and_updates_outside_another(element: str) -> None:
    base = torch.cat(
        (base_of(64, 64, element), torch.tensor([1.0, 2.0, -4.0, 0.0] * 16).reshape(1, 64).to(TYPES[element]))
    )
    update = normal(65, 64, seed=1) * normal(65, 64, seed=2).exp() * 1e-3
    for rule in rules_for(element):
        merged = merge(base, update, RULES[rule])
        low, high = interval(base, merged, rule, torch.float64)
        width = high - low
        inside = [low + width * part for part in (0.01, 0.5, 0.99)]
        outside = [low - width * 0.01, high + width * 0.01]
        assert bool(((update.double() >= low) & (update.double() <= high)).all())
        for each in inside:
            assert torch.equal(exactly(base, each, rule), merged)
        for each in outside:
            assert not bool((exactly(base, each, rule) == merged).any())


def exactly(base: torch.Tensor, update: torch.Tensor, rule: str) -> torch.Tensor:
    """A merge of float64 updates, without the rounding to float32 between."""
    rounded = RULES[rule]
    if rounded is not None:
        # To the type at once: by way of float32 it would be rounded twice.
        low = next_below(update.to(rounded) + 0.0).double()
        candidates = torch.stack((low, update.to(rounded).double(), next_above(update.to(rounded) + 0.0).double()))
        nearest = (candidates - update).abs().argmin(0, keepdim=True)
        update = candidates.gather(0, nearest)[0]
    sums = base.double() + update
    near = sums.to(base.dtype) + 0.0
    candidates = torch.stack((next_below(near).double(), near.double(), next_above(near).double()))
    distances = (candidates - sums).abs()
    best = distances.min(0).values
    even = torch.stack(
        [
            (each.to(base.dtype).view(torch.int16 if base.element_size() == 2 else torch.int32) & 1)
            for each in candidates
        ]
    )
    order = torch.where(distances == best, even, torch.full_like(even, 9))
    return candidates.gather(0, order.argmin(0, keepdim=True))[0].to(base.dtype)


def test_nothing_is_said_of_what_is_no_number() -> None:
    base = torch.tensor([[math.nan, math.inf, 1.0, 1.0, 1.0]]).bfloat16()
    merged = torch.tensor([[1.0, math.inf, math.nan, -math.inf, 1.5]]).bfloat16()
    for rule in rules_for("BF16"):
        low, high = interval(base, merged, rule, torch.float32)
        assert low.isinf().tolist() == [[True, True, True, True, False]]
        assert high.isinf().tolist() == [[True, True, True, True, False]]


def test_wide_matrices_are_read_transposed() -> None:
    base = base_of(100, 300, "BF16")
    merged = merge(base, update_of(100, 300, 2, 1e-3))
    pair = Pair(words_of(base), words_of(merged), "BF16", "BF16", "once")
    assert (pair.transposed, pair.rows, pair.columns) == (True, 300, 100)
    low, _ = interval(base.T.contiguous(), merged.T.contiguous(), "once", torch.float32)
    assert torch.equal(torch.cat([pair.block(begin).low for begin in pair.begins()]), low)


def test_other_shapes_are_refused() -> None:
    flat = np.zeros(100, "<u2")
    for base, merged in ((flat, flat), (flat.reshape(10, 10), flat.reshape(5, 20)), (flat.reshape(2, 5, 10),) * 2):
        with pytest.raises(InvalidInput):
            Pair(base, merged, "BF16", "BF16", "once")
