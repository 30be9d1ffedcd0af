"""The terminal UI over 10,000 refs, and over a checkpoint of 100,000 tensors: how long until a user sees something."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.listing import HEADER_BYTES, Objects, make_store, write_checkpoint
from benchmarks.measuring import Figure, Workplace, command, note
from ckptfmt.api import Store

_FRAME_AIM_SECONDS = 0.5
_OPEN_AIM_SECONDS = 0.3
_FILTER_AIM_SECONDS = 0.1
_PAGE_AIM_SECONDS = 0.05
_COLUMNS, _LINES = 120, 40
_WIDE = "wide/one"
_PATIENCE_SECONDS = 120.0


def measure(place: Workplace) -> list[Figure]:
    """Start it in a terminal of its own; then open, filter and scroll the largest checkpoint."""
    refs, tensors = (500, 5_000) if place.quick else (10_000, 100_000)
    note(f"a store of {refs:,} refs, and one of {tensors:,} tensors")
    listed, wide = place.directory / "terminal-listed", place.directory / "terminal-wide"
    cache = place.directory / "terminal-cache"
    cache.mkdir()
    make_store(listed, refs)
    make_wide(wide, tensors)
    environment = {**os.environ, "CKPTFMT_CACHE": str(cache)}
    subprocess.run([*command("ls"), "--store", str(listed)], env=environment, check=True, capture_output=True)
    words = [*command("tui"), "--store", str(listed)]
    starts = [started(words, environment, shown="exp-000") for _ in range(3 if place.quick else 11)]
    words = [sys.executable, "-m", "benchmarks.terminal", str(wide)]
    root = Path(__file__).resolve().parent.parent
    seen = json.loads(subprocess.run(words, cwd=root, env=environment, check=True, capture_output=True).stdout)
    for path in (listed, wide, cache):
        shutil.rmtree(path)
    cpu = f"CPU {statistics.median(start.cpu for start in starts):.2f} s"
    many = f"{refs:,} refs"
    large = f"a checkpoint of {tensors:,} tensors"
    return [
        _figure(
            "first frame",
            f"`ckptfmt tui`, {many}: to the first frame",
            [start.frame for start in starts],
            _FRAME_AIM_SECONDS,
        ),
        _figure("rows", f"`ckptfmt tui`, {many}: to the refs", [start.rows for start in starts], None, cpu),
        _figure("open", f"{large}: from Enter to its rows", seen["open"], _OPEN_AIM_SECONDS),
        _figure("stored", f"{large}: until how each one is stored is known", seen["kept"], None),
        _figure("filter", f"{large}: filter its names", seen["filter"], _FILTER_AIM_SECONDS),
        _figure("order", f"{large}: order them by size", seen["order"], None),
        _figure("page down", f"{large}: a page down, CPU time", seen["page"], _PAGE_AIM_SECONDS),
    ]


def _figure(name: str, what: str, times: list[float], aim: float | None, beside: str = "") -> Figure:
    return Figure(name, what, "seconds", statistics.median(times), min(times), max(times), aim, beside)


def make_wide(path: Path, tensors: int) -> None:
    """A store of one checkpoint of so many tensors."""
    Store.init(path).close()
    objects = Objects(path)
    digests = [objects.add(f"wide {index}") for index in range(tensors)]
    write_checkpoint(path, _WIDE, 0, objects.add_bytes(bytes(HEADER_BYTES)), digests)
    objects.flush()


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of a process to its first frame and to its rows, and CPU seconds until then."""

    frame: float
    rows: float
    cpu: float


def started(words: list[str], environment: dict[str, str], *, shown: str) -> Start:
    """Start a terminal UI in a terminal of its own, wait until a text of a row is shown, and end it."""
    begin = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment, TERM="xterm-256color", COLUMNS=str(_COLUMNS), LINES=str(_LINES))
        os.execvp(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    seen, first, rows = b"", 0.0, 0.0
    try:
        while not rows and time.perf_counter() - begin < _PATIENCE_SECONDS:
            if select.select([terminal], [], [], 0.5)[0]:
                seen += os.read(terminal, 1 << 16)
            if not first and b"Store" in seen:
                first = time.perf_counter() - begin
            if first and shown.encode() in seen:
                rows = time.perf_counter() - begin
    finally:
        os.kill(child, signal.SIGKILL)
        usage = os.wait4(child, 0)[2]
        os.close(terminal)
    if not rows:
        raise SystemExit(f"{' '.join(words)}: nothing to be seen")
    return Start(first, rows, usage.ru_utime + usage.ru_stime)


async def look(store: str, times: int, pages: int = 50, *, alone: bool = False) -> dict[str, list[float]]:
    """Open, filter, order and scroll the checkpoint of `make_wide`, without a terminal; seconds of each.

    `alone`: see `CkptfmtApp`.
    """
    from ckptfmt_tui.app import CkptfmtApp
    from ckptfmt_tui.screens.checkpoint import CheckpointPage
    from textual.widgets import Input

    seen: dict[str, list[float]] = {"open": [], "kept": [], "filter": [], "order": [], "page": []}
    app = CkptfmtApp(store, alone=alone)
    async with app.run_test(size=(_COLUMNS, _LINES)) as pilot:
        await pilot.pause(0.5)
        for _ in range(times):
            begin = time.perf_counter()
            page = CheckpointPage(_WIDE)
            app.push_screen(page)
            await _until(pilot, lambda page=page: page.is_mounted and len(page.table("tensors").rows) > 0)
            seen["open"].append(time.perf_counter() - begin)
            await _until(pilot, lambda page=page: page.kept is not None)
            seen["kept"].append(time.perf_counter() - begin)
            await pilot.press("t")
            table, field = page.table("tensors"), page.query_one("#filter", Input)
            for text in ("099", "model 12 weight", "no such name"):
                before = table.rows
                begin = time.perf_counter()
                field.value = text
                await _until(pilot, lambda table=table, before=before: table.rows is not before)
                seen["filter"].append(time.perf_counter() - begin)
            field.value = ""
            await pilot.press("o")
            begin = time.perf_counter()
            page.action_order()
            seen["order"].append(time.perf_counter() - begin)
            for _ in range(pages):
                begin = time.process_time()
                await pilot.press("pagedown")
                seen["page"].append(time.process_time() - begin)
            await pilot.press("escape")
            await pilot.pause(0.1)
    return seen


async def _until(pilot: Any, condition: Callable[[], bool]) -> None:
    end = time.perf_counter() + _PATIENCE_SECONDS
    while not condition():
        if time.perf_counter() > end:
            raise SystemExit("nothing to be seen")
        await asyncio.sleep(0.001)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(look(sys.argv[1], 5, alone=True))))
