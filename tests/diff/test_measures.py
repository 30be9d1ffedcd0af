"""Blocks of two tensors against the plain comparison of the whole, over every type, strange numbers, and any cut."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.diff.elements import floats_of, width_of
from ckptfmt.diff.measures import CHUNK, Sums, cosine_of, measure, relative_norm
from ckptfmt.diff.ranks import plan_rank
from tests.diff import oracle

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=120)
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def sums_of(first: bytes, second: bytes, dtypes: tuple[str, str], cuts: list[int] | None = None) -> Sums:
    """As one block, or cut into several."""
    widths = [width_of(dtype) for dtype in dtypes]
    count = len(first) // widths[0]
    edges = [0, *sorted(cuts or []), count]
    total = Sums()
    for begin, end in itertools.pairwise(edges):
        parts = [data[begin * width : end * width] for data, width in zip((first, second), widths, strict=True)]
        total = total.joined(measure(*parts, dtypes, begin=begin).sums)
    return total


def check(first: bytes, second: bytes, dtypes: tuple[str, str], cuts: list[int] | None = None) -> Sums:
    found = sums_of(first, second, dtypes, cuts)
    count = len(first) // width_of(dtypes[0])
    with np.errstate(all="ignore"):
        said = oracle.compare(*(oracle.tensor(*each, (count,)) for each in zip((first, second), dtypes, strict=True)))
    assert (found.changed, found.not_finite) == (said.changed, said.not_finite)
    assert found.changed_bits == (said.changed_bits or 0)
    for name in ("norm_a", "norm_b", "norm", "largest"):
        wanted = getattr(said, name)
        if 1e-140 < abs(wanted) < 1e140:  # Beyond, the plain way over- or underflows.
            assert oracle.near(getattr(found, name), wanted), name
        elif wanted == 0 and name == "largest":
            assert getattr(found, name) == 0
    return found


def raw(dtype: str, count: int) -> st.SearchStrategy[bytes]:
    """Any bits; of a BOOL, what torch holds for one."""
    length = count * width_of(dtype)
    data = st.binary(min_size=length, max_size=length)
    return data.map(lambda each: bytes(byte & 1 for byte in each)) if dtype == "BOOL" else data


@st.composite
def pairs(draw: Any) -> tuple[bytes, bytes, str, list[int]]:
    dtype = draw(st.sampled_from(sorted(oracle.TORCH)))
    count = draw(st.integers(0, 40))
    first = draw(raw(dtype, count))
    second = draw(st.one_of(st.just(first), raw(dtype, count)))
    return first, second, dtype, draw(st.lists(st.integers(0, count), max_size=3))


@relaxed
@given(pairs())
def test_any_bits_of_any_type(drawn: tuple[bytes, bytes, str, list[int]]) -> None:
    first, second, dtype, cuts = drawn
    check(first, second, (dtype, dtype), cuts)


@relaxed
@given(st.sampled_from(FLOATS), st.sampled_from((*FLOATS, "I8", "I64", "BOOL")), st.integers(0, 30), st.data())
def test_other_types_are_compared_by_value(a: str, b: str, count: int, data: st.DataObject) -> None:
    if a != b:
        found = check(data.draw(raw(a, count)), data.draw(raw(b, count)), (a, b))
        assert found.changed_bits == 0


@pytest.mark.parametrize("dtype", [name for name in oracle.TORCH if name.startswith("F8")])
def test_every_8_bit_float_is_what_torch_says(dtype: str) -> None:
    every = bytes(range(256))
    wanted = oracle.tensor(every, dtype, (256,)).to(torch.float32).numpy()
    assert np.array_equal(floats_of(every, dtype), wanted, equal_nan=True)


def test_scales_are_powers_of_two() -> None:
    found = floats_of(bytes([0, 126, 127, 128, 254, 255]), "F8_E8M0")
    assert found[:5].tolist() == [2.0**-127, 0.5, 1.0, 2.0, 2.0**127]
    assert math.isnan(found[5])


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, 2 * CHUNK + 4321])
def test_many_elements_are_summed_without_loss(dtype: str, count: int) -> None:
    drawn = torch.randn(2, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.02
    a = drawn[0].to(oracle.TORCH[dtype])
    b = (drawn[0] + drawn[1] * 0.01).to(oracle.TORCH[dtype])
    first, second = (each.view(torch.uint8).numpy().tobytes() for each in (a, b))
    found = check(first, second, (dtype, dtype), [CHUNK // 2])
    assert abs((found.cosine or 0) - (oracle.compare(a, b).cosine or 0)) < 1e-6


def test_minus_zero_is_other_bits_and_no_other_value() -> None:
    zeros, minus = np.zeros(3, "<f4").tobytes(), np.full(3, -0.0, "<f4").tobytes()
    found = sums_of(zeros, minus, ("F32", "F32"))
    assert (found.changed, found.changed_bits, found.norm, found.relative) == (0, 3, 0.0, 0.0)


def test_a_nan_is_one_whatever_its_payload() -> None:
    first, second = (np.array([bits, 0x3F80_0000], "<u4").tobytes() for bits in (0x7FC0_0000, 0x7FC0_0001))
    found = sums_of(first, second, ("F32", "F32"))
    assert (found.changed, found.changed_bits, found.not_finite, found.norm) == (0, 1, 1, 0.0)


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    a = np.array([np.inf, 3, np.nan, 1], "<f4")
    b = np.array([np.inf, 3, 7, 2], "<f4")
    found = sums_of(a.tobytes(), b.tobytes(), ("F32", "F32"))
    assert (found.changed, found.not_finite, found.largest, found.norm) == (2, 2, 1.0, 1.0)
    assert found.norm_a == pytest.approx(math.sqrt(10))


@pytest.mark.parametrize(
    ("dtype", "scale"), [("F32", 1e-30), ("F32", 1e30), ("F64", 1e-300), ("F64", 1e300), ("BF16", 1e-38)]
)
def test_numbers_of_any_size_have_norms(dtype: str, scale: float) -> None:
    a = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64) * scale
    b = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64) * scale
    first, second = (each.to(oracle.TORCH[dtype]).view(torch.uint8).numpy().tobytes() for each in (a, b))
    found = sums_of(first, second, (dtype, dtype))
    assert found.norm_a == pytest.approx(5 * scale, rel=0.01, abs=0)
    assert found.relative == pytest.approx(1.0, rel=0.01)
    assert found.cosine == pytest.approx(1 / math.sqrt(2), rel=0.01)


def test_far_ends_do_not_overflow() -> None:
    a, b = np.array([3e38, 1], "<f4"), np.array([-3e38, 1], "<f4")
    found = sums_of(a.tobytes(), b.tobytes(), ("F32", "F32"))
    assert found.largest == pytest.approx(6e38)
    assert found.relative == pytest.approx(2.0)
    assert found.cosine == pytest.approx(-1.0)


@pytest.mark.parametrize("dtype", ["<i8", "<u8", "<i4", "<u4"])
def test_large_integers_differ_by_one(dtype: str) -> None:
    largest = np.iinfo(dtype).max
    name = {"<i8": "I64", "<u8": "U64", "<i4": "I32", "<u4": "U32"}[dtype]
    found = sums_of(*(np.array([value, 5], dtype).tobytes() for value in (largest, largest - 1)), (name, name))
    assert (found.changed, found.largest, found.norm) == (1, 1.0, 1.0)
    least = np.iinfo(dtype).min
    found = sums_of(*(np.array([value], dtype).tobytes() for value in (least, largest)), (name, name))
    assert found.largest == pytest.approx(float(largest) - float(least))


def test_packed_types_have_bits_and_no_values() -> None:
    found = measure(b"\x12\x34", b"\x12\x35", ("F4", "F4"), projection=plan_rank((2, 2)))
    assert (found.sums, found.gram) == (Sums(changed_bits=1), None)


def test_a_small_change_has_a_cosine() -> None:
    """The dot product of float32 would say 1, or more."""
    assert cosine_of(1.0, 1.0, 1e-7) == 1 - 5e-15
    assert cosine_of(0.0, 1.0, 1.0) is None
    assert cosine_of(1.0, 1.0, 2.0) == -1.0


def test_a_change_from_zero_has_no_relative_norm() -> None:
    assert relative_norm(0.0, 1.0) is None
    assert relative_norm(0.0, 0.0) == 0.0
