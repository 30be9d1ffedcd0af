"""Progress on a terminal: one line of bytes, rate and time left, drawn only when the work takes a while."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from ckptfmt.cli.output import columns
from ckptfmt.progress import SILENT, Progress
from ckptfmt.wording import clean, duration, size

PATIENCE_SECONDS: Final = 1.0
"""Work that is over sooner is never drawn."""

_REDRAW_SECONDS: Final = 0.1
_RATE_SECONDS: Final = 5.0
_BAR_COLUMNS: Final = 20
_ROOM_FOR_BAR: Final = 100
_SIZE_COLUMNS: Final = len("999.9 MB")
_LEAST_LABEL: Final = 8
_CLEAR: Final = "\r\x1b[K"


class TerminalProgress:
    """Draws the current step on one line of `stream`. Every method may be called from any thread.

    Args:
        stream: a terminal.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._running = False
        self._work_began: float | None = None
        self._drawn_at = float("-inf")
        self._on_screen = False
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, label: str, total_bytes: int | None) -> None:
        """See `Progress.begin`."""
        with self._lock:
            now = self._clock()
            self._work_began = now if self._work_began is None else self._work_began
            self._label, self._total, self._done, self._running = clean(label), total_bytes, 0, True
            self._samples = deque([(now, 0)])
            self._draw(now)

    def advance(self, done_bytes: int) -> None:
        """See `Progress.advance`."""
        with self._lock:
            if self._running:
                self._done += done_bytes
                self._draw(self._clock())

    def end(self) -> None:
        """See `Progress.end`. The line stays until the next step draws over it, so that it does not blink."""
        with self._lock:
            self._running = False

    def close(self) -> None:
        """Take the line off the screen."""
        with self._lock:
            self._running = False
            if self._on_screen:
                self._put(_CLEAR)
                self._on_screen = False

    def _draw(self, now: float) -> None:
        began = now if self._work_began is None else self._work_began
        if now - began < PATIENCE_SECONDS or now - self._drawn_at < _REDRAW_SECONDS:
            return
        self._drawn_at = now
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        # One write a line: a terminal never shows half of one.
        self._put(f"{_CLEAR}{self._line(columns() - 1)}")
        self._on_screen = True

    def _line(self, room: int) -> str:
        """The line, at most `room` columns. Fields keep their widths, so that only digits move."""
        (first, before), (last, done) = self._samples[0], self._samples[-1]
        rate = (done - before) / (last - first) if last > first else 0.0
        numbers = f"{size(self._done):>{_SIZE_COLUMNS}}"
        if self._total:
            share = min(self._done / self._total, 1.0)
            filled = int(share * _BAR_COLUMNS)
            bar = f"[{'#' * filled}{'.' * (_BAR_COLUMNS - filled)}] " if room >= _ROOM_FOR_BAR else ""
            numbers = f"{bar}{share:4.0%}  {numbers} of {size(self._total)}"
        numbers += f"  {size(int(rate)):>{_SIZE_COLUMNS}}/s"
        if self._total and rate > 0:
            numbers += f"  {duration((self._total - self._done) / rate):>{_SIZE_COLUMNS}} left"
        spare = room - len(numbers) - 2
        label = self._label if len(self._label) <= spare else f"...{self._label[3 - spare :]}"
        return (f"{label}  {numbers}" if spare >= _LEAST_LABEL else numbers)[:room]

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # The terminal is gone; the work is not.
            self._running = False


@contextmanager
def terminal_progress(*, wanted: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """Progress on stderr while the body runs; silent where that is no terminal or nobody wants it."""
    stream = stream or sys.stderr
    if not wanted or not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield SILENT
        return
    progress = TerminalProgress(stream)
    try:
        yield progress
    finally:
        progress.close()
