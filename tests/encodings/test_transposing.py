"""Transposes read by windows: numpy's bytes, each source byte once a window, whatever threads ask and fail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ckptfmt.encodings.protocol import Source
from ckptfmt.encodings.references import parse_reference
from ckptfmt.encodings.transposing import Transpose, Windows
from ckptfmt.errors import FormatError

ROWS, COLUMNS = 700, 300


def matrix_of(rows: int = ROWS, columns: int = COLUMNS) -> Any:
    return np.random.default_rng(0).integers(0, 1 << 16, (rows, columns), np.uint16)


class Counted:
    """A source that counts the bytes it gives, and fails when it is told to."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.given = 0
        self.failing = 0
        self._lock = threading.Lock()

    def __call__(self, begin: int, end: int) -> bytes:
        with self._lock:
            self.given += end - begin
            if self.failing:
                self.failing -= 1
                raise FormatError("this part cannot be read")
        return self.data[begin:end]


def read(windows: Windows, source: Source, begin: int, end: int) -> bytes:
    return bytes(windows.read(Transpose(2, ROWS, COLUMNS), (source,), source, begin, end))


@pytest.mark.parametrize("size", [4096, 10_000, 1 << 16, 1 << 30])
def test_any_range_is_numpys(size: int) -> None:
    given = matrix_of()
    expected, source, windows = given.T.tobytes(), Counted(given.tobytes()), Windows(size)
    random = np.random.default_rng(1)
    for begin, end in sorted(map(sorted, random.integers(0, len(expected) // 2 + 1, (60, 2)).tolist())):
        assert read(windows, source, 2 * begin, 2 * end) == expected[2 * begin : 2 * end]
    assert read(windows, source, 0, len(expected)) == expected


@pytest.mark.parametrize("threads", [1, 4])
def test_frame_after_frame_reads_the_source_once_a_window(threads: int) -> None:
    """Frame by frame the source would be read sixty times."""
    given = matrix_of()
    expected, source, windows = given.T.tobytes(), Counted(given.tobytes()), Windows(1 << 16)
    frames = range(0, len(expected), 1 << 13)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(
            pool.map(lambda begin: read(windows, source, begin, min(begin + (1 << 13), len(expected))), frames)
        )
    assert b"".join(parts) == expected
    assert source.given <= -(-len(expected) // (1 << 16)) * len(expected)


def test_a_reference_keeps_what_it_transposed_as_long_as_its_sources_are_the_same() -> None:
    reference = parse_reference("fuse:2:1x40+60x300,transpose:2:100x300,slice:2:1x300x100:7+200")
    first = [matrix_of(40, 300), matrix_of(60, 300)[::-1]]
    for parts in (first, [np.flip(part) for part in first]):
        sources = [Counted(part.tobytes()) for part in parts]
        expected = np.concatenate(parts).T[7:207].tobytes()
        for begin in range(0, len(expected), 1000):
            basis = reference.read(sources, begin, min(begin + 1000, len(expected)))
            assert bytes(basis.words) == expected[begin : begin + 1000]
        assert sum(source.given for source in sources) == sum(part.nbytes for part in parts)


@pytest.mark.parametrize("threads", [1, 4])
def test_after_an_error_it_is_read_anew(threads: int) -> None:
    given = matrix_of()
    expected, source, windows = given.T.tobytes(), Counted(given.tobytes()), Windows()
    source.failing = 1
    outcomes: list[bytes | FormatError] = []

    def ask(number: int) -> None:
        try:
            outcomes.append(read(windows, source, 0, 1000))
        except FormatError as error:
            outcomes.append(error)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(4)))
    failed = [each for each in outcomes if isinstance(each, FormatError)]
    assert len(failed) == 1 and len(outcomes) == 4
    assert {each for each in outcomes if isinstance(each, bytes)} == {expected[:1000]}
    assert read(windows, source, 0, len(expected)) == expected


def test_what_is_given_cannot_be_changed() -> None:
    """Other threads cut theirs from the same window."""
    source = Counted(matrix_of().tobytes())
    given = Windows().read(Transpose(2, ROWS, COLUMNS), (source,), source, 0, 1000)
    assert memoryview(given).readonly


def test_a_transpose_of_a_transpose_of_the_same_shape() -> None:
    """The second waited for the first, which it took for itself."""
    data = bytes(range(64)) * 2
    reference = parse_reference("transpose:2:8x8,transpose:2:8x8")
    assert reference.length([128]) == 128
    assert bytes(reference.read([lambda begin, end: data[begin:end]], 0, 128).words) == data
    once = parse_reference("transpose:2:8x8")
    assert bytes(once.read([lambda begin, end: data[begin:end]], 0, 128).words) != data
