"""Figures of a tensor's elements, gathered frame by frame in bounded memory: extremes, moments, a histogram.

Elements of up to 16 bits are counted by their bit pattern, so their figures are exact. Wider ones go through double
precision, and their histogram grows: where a value lies outside, the range doubles and neighbouring bins join, so
every element is counted once and in the bin that it belongs to.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from ckptfmt.api.results_tensor import Figures
from ckptfmt.diff.elements import Array, big_integers_of, floats_of
from ckptfmt.digest import Buffer
from ckptfmt.format.dtypes import BITS

BINS: Final = 48
_FINE: Final = 2048
_SMALLEST: Final = 5e-324
_BLOCK: Final = 1 << 19
"""Elements that are widened at a time."""

_F4: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""The positive half of the packed FP4 of the OCP microscaling specification."""


def why_not(dtype: str, *, dense: bool = True) -> str | None:
    """Why there are no figures of a dtype, or of a view of it with gaps; None where there are."""
    if BITS[dtype] == 6 or (BITS[dtype] < 8 and not dense):
        return f"{dtype} is packed, and no order of its bits is agreed on"
    return None


class Gathering:
    """Takes the bytes of a tensor's elements, in any order, and gives their figures.

    Args:
        dtype: of the elements, as safetensors names it.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._left = b""
        self._patterns: Array | None = None
        self._wide: _Wide | None = None
        if BITS[dtype] <= 16:
            self._patterns = np.zeros(1 << max(BITS[dtype], 8), np.int64)
        else:
            self._wide = _Wide(whole=dtype[0] in "IU")

    def add(self, data: Buffer) -> None:
        """Take some bytes; an element may end in the next ones."""
        width = max(BITS[self._dtype] // 8, 1)
        if self._left:
            data = self._left + bytes(data)
        whole = len(data) // width * width
        self._left = bytes(data[whole:])
        self.take(np.frombuffer(data, np.uint8, whole))

    def take(self, elements: Array) -> None:
        """Take whole elements, as bytes."""
        if self._wide is not None:
            data = elements.data
            whole = big_integers_of(data, self._dtype)
            numbers = floats_of(data, self._dtype) if whole is None else whole
            for begin in range(0, len(numbers), _BLOCK):
                self._wide.add(numbers[begin : begin + _BLOCK])
            return
        words = elements.view("<u2") if BITS[self._dtype] == 16 else elements
        patterns = self._patterns
        assert patterns is not None
        for begin in range(0, len(words), _BLOCK):
            patterns += np.bincount(words[begin : begin + _BLOCK], minlength=len(patterns))

    def figures(self) -> Figures:
        """Of all that was taken."""
        if self._wide is not None:
            return self._wide.figures()
        assert self._patterns is not None
        return _of_patterns(self._patterns, self._dtype)


def _of_patterns(counts: Array, dtype: str) -> Figures:
    if BITS[dtype] == 4:
        counts = counts.reshape(16, 16).sum(axis=0) + counts.reshape(16, 16).sum(axis=1)
    values = values_of(dtype)
    used = np.flatnonzero(counts)
    values, counts = values[used], counts[used]
    finite = np.isfinite(values)
    numbers, times = values[finite], counts[finite]
    total = int(times.sum())
    whole = dtype[0] in "IUB" and dtype != "BF16"
    mean = float((numbers * times).sum() / total) if total else None
    least, most = (numbers.min().item(), numbers.max().item()) if total else (None, None)
    edges, bins = _binned(numbers, times, whole=whole)
    return Figures(
        counted=int(counts.sum()),
        zeros=int(counts[values == 0].sum()),
        nans=int(counts[np.isnan(values)].sum()),
        positive_infinities=int(counts[values == np.inf].sum()),
        negative_infinities=int(counts[values == -np.inf].sum()),
        least=int(least) if whole and least is not None else least,
        most=int(most) if whole and most is not None else most,
        mean=mean,
        deviation=math.sqrt(float((times * (numbers - mean) ** 2).sum()) / total) if mean is not None else None,
        norm=math.sqrt(float((times * numbers**2).sum())) if total else None,
        edges=edges,
        counts=bins,
    )


def _binned(numbers: Array, times: Array, *, whole: bool) -> tuple[tuple[float, ...], tuple[int, ...]]:
    if not len(numbers):
        return (), ()
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return (low, high), (int(times.sum()),)
    bins, end = BINS, high
    if whole:  # Every bin holds as many whole numbers as the others.
        each = -(-int(high - low + 1) // BINS)
        bins = -(-int(high - low + 1) // each)
        end = low + bins * each
    counts, edges = np.histogram(numbers, bins=bins, range=(low, end), weights=times)
    return tuple(map(float, edges)), tuple(map(int, np.rint(counts)))


class _Wide:
    """Figures of numbers of more than 16 bits."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._counted = self._zeros = self._nans = self._above = self._below = 0
        self._finite = 0
        self._mean = self._spread = self._squares = 0.0
        self._least: Any = None
        self._most: Any = None
        self._low = self._step = 0.0
        self._fine = np.zeros(_FINE, np.int64)

    def add(self, numbers: Array) -> None:
        self._counted += len(numbers)
        self._zeros += int(np.count_nonzero(numbers == 0))
        if numbers.dtype.kind == "f":
            good = np.isfinite(numbers)
            if not good.all():
                self._nans += int(np.count_nonzero(np.isnan(numbers)))
                self._above += int(np.count_nonzero(numbers == np.inf))
                self._below += int(np.count_nonzero(numbers == -np.inf))
                numbers = numbers[good]
        if not len(numbers):
            return
        least, most = numbers.min().item(), numbers.max().item()
        self._least = least if self._least is None else min(self._least, least)
        self._most = most if self._most is None else max(self._most, most)
        wide = numbers.astype(np.float64)
        self._moments(wide)
        self._count(wide, float(least), float(most))

    def _moments(self, wide: Array) -> None:
        """Chan's update of mean and squared deviations by those of a block."""
        with np.errstate(over="ignore", invalid="ignore"):
            number, mean = len(wide), float(wide.mean())
            spread = float(np.square(wide - mean).sum())
            self._squares += float(np.square(wide).sum())
        total = self._finite + number
        apart = mean - self._mean
        self._spread += spread + apart * apart * self._finite * number / total
        self._mean += apart * number / total
        self._finite = total

    def _count(self, wide: Array, least: float, most: float) -> None:
        if not self._step:
            self._low = least
            apart = most / _FINE - least / _FINE or abs(least) / _FINE
            self._step = max(math.ceil(apart), 1.0) if self._whole else max(apart, _SMALLEST)
        while least < self._low:
            self._grow(downwards=True)
        while most > self._low + self._step * _FINE:
            self._grow(downwards=False)
        places = np.clip(wide / self._step - self._low / self._step, 0, _FINE - 1).astype(np.int64)
        self._fine += np.bincount(places, minlength=_FINE)

    def _grow(self, *, downwards: bool) -> None:
        joined = self._fine.reshape(-1, 2).sum(axis=1)
        empty = np.zeros(_FINE // 2, np.int64)
        if downwards:
            self._low -= self._step * _FINE
            self._fine = np.concatenate([empty, joined])
        else:
            self._fine = np.concatenate([joined, empty])
        self._step *= 2

    def figures(self) -> Figures:
        found = self._finite > 0
        edges, counts = self._histogram() if found else ((), ())
        return Figures(
            counted=self._counted,
            zeros=self._zeros,
            nans=self._nans,
            positive_infinities=self._above,
            negative_infinities=self._below,
            least=self._least,
            most=self._most,
            mean=_finite(self._mean) if found else None,
            deviation=_finite(math.sqrt(max(self._spread / self._finite, 0.0))) if found else None,
            norm=_finite(math.sqrt(self._squares)) if found else None,
            edges=edges,
            counts=counts,
        )

    def _histogram(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """The fine bins that hold something, joined into few of one width."""
        if self._least == self._most:
            return (float(self._least), float(self._most)), (self._finite,)
        used = np.flatnonzero(self._fine)
        first, last = int(used[0]), int(used[-1])
        each = -(-(last + 1 - first) // BINS)
        bins = -(-(last + 1 - first) // each)
        padded = np.zeros(bins * each, np.int64)
        padded[: last + 1 - first] = self._fine[first : last + 1]
        begin = self._low + first * self._step
        edges = [begin + index * each * self._step for index in range(bins + 1)]
        return tuple(edges), tuple(map(int, padded.reshape(bins, each).sum(axis=1)))


def _finite(number: float) -> float | None:
    """None where sums of finite numbers went beyond double precision."""
    return number if math.isfinite(number) else None


def values_of(dtype: str) -> Array:
    """The number that each bit pattern of a dtype of up to 16 bits stands for, as float64."""
    if dtype == "F4":
        return np.concatenate([_F4, -_F4])
    patterns = np.arange(1 << BITS[dtype], dtype=f"<u{BITS[dtype] // 8}")
    with np.errstate(invalid="ignore"):  # Some patterns are signaling NaNs.
        values: Array = floats_of(patterns.tobytes(), dtype).astype(np.float64)
        return values
