"""The terminal UI in a real terminal: tmux shows what a person would see."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here: install the package tmux")

COMMAND = [sys.executable, "-c", "from ckptfmt.cli import main; main()"]
_COLOUR = re.compile(r"[34]8;2;(\d+);(\d+);(\d+)")


class Terminal:
    """A window of tmux, in which a shell runs a command line and then tells how it ended."""

    def __init__(self, socket: Path, words: list[str], size: tuple[int, int], environment: dict[str, str]) -> None:
        self._socket = socket
        line = f"before=$(stty -g); {shlex.join(words)}; echo left $?; [ $(stty -g) = $before ] && echo restored; cat"
        variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        width, height = map(str, size)
        self._tmux("-f", os.devnull, "new-session", "-d", *variables, "-x", width, "-y", height, "sh", "-c", line)

    def _tmux(self, *words: str) -> str:
        ran = subprocess.run(["tmux", "-S", str(self._socket), *words], capture_output=True, text=True, check=True)
        return ran.stdout

    def text(self, *options: str) -> str:
        """What stands in the window."""
        return self._tmux("capture-pane", "-p", *options)

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type letters, all at once."""
        self._tmux("send-keys", "-l", text)

    def resize(self, width: int, height: int) -> None:
        """Make the window larger or smaller."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def about(self, *flags: str) -> list[str]:
        """What tmux knows of the window."""
        return self._tmux("display-message", "-p", " ".join(f"#{{{flag}}}" for flag in flags)).split()

    def process(self) -> int:
        """The process that runs in it: the one below the shell."""
        shell = self.about("pane_pid")[0]
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", shell], capture_output=True, text=True, check=True)
        return int(listed.stdout.split()[0])

    def until(self, *texts: str, without: str | None = None, seconds: float = 30.0) -> str:
        """Wait until all of these stand there, and one thing does not."""
        end = time.monotonic() + seconds
        while True:
            shown = self.text()
            if all(text in shown for text in texts) and (without is None or without not in shown):
                return shown
            assert time.monotonic() < end, f"not within {seconds:g} s: {texts}; the terminal:\n{shown}"
            time.sleep(0.05)

    def left(self) -> None:
        """Wait until it has ended well, and the terminal is as it was."""
        self.until("left 0", "restored")
        assert self.about("alternate_on", "cursor_flag", "mouse_any_flag") == ["0", "1", "0"]

    def close(self) -> None:
        """Close it."""
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False)


class Opened:
    """Opens terminals for a test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.terminals: list[Terminal] = []

    def __call__(self, store: Path, *words: str, size: tuple[int, int] = (80, 24), **variables: str) -> Terminal:
        # A socket's path may have about a hundred letters.
        environment = {name: os.environ[name] for name in ("PYTHONPATH", "CKPTFMT_CACHE") if name in os.environ}
        words = (*COMMAND, "tui", "--store", str(store), *words)
        socket = self._directory / str(len(self.terminals))
        self.terminals.append(Terminal(socket, list(words), size, environment | variables))
        return self.terminals[-1]


@pytest.fixture
def opened(quick: Path) -> Iterator[Opened]:
    """Opens `ckptfmt tui` in a terminal."""
    made = Opened(quick)
    yield made
    for terminal in made.terminals:
        terminal.close()


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_it_is_read_and_used_and_left(made_store: Path, opened: Opened, size: tuple[int, int]) -> None:
    terminal = opened(made_store, size=size)
    shown = terminal.until("checkpoint-10", "1 Store", "8 Jobs", "q Quit")
    assert max(map(len, shown.split("\n"))) <= size[0]
    assert len(shown.rstrip("\n").split("\n")) <= size[1]
    assert terminal.about("alternate_on") == ["1"]
    terminal.type("/merged")
    terminal.until("merged", without="checkpoint-10")
    terminal.press("Escape")
    terminal.until("checkpoint-10")
    terminal.type("?")
    terminal.until("Keys: Store", "Mark this checkpoint")
    terminal.press("Escape")
    terminal.until("checkpoint-10", without="Keys: Store")
    terminal.type("2")
    terminal.until("Two checkpoints side by side")
    terminal.type("q")
    terminal.left()


def test_it_follows_the_size_of_the_terminal(made_store: Path, opened: Opened) -> None:
    terminal = opened(made_store, size=(100, 30))
    terminal.until("checkpoint-10", "q Quit")
    for width, height in ((160, 48), (60, 14), (30, 8), (120, 40)):
        terminal.resize(width, height)
        terminal.until("Quit" if width > 40 else "Filter", "merged")
    terminal.type("q")
    terminal.left()


def test_without_colours(made_store: Path, opened: Opened) -> None:
    coloured = opened(made_store, COLORTERM="truecolor")
    plain = opened(made_store, COLORTERM="truecolor", NO_COLOR="1")
    told = {}
    for terminal in (coloured, plain):
        terminal.until("checkpoint-10", "OWN")
        told[terminal] = set(_COLOUR.findall(terminal.text("-e")))
    assert any(len(set(rgb)) > 1 for rgb in told[coloured])
    assert all(len(set(rgb)) == 1 for rgb in told[plain]), "only shades of grey"
    plain.type("q")
    plain.left()


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_leaving_asks_while_a_job_runs(made_store: Path, opened: Opened, key: str) -> None:
    terminal = opened(made_store)
    terminal.until("checkpoint-10", "q Quit")
    terminal.type("v")
    worker = _child_of(terminal.process())
    os.kill(worker, signal.SIGSTOP)  # So that it runs for as long as this test wants it to.
    try:
        terminal.until("verify")
        terminal.press(key)
        terminal.until("Stop these jobs and quit?")
        terminal.press("Escape")
        terminal.until("checkpoint-10", without="Stop these jobs")
    finally:
        os.kill(worker, signal.SIGCONT)
    terminal.until("done")
    terminal.press(key)
    terminal.left()


def test_a_job_that_runs_is_stopped_on_the_way_out(made_store: Path, opened: Opened) -> None:
    terminal = opened(made_store)
    terminal.until("checkpoint-10", "q Quit")
    terminal.type("v")
    worker = _child_of(terminal.process())
    os.kill(worker, signal.SIGSTOP)
    terminal.press("q")
    terminal.until("Stop these jobs and quit?")
    terminal.press("y")
    os.kill(worker, signal.SIGCONT)
    terminal.left()
    end = time.monotonic() + 20
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < end, "the job outlived the application"
        time.sleep(0.05)


def _child_of(process: int) -> int:
    """The job's process, as soon as there is one."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        words = ["ps", "-o", "pid=,args=", "--ppid", str(process)]
        for line in subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines():
            if "ckptfmt_tui.jobs.worker" in line:
                return int(line.split()[0])
        time.sleep(0.01)
    raise AssertionError("no job was started")
