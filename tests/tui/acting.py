"""What tests of pages that change something share: answering windows, following jobs, trees to clean up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.screens.plan import PlanPage
from ckptfmt_tui.widgets.dialogs import Confirmation, ProblemDialog
from ckptfmt_tui.widgets.path_picker import PathPicker
from textual.pilot import Pilot
from textual.widgets import Input

from ckptfmt import Store
from tests.reclaim.making import Place
from tests.tui.piloting import until


async def pick(pilot: Pilot[Any], path: Path | str) -> None:
    """Type a path into the picker on top, and use it."""
    picker = await picker_on_top(pilot)
    picker.field.value = f"{path}/" if os.path.isdir(path) else str(path)
    await until(pilot, lambda: picker.table.current is not None and picker.table.current.path == str(path))
    await pilot.press("enter")
    await until(pilot, lambda: pilot.app.screen is not picker)


async def picker_on_top(pilot: Pilot[Any]) -> PathPicker:
    """The path picker, once it lists something."""
    await until(pilot, lambda: isinstance(pilot.app.screen, PathPicker) and pilot.app.screen.query("#help"))
    picker = pilot.app.screen
    assert isinstance(picker, PathPicker)
    await until(pilot, lambda: picker.table.rows)
    return picker


async def answer(pilot: Pilot[Any], typed: str | None) -> str:
    """Agree to the confirmation on top, typing what it asks for; gives back what it said."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirmation) and pilot.app.screen.query("#go"))
    window = pilot.app.screen
    said = str(window.query_one("#lines").render())  # type: ignore[attr-defined]
    if typed is None:
        await pilot.click("#go")
    else:
        window.query_one("#typed", Input).value = typed
        await pilot.pause()
        await pilot.press("enter")
    await until(pilot, lambda: pilot.app.screen is not window)
    return said


def plan_page(app: Any) -> PlanPage:
    """The page of a plan that is on top."""
    assert isinstance(app.screen, PlanPage), app.screen
    return app.screen


async def planned(app: CkptfmtApp, pilot: Pilot[Any]) -> RunningJob:
    """Wait for the plan of the page on top."""
    await until(pilot, lambda: isinstance(app.screen, PlanPage) and app.screen.job is not None)
    job = plan_page(app).job
    assert job is not None
    await until(pilot, lambda: job.over or job.state == "asking")
    return job


async def over(pilot: Pilot[Any], job: Callable[[], RunningJob | None], seconds: float = 60.0) -> RunningJob:
    """Wait for the end of a job."""
    await until(pilot, lambda: job() is not None and job().over, seconds)  # type: ignore[union-attr]
    found = job()
    assert found is not None
    return found


@contextmanager
def held_up(job: RunningJob) -> Iterator[None]:
    """The process of a job gets no further meanwhile."""
    assert job._process is not None
    os.kill(job._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(job._process.pid, signal.SIGCONT)


def problem(app: Any) -> str:
    """What the problem window on top says."""
    assert isinstance(app.screen, ProblemDialog), app.screen
    return "\n".join(app.screen.problem.lines())


def bloated(top: Path, store: Path | str, *names: str) -> list[Path]:
    """A tree of adapters with the base's weights beside each; the paths of the weights."""
    with Store.open(store) as opened:
        place = Place(top, opened)
        return [place.bloated(name, seed=index) for index, name in enumerate(names)]


def files_of(top: Path) -> dict[str, bytes]:
    """Every file below a directory, but what a cleanup holds."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and ".ckptfmt-hold" not in path.parts
    }


def assert_sound(store: Path | str) -> None:
    """The store is whole: everything decodes, nothing is wrong with its structure, nothing waits to be published."""
    with Store.open(store) as opened:
        assert opened.verify().damaged == ()
        problems = opened.fsck(full=True).problems
        assert problems == (), problems
