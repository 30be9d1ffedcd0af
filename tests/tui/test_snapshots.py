"""Every screen as a picture, at two sizes, compared with the one in `snapshots/`.

`CKPTFMT_UPDATE_SNAPSHOTS=1` writes them anew: look at what changed before it is committed.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import running
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.screens import merge
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.path_picker import PathPicker
from msgspec.structs import replace
from textual.pilot import Pilot

import ckptfmt.store.refs
from ckptfmt.api import cleaning
from ckptfmt.api.results_reclaim import ReceiptRow
from tests.tui.piloting import piloted, shows, until
from tests.tui.screens import DATA, SCREENS, STORE, Clock, Screen, make_cleaned, make_store, make_trees, plain, settle

SNAPSHOTS = Path(__file__).with_name("snapshots")
ROOM = re.compile(rb'("available_bytes": )\d+')
SIZES = ((80, 24), (160, 48))
UPDATE = "CKPTFMT_UPDATE_SNAPSHOTS"
_STILL = 2
"""How often in a row a picture is the same before it counts."""
_STILL_SECONDS = 5.0
"""How long one that is not the expected one may go on changing."""


@pytest.fixture(scope="module")
def shown_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the pictures show, in a directory of its own."""
    top = tmp_path_factory.mktemp("snapshots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTFMT_CACHE", str(top / "cache"))
        patch.setattr(ckptfmt.store.refs, "datetime", Clock())
        patch.chdir(top)
        for _ in make_store(Path("people"), Path(STORE)):
            pass
        make_trees(top)
        make_cleaned(top)
        settle(top / "people")
        settle(top / "trees")
    return top


@pytest.fixture
def told_as_data(shown_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let jobs and pages tell of `/data` where the tests' directory is meant, of the same room, and of no zone."""
    here, there = f"{shown_store}/".encode(), f"{DATA}/".encode()
    encode, decode, receipts = running.encode, running.decode_event, cleaning.list_receipts

    def heard(line: bytes) -> bytes:
        return ROOM.sub(rb"\g<1>250000000000", line.replace(here[:-1], there[:-1]))

    def told(row: ReceiptRow) -> ReceiptRow:
        directories = tuple(each.replace(str(shown_store), DATA) for each in row.directories)
        moments = {"receipt": "20260314T100000-0123456789ab", "created": "2026-03-14T10:00:00Z"}
        return replace(row, directories=directories, hold_until="2026-03-21T10:00:00Z", **moments)

    monkeypatch.setattr(running, "encode", lambda message: encode(message).replace(there, here))
    monkeypatch.setattr(running, "decode_event", lambda line: decode(heard(line)))
    monkeypatch.setattr(cleaning, "list_receipts", lambda store: tuple(map(told, receipts(store))))
    monkeypatch.setattr(merge, "refused", lambda path, want: None)
    monkeypatch.setattr(merge, "free_bytes", lambda path: 250_000_000_000)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.name)
def test_a_screen_looks_as_it_did(
    shown_store: Path,
    told_as_data: None,
    screen: Screen,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shown_store)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(RunningJob, "seconds", property(lambda job: 2.0))
    taken = ""
    expected = SNAPSHOTS / f"{screen.name}-{size[0]}x{size[1]}.svg"
    before = expected.read_text(encoding="utf-8") if expected.exists() else ""

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        nonlocal taken
        if screen.open is not None:
            await until(pilot, lambda: app.screen.query(CommandLine))
            screen.open(app)
        for text, *keys in screen.keys:
            await until(pilot, lambda text=text: shows(app, text))  # type: ignore[misc]
            await pilot.press(*keys)
        await until(pilot, lambda: shows(app, *screen.shown))
        # Of no worker at all it would wait for every one: also for a job that waits for a word.
        if readers := [worker for worker in app.workers if worker.group == "reading"]:
            await app.workers.wait_for_complete(readers)
        if isinstance(picker := app.screen, PathPicker):  # Sizes are told one after the other.
            below = [entry.path for entry in picker.table.rows if entry.kind == "directory"]
            await until(pilot, lambda: picker._sizes.keys() >= set(below))
        # A dialog keeps what it first drew of the page below, which may not have been laid out then.
        end = time.monotonic() + _STILL_SECONDS
        still = 0
        while still < _STILL or (taken != before and time.monotonic() < end):
            app.screen.refresh()
            await pilot.pause(0.03)
            now = plain(app.export_screenshot(title="ckptfmt", simplify=True))
            still = still + 1 if now == taken else 0
            taken = now

    app = CkptfmtApp(screen.store, page=screen.page)
    app.marks = dict(screen.marks)
    app.animation_level = "none"
    piloted(app, act, size)
    if os.environ.get(UPDATE):
        SNAPSHOTS.mkdir(exist_ok=True)
        expected.write_text(taken, encoding="utf-8")
        return
    if before != taken:
        seen = tmp_path / expected.name
        seen.write_text(taken, encoding="utf-8")
        lines = difflib.unified_diff(before.splitlines(), taken.splitlines(), "before", "now", n=0, lineterm="")
        few = "\n".join(line[:200] for line in list(lines)[:20])
        pytest.fail(
            f"{screen.name} looks otherwise: open {seen} beside {expected} in a browser; "
            f"{UPDATE}=1 makes it the new one\n{few}",
            pytrace=False,
        )


def test_there_is_no_picture_without_a_screen() -> None:
    wanted = {f"{screen.name}-{width}x{height}.svg" for screen in SCREENS for width, height in SIZES}
    assert {path.name for path in SNAPSHOTS.iterdir()} == wanted
