"""How long the terminal UI's thread is held up while it merges: what a key press would wait for."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figure, Workplace, note
from benchmarks.merge_inputs import make_adapter, make_base
from ckptfmt.api import Store

BEAT_SECONDS = 0.005
_AIM_SECONDS = 0.05
_PATIENCE_SECONDS = 1800.0
_TOUR = (
    *("2", "3", "4", "5", "6", "7", "8", "1", "down", "enter", "escape", "question_mark", "escape"),
    *("slash", "s", "escape", "ctrl+p", "escape", "pagedown", "home"),
)
_THEMES = ("ctrl+t", "ctrl+t")


@dataclass(frozen=True)
class Beat:
    """How late one beat of the loop came, what the loop worked since the last, in seconds, and the key pressed then."""

    late: float
    worked: float
    key: str


@dataclass
class Beats:
    """The beats of the application's loop."""

    heard: list[Beat] = field(default_factory=list)
    key: str = ""

    async def listen(self) -> None:
        """Beat until cancelled."""
        while True:
            begin, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            late = max(time.perf_counter() - begin - BEAT_SECONDS, 0.0)
            self.heard.append(Beat(late, time.thread_time() - used, self.key))

    @property
    def document(self) -> dict[str, Any]:
        """The latest beat and the most work between two, theirs at a change of the theme, and the machine's load."""
        toured = [beat for beat in self.heard if beat.key not in _THEMES]
        themes = [beat for beat in self.heard if beat.key in _THEMES]
        latest, hardest = max(toured, key=attrgetter("late")), max(toured, key=attrgetter("worked"))
        return {
            "late": latest.late,
            "late_key": latest.key,
            "late_999": percentile([beat.late for beat in self.heard], 0.999),
            "worked": hardest.worked,
            "worked_key": hardest.key,
            "theme": max(beat.late for beat in themes),
            "beats": len(self.heard),
            "load": os.getloadavg()[0],
        }


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def measure(place: Workplace) -> list[Figure]:
    """Merge a model of 2 GB as a job, and use the application meanwhile."""
    size = 100_000_000 if place.quick else 2_000_000_000
    note(f"a model of {size / 1e9:g} GB to merge in the terminal UI")
    top = place.directory / "blocking"
    layers = make_base(top / "base", size)
    make_adapter(top / "adapter", layers, 1)
    with Store.init(top / "store") as store:
        store.add_base("base", top / "base")
        store.import_path(top / "adapter", name="adapter", base="base")
    runs = [_run(top, number) for number in range(1 if place.quick else 3)]
    shutil.rmtree(top)
    what = f"the terminal UI while a job merges {size / 1e9:g} GB"
    load = f"load {statistics.median(run['load'] for run in runs):.1f}, {runs[0]['beats']:,.0f} beats"
    return [
        _figure("late", f"{what}: the latest beat of its loop", runs, _AIM_SECONDS, _keys("late", runs)),
        _figure("late_999", f"{what}: the 99.9th percentile", runs, None, load),
        _figure("worked", f"{what}: most CPU time between two beats", runs, _AIM_SECONDS, _keys("worked", runs)),
        _figure("theme", f"{what}: the latest beat at a change of the theme", runs, _AIM_SECONDS, ""),
    ]


def _keys(what: str, runs: list[dict[str, Any]]) -> str:
    return "at " + ", ".join(dict.fromkeys(f"`{run[f'{what}_key']}`" for run in runs))


def _run(top: Path, number: int) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "benchmarks.terminal_blocking",
        str(top / "store"),
        "adapter",
        str(top / f"out-{number}"),
    ]
    root = Path(__file__).resolve().parent.parent
    told: dict[str, Any] = json.loads(subprocess.run(words, cwd=root, check=True, capture_output=True).stdout)
    shutil.rmtree(top / f"out-{number}")
    return told


def _figure(key: str, what: str, runs: list[dict[str, Any]], aim: float | None, beside: str) -> Figure:
    values = [run[key] for run in runs]
    return Figure(f"blocking {key}", what, "seconds", statistics.median(values), min(values), max(values), aim, beside)


async def use(store: str, ref: str, out: str, *, alone: bool = False) -> Beats:
    """Merge, and tour the application until the merge is over.

    Args:
        store: its path.
        ref: what is merged.
        out: where to.
        alone: see `CkptfmtApp`.

    Raises:
        SystemExit: the merge failed.
    """
    from ckptfmt_tui.app import CkptfmtApp
    from ckptfmt_tui.jobs.requests import Merge

    beats = Beats()
    app = CkptfmtApp(store, alone=alone)
    async with app.run_test(size=(160, 48)) as pilot:
        for key in (*_TOUR, *_THEMES):  # Pages load their modules when they are first shown, job or not.
            await pilot.press(key)
        await pilot.pause(0.5)
        job = app.start(Merge(ref, out), f"merge {ref}")
        listening = asyncio.create_task(beats.listen())
        end = time.monotonic() + _PATIENCE_SECONDS
        while not job.over and time.monotonic() < end:
            for beats.key in (*_TOUR, *_THEMES):
                await pilot.press(beats.key)
                await asyncio.sleep(0.02)
        listening.cancel()
        if job.state != "done":
            raise SystemExit(f"the merge: {job.state} {job.problem}")
    return beats


if __name__ == "__main__":
    print(json.dumps(asyncio.run(use(*sys.argv[1:4], alone=True)).document))
