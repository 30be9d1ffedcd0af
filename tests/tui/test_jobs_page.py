"""The page of jobs: what runs, how it ended, in words; stopping one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as ask
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.screens.jobs import JobsPage
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.dialogs import Confirmation
from textual.pilot import Pilot

from tests.tui.piloting import piloted, shows, until


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_jobs_and_how_they_ended(made_store: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage) and shows(app, "no job was started yet"))
        app.start(ask.Verify(("other",)), "verify other")
        failed = app.start(ask.Restore("nobody", str(tmp_path / "out")), "restore nobody")
        await until(pilot, lambda: all(job.over for job in app.jobs))
        await until(pilot, lambda: shows(app, "verify other", "done", "restore nobody", "failed"))
        assert failed.problem is not None
        page = app.screen
        assert isinstance(page, JobsPage)
        page.table.cursor = 0
        await until(pilot, lambda: shows(app, "error: no ref 'nobody'", "hint: ckptfmt ls"))
        assert page.query_one(CommandLine).command.startswith("ckptfmt restore nobody")
        page.table.cursor = 1
        await until(pilot, lambda: shows(app, "decoded and compared: all sound"))
        await pilot.press("slash", *"nobody", "enter")
        await until(pilot, lambda: len(page.table.rows) == 1)
        await pilot.press("escape")
        await until(pilot, lambda: len(page.table.rows) == 2)
        await pilot.press("x")
        assert [job.state for job in app.jobs] == ["done", "failed"], "what is over is not stopped"

    piloted(CkptfmtApp(str(made_store)), act, size)


def test_a_job_that_asks_is_stopped_here(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage))
        job = app.start(ask.Gc(0.0, 0.0), "collect")
        await until(pilot, lambda: job.state == "asking")
        await until(pilot, lambda: shows(app, "asking", "waits for your word"))
        # A plan that waits is lost without a question; what runs is not.
        app.jobs.append(RunningJob(9, ask.Verify(), "verify"))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, Confirmation) and shows(app, "Stop these jobs and quit?"))
        assert not shows(app, "collect: ")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, JobsPage))
        app.jobs.pop()
        page = app.screen
        assert isinstance(page, JobsPage)
        await until(pilot, lambda: page.table.current is job)
        await pilot.press("x")
        await until(pilot, lambda: job.state == "stopped")
        await until(pilot, lambda: shows(app, "stopped", "its plan was left: nothing was done"))
        assert job._process is not None
        with pytest.raises(ProcessLookupError):
            os.kill(job._process.pid, 0)

    piloted(CkptfmtApp(str(writable_store)), act)


def test_read_only_runs_no_job_that_writes(made_store: Path, tmp_path: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage))
        refused = app.start(ask.Restore("other", str(tmp_path / "out")), "restore other")
        looked = app.start(ask.LookAt("other", 0), "look at a tensor")
        await until(pilot, lambda: refused.over and looked.over)
        assert (refused.state, looked.state) == ("failed", "done")
        assert refused.problem is not None
        assert refused.problem.code == "read-only"
        assert not (tmp_path / "out").exists()

    piloted(CkptfmtApp(str(made_store), read_only=True), act)
