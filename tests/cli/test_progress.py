from __future__ import annotations

import io
import threading

import pytest

from ckptfmt.cli.progress import TerminalProgress, terminal_progress
from ckptfmt.progress import SILENT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_quick_work_draws_nothing() -> None:
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("runs/a", 100)
    for _ in range(9):
        clock.now += 0.1
        progress.advance(10)
    progress.end()
    progress.close()
    assert terminal.writes == []


def test_long_work_shows_bytes_rate_and_time_left_on_one_line() -> None:
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("runs/a", 10_000_000_000)
    for _ in range(20):
        clock.now += 0.11
        progress.advance(110_000_000)
    drawn = terminal.writes[-1]
    assert drawn.startswith("\r\x1b[K")
    assert "runs/a" in drawn
    for part in ("22%", "2.2 GB of 10.0 GB", "1.0 GB/s", "8 s left"):
        assert part in drawn
    assert "\n" not in "".join(terminal.writes)
    assert max(len(text) for text in terminal.writes) < 80 + len("\r\x1b[K")
    assert len(terminal.writes) <= 13, "ten times a second, not for every byte"
    progress.end()
    progress.close()
    assert terminal.writes[-1] == "\r\x1b[K"


def test_a_wide_terminal_has_room_for_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("runs/a", 1000)
    clock.now += 2
    progress.advance(500)
    assert "runs/a  [##########..........]  50%" in terminal.writes[-1]


def test_a_narrow_terminal_keeps_to_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("runs/a", 1000)
    clock.now += 2
    progress.advance(500)
    assert len(terminal.writes[-1]) == 19 + len("\r\x1b[K")


def test_many_short_steps_are_long_work_too() -> None:
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    for step in range(30):
        progress.begin(f"runs/{step}", 100)
        clock.now += 0.11
        progress.advance(100)
        progress.end()
    assert "runs/29" in terminal.writes[-1]


def test_a_step_without_a_total_has_bytes_and_rate() -> None:
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("hashing", None)
    clock.now += 2
    progress.advance(2000)
    assert terminal.writes == ["\r\x1b[Khashing    2.0 kB    1.0 kB/s"]


def test_a_long_label_is_cut_from_the_left_and_cannot_move_the_cursor() -> None:
    clock, terminal = Clock(), Terminal()
    progress = TerminalProgress(terminal, clock)
    progress.begin("\x1b[2J" + "deep/" * 40 + "end", 1000)
    clock.now += 2
    progress.advance(500)
    (drawn,) = terminal.writes
    assert "\x1b[2J" not in drawn
    assert "..." in drawn
    assert "end   50%" in drawn
    assert len(drawn) <= 79 + len("\r\x1b[K")


def test_threads_may_advance_at_once() -> None:
    terminal = Terminal()
    progress = TerminalProgress(terminal)
    progress.begin("all", 8 * 10_000)
    threads = [threading.Thread(target=lambda: [progress.advance(1) for _ in range(10_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress._done == 8 * 10_000


def test_a_terminal_that_is_gone_does_not_stop_the_work() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError

    clock = Clock()
    progress = TerminalProgress(Gone(), clock)
    progress.begin("x", 10)
    clock.now += 2
    progress.advance(5)
    progress.advance(5)
    progress.close()


def test_silent_without_a_terminal_or_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_progress(wanted=True, stream=io.StringIO()) as progress:
        assert progress is SILENT
    with terminal_progress(wanted=False, stream=Terminal()) as progress:
        assert progress is SILENT
    with terminal_progress(wanted=True, stream=Terminal()) as progress:
        assert isinstance(progress, TerminalProgress)
    monkeypatch.setenv("TERM", "dumb")
    with terminal_progress(wanted=True, stream=Terminal()) as progress:
        assert progress is SILENT


def test_the_line_is_gone_after_an_error() -> None:
    terminal = Terminal()

    def fail() -> None:
        with terminal_progress(wanted=True, stream=terminal) as progress:
            assert isinstance(progress, TerminalProgress)
            progress._clock = lambda: 100.0
            progress.begin("x", 10)
            progress._clock = lambda: 105.0
            progress.advance(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(terminal.writes) == 2
    assert terminal.writes[-1] == "\r\x1b[K"
