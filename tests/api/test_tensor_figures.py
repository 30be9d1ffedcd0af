"""Figures of tensors against numpy and torch, over every dtype, in pieces that cut elements anywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ckptfmt.api.figures import Gathering, values_of, why_not
from ckptfmt.api.results_tensor import Figures
from ckptfmt.api.strided import strided_elements

TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def gathered(dtype: str, data: bytes, piece: int = 1001) -> Figures:
    gathering = Gathering(dtype)
    for begin in range(0, len(data), piece):
        gathering.add(memoryview(data)[begin : begin + piece])
    return gathering.figures()


def check(found: Figures, numbers: np.ndarray[Any, Any]) -> None:
    wide = numbers.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    assert found.counted == len(wide)
    assert found.zeros == int((wide == 0).sum())
    assert found.nans == int(np.isnan(wide).sum())
    assert (found.positive_infinities, found.negative_infinities) == (
        int((wide == np.inf).sum()),
        int((wide == -np.inf).sum()),
    )
    if not len(finite):
        assert (found.least, found.most, found.mean, found.counts) == (None, None, None, ())
        return
    assert (found.least, found.most) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9 * abs(finite).max())
    assert found.deviation == pytest.approx(finite.std(), rel=1e-6, abs=1e-9 * abs(finite).max())
    assert found.norm == pytest.approx(math.sqrt((finite**2).sum()), rel=1e-9)
    assert sum(found.counts) == len(finite)
    assert len(found.edges) == len(found.counts) + 1
    assert 1 <= len(found.counts) <= 48
    expected, _ = np.histogram(finite, bins=np.array(found.edges)) if len(found.counts) > 1 else ([len(finite)], 0)
    slack = 2 + len(finite) // 500  # What lies on an edge may round to either side of it.
    assert np.abs(np.array(expected) - np.array(found.counts)).max() <= slack


@pytest.mark.parametrize("dtype", TORCH)
def test_floats_are_read_as_torch_reads_them(dtype: str) -> None:
    width = torch.empty(0, dtype=TORCH[dtype]).element_size()
    data = np.random.default_rng(1).bytes(4096 * width)
    if width <= 2:
        patterns = np.arange(1 << (8 * width), dtype=f"<u{width}")
        every = torch.from_numpy(patterns.view(f"<i{width}" if width == 2 else "<u1").copy()).view(TORCH[dtype])
        np.testing.assert_array_equal(values_of(dtype), every.double().numpy())
        data += patterns.tobytes()
    numbers = torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).double().numpy()
    if width <= 2:
        check(gathered(dtype, data), numbers)
    else:  # Random bits of a double span all its exponents: only what does not overflow is compared.
        found = gathered(dtype, data)
        finite = numbers[np.isfinite(numbers)]
        assert (found.least, found.most, sum(found.counts)) == (finite.min(), finite.max(), len(finite))
        assert found.nans == np.isnan(numbers).sum()


@pytest.mark.parametrize(
    ("dtype", "native"),
    [(f"{kind}{bits}", np.dtype(f"<{kind.lower()}{bits // 8}")) for kind in ("I", "U") for bits in (8, 16, 32, 64)],
)
def test_whole_numbers(dtype: str, native: np.dtype[Any]) -> None:
    info = np.iinfo(native)
    numbers = np.random.default_rng(2).integers(max(info.min, -60), min(info.max, 100), 5000).astype(native)
    found = gathered(dtype, numbers.tobytes())
    check(found, numbers)
    assert isinstance(found.least, int)
    assert all(edge == int(edge) for edge in found.edges)
    extreme = np.array([info.min, info.max], native)
    found = gathered(dtype, extreme.tobytes())
    assert (found.least, found.most) == (info.min, info.max), "no digit is lost to double precision"


def test_truth_values_and_packed_ones() -> None:
    found = gathered("BOOL", bytes([0, 1, 1, 1]))
    assert (found.counted, found.zeros, found.least, found.most, found.mean) == (4, 1, 0, 1, 0.75)
    assert found.counts == (1, 3)
    found = gathered("F4", bytes([0x20, 0xF7]))
    assert (found.counted, found.zeros, found.least, found.most) == (4, 1, -6.0, 6.0)
    assert why_not("F6_E2M3") is not None
    assert why_not("F4", dense=False) is not None
    assert why_not("F32") is None


def test_complex_numbers_count_as_two() -> None:
    numbers = np.array([1 + 2j, 3 - 4j], np.complex64)
    check(gathered("C64", numbers.tobytes()), np.array([1, 2, 3, -4], np.float32))


@pytest.mark.parametrize("scale", [1e-310, 1e-30, 1.0, 1e30, 1e300])
def test_the_histogram_grows_to_what_comes_later(scale: float) -> None:
    random = np.random.default_rng(3)
    numbers = np.concatenate([random.standard_normal(3000) * 0.01, random.standard_normal(200_000), [40.0, -90.0]])
    with np.errstate(over="ignore"):
        found = gathered("F64", (numbers * scale).tobytes(), piece=8000)
    assert sum(found.counts) == len(numbers)
    assert found.edges[0] <= -90 * scale <= found.edges[1]
    assert found.edges[-2] <= 40 * scale <= found.edges[-1] * 1.0000001
    if 1e-30 <= scale <= 1e30:
        check(found, numbers * scale)


def test_nothing_one_value_and_nothing_finite() -> None:
    for dtype in ("F32", "BF16", "I64", "BOOL"):
        found = gathered(dtype, b"")
        assert (found.counted, found.mean, found.edges, found.counts) == (0, None, (), ())
    check(gathered("F32", np.full(10, 3.5, np.float32).tobytes()), np.full(10, 3.5))
    check(gathered("F32", np.zeros(10, np.float32).tobytes()), np.zeros(10))
    check(
        gathered("F32", np.array([np.nan, np.inf, -np.inf], np.float32).tobytes()), np.array([np.nan, np.inf, -np.inf])
    )
    check(gathered("F16", np.array([np.nan, np.inf], np.float16).tobytes()), np.array([np.nan, np.inf]))


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base[:, 3:9],
        lambda base: base[::3, ::2],
        lambda base: base.T[1:5],
        lambda base: np.broadcast_to(base[2, 4:6], (7, 2)),
        lambda base: np.lib.stride_tricks.as_strided(base, (5, 4), (4, 4)),
    ],
    ids=["columns", "steps", "transposed", "expanded", "overlapping"],
)
def test_views_with_gaps(view: Any) -> None:
    base = np.arange(400, dtype="<f4").reshape(20, 20)
    wanted = view(base)
    strides = tuple(stride // 4 for stride in wanted.strides)
    begin = (wanted.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // 4
    span = 1 + sum((size - 1) * stride for size, stride in zip(wanted.shape, strides, strict=True))
    data = base.tobytes()[begin * 4 : (begin + span) * 4]
    pieces = [data[at : at + 37] for at in range(0, len(data), 37)]
    found = np.concatenate(
        [each.view("<f4") for each in strided_elements(pieces, wanted.shape, strides, 4, most=10_000)]
    )
    assert sorted(found) == sorted(wanted.reshape(-1))
