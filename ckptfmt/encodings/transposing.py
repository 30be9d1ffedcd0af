"""Transposed matrices, range by range. Specified in docs/format/encodings/delta.md.

Every row of a transpose is spread over all of the matrix, so any range of it needs the whole. A *window* is a stretch
of many frames that is made at once and kept, so that the matrix is read once a window: the threads that need it share
the work, band of rows after band of rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.encodings.protocol import Source
from ckptfmt.errors import FormatError

WINDOW_BYTES: Final = 128 << 20
_KEPT: Final = 2
"""Threads that need the end of one may come after those that need the beginning of the next."""
_BAND_BYTES: Final = 4 << 20
_BAND_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Transpose:
    """A matrix of `rows` x `columns` elements of `width` bytes as the matrix of `columns` x `rows`."""

    width: int
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """`transpose:<width>:<rows>x<columns>`."""
        return f"transpose:{self.width}:{self.rows}x{self.columns}"

    @property
    def size(self) -> int:
        """Bytes of the matrix, either way."""
        return self.width * self.rows * self.columns

    def length(self, given: int) -> int:
        """The same length."""
        if given != self.size:
            raise FormatError(f"{self.name}: {given} bytes are no such matrix")
        return given

    def read(self, source: Source, begin: int, end: int) -> Buffer:
        """Transpose the columns that the range lies in; the whole source is read once, in bands of rows."""
        stretch = _Stretch(self, begin, end)
        for row in stretch.bands:
            stretch.fill(source, row)
        return stretch.cut(begin, end)


class _Stretch:
    """A range of the transpose, from `begin` to `end`, that is filled in band after band."""

    def __init__(self, matrix: Transpose, begin: int, end: int) -> None:
        column = matrix.rows * matrix.width
        self._matrix = matrix
        self._first, self._last = begin // column, -(-end // column)
        self._result: Any = np.empty((self._last - self._first, matrix.rows), f"V{matrix.width}")
        many = max(1, min(_BAND_ROWS, _BAND_BYTES // (matrix.columns * matrix.width)))
        self.bands = range(0, matrix.rows, many)

    def fill(self, source: Source, row: int) -> None:
        """Fill in what the band of rows from `row` on has of it."""
        columns, width = self._matrix.columns, self._matrix.width
        many, line = min(self.bands.step, self._matrix.rows - row), columns * width
        band = np.frombuffer(source(row * line, (row + many) * line), f"V{width}").reshape(many, columns)
        self._result[:, row : row + many] = band[:, self._first : self._last].T

    def cut(self, begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of the transpose."""
        flat = self._result.reshape(-1).view(np.uint8)
        flat.flags.writeable = False
        skipped = self._first * self._matrix.rows * self._matrix.width
        part: memoryview = flat[begin - skipped : end - skipped].data
        return part


class _Window:
    """A stretch that several threads fill in together."""

    def __init__(self, stretch: _Stretch) -> None:
        self._stretch = stretch
        self._lock = threading.Lock()
        self._waiting = iter(stretch.bands)
        self._left = len(stretch.bands)
        self._ended = threading.Event()

    def help(self, source: Source) -> bool:
        """Fill in bands as long as there are any, and wait for those of other threads; tell whether all came out."""
        while True:
            with self._lock:
                row = next(self._waiting, None)
            if row is None:
                break
            try:
                self._stretch.fill(source, row)
            except BaseException:
                self._ended.set()
                raise
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._ended.set()
        self._ended.wait()
        return not self._left

    def cut(self, begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of the transpose."""
        return self._stretch.cut(begin, end)


class Windows:
    """Transposes, read by windows of `size` bytes, and the columns at their ends; the last two are kept."""

    def __init__(self, size: int = WINDOW_BYTES) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._sources: tuple[Source, ...] = ()
        self._windows: OrderedDict[tuple[Transpose, int], _Window] = OrderedDict()

    def read(self, matrix: Transpose, sources: Sequence[Source], source: Source, begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of the transpose of a matrix.

        One object serves one step of a reference: two steps of the same shape have other bytes, and the second is made
        of the first.

        Args:
            matrix: its shape.
            sources: what `source` is made of; windows are known by them, each the very same.
            source: its bytes.
            begin: first byte.
            end: one past the last.
        """
        if end - begin > self._size or matrix.rows * matrix.width > self._size // 2:
            return matrix.read(source, begin, end)
        parts = []
        while begin < end:
            stop = min(end, (begin // self._size + 1) * self._size)
            window = self._window(matrix, sources, begin // self._size)
            try:
                whole = window.help(source)
            except BaseException:
                self._forget(window)
                raise
            # Where another thread failed, its error is this one's too, or none: what this range needs is read anew.
            parts.append(window.cut(begin, stop) if whole else matrix.read(source, begin, stop))
            begin = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _window(self, matrix: Transpose, sources: Sequence[Source], index: int) -> _Window:
        with self._lock:
            if list(map(id, self._sources)) != list(map(id, sources)):
                self._sources = tuple(sources)
                self._windows.clear()
            if (matrix, index) in self._windows:
                self._windows.move_to_end((matrix, index))
                return self._windows[matrix, index]
            while len(self._windows) >= _KEPT:
                self._windows.popitem(last=False)
            begin = index * self._size
            window = _Window(_Stretch(matrix, begin, min(begin + self._size, matrix.size)))
            self._windows[matrix, index] = window
            return window

    def _forget(self, window: _Window) -> None:
        with self._lock:
            for key in [key for key, each in self._windows.items() if each is window]:
                del self._windows[key]
