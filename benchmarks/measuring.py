"""How things are measured: whole commands in turn, from the same state of the page cache, medians and spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import launching

Unit = Literal["ratio", "seconds", "MB", "MB/s"]


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where and how large.

    Attributes:
        directory: a new directory; it needs about three times `size_bytes` of free space, and of free memory too:
            what is read lies in the page cache.
        size_bytes: of the checkpoint that is copied, taken in and restored.
        pairs: measurements of each figure, after one warm-up.
        quick: small inputs, to see that everything runs.
    """

    directory: Path
    size_bytes: int
    pairs: int
    quick: bool

    @property
    def cache(self) -> Path:
        """Where catalogs go."""
        return self.directory / "cache"


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of one command: wall and CPU seconds, the largest resident set in bytes, and what it printed."""

    wall: float
    cpu: float
    peak_bytes: int
    output: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result: `seen` is the median, `low` and `high` the extremes; no `aim` is for information."""

    name: str
    what: str
    unit: Unit
    seen: float
    low: float
    high: float
    aim: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the aim was reached; None where there is none."""
        return None if self.aim is None else self.seen <= self.aim


def note(text: str) -> None:
    """Tell a person what goes on."""
    print(f"  {text}", file=sys.stderr, flush=True)


def command(*words: str) -> list[str]:
    """A command line of `ckptfmt`, installed beside this Python."""
    return [str(Path(sys.executable).parent / "ckptfmt"), *words]


def run_timed(words: Sequence[str], *, cache: Path) -> Timed:
    """Run a command to its end in a process of its own, with its catalogs in `cache`.

    Raises:
        SystemExit: it failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    # Compiled modules are kept, as in any installation, wherever the caller's own settings would have them.
    own = {"CKPTFMT_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPYCACHEPREFIX": str(cache.parent / "compiled")}
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted} | own
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "result.json"
        launcher = [sys.executable, launching.__file__, str(result), *words]
        done = subprocess.run(launcher, capture_output=True, env=environment, check=True)
        wall, cpu, peak_bytes, code = json.loads(result.read_text())
    if code:
        raise SystemExit(f"{' '.join(words)}: exit code {code}: {done.stderr.decode()}")
    return Timed(wall, cpu, peak_bytes, done.stdout.decode())


def in_turn(runs: Sequence[Callable[[], Timed]], count: int) -> list[list[Timed]]:
    """Run each once to warm up, then A B A B …; gives the measurements of each."""
    for run in runs:
        run()
    measured: list[list[Timed]] = [[] for _ in runs]
    for _ in range(count):
        for run, times in zip(runs, measured, strict=True):
            times.append(run())
    return measured


def ratio(name: str, what: str, ours: Sequence[Timed], theirs: Sequence[Timed], *, aim: float | None) -> Figure:
    """The median of the ratios of wall times, run by run; the note gives medians in seconds, and CPU seconds."""
    ratios = [a.wall / b.wall for a, b in zip(ours, theirs, strict=True)]
    cpu = statistics.median(a.cpu / b.cpu for a, b in zip(ours, theirs, strict=True))
    walls = (statistics.median(timed.wall for timed in times) for times in (ours, theirs))
    words = "{:.2f} s against {:.2f} s; CPU time {:.2f} times".format(*walls, cpu)
    return Figure(name, what, "ratio", statistics.median(ratios), min(ratios), max(ratios), aim, words)


def summary(name: str, what: str, times: Sequence[Timed], *, aim: float | None) -> Figure:
    """The median of wall times in seconds."""
    walls = [timed.wall for timed in times]
    cpu = statistics.median(timed.cpu for timed in times)
    return Figure(name, what, "seconds", statistics.median(walls), min(walls), max(walls), aim, f"CPU {cpu:.2f} s")


def read_through(directory: Path) -> None:
    """Bring every file below `directory` into the page cache."""
    buffer = bytearray(8 << 20)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def settle(*warm: Path) -> None:
    """Nothing dirty, and the bytes below `warm` in the page cache: the state from which every run starts."""
    os.sync()
    for directory in warm:
        read_through(directory)
