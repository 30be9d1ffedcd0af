"""Whoever is quick, or stops early: what is done is what was meant, and what ends says how."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs import worker
from ckptfmt_tui.screens.cleanup import CleanupPage
from ckptfmt_tui.screens.gc import GcPage
from ckptfmt_tui.screens.jobs import JobsPage
from ckptfmt_tui.screens.merge import MergePage, Target
from ckptfmt_tui.screens.prune import PrunePage
from ckptfmt_tui.screens.store import StorePage
from ckptfmt_tui.widgets import path_picker
from ckptfmt_tui.widgets.path_picker import PathPicker
from textual.pilot import Pilot

from ckptfmt import Store
from tests.tui.acting import bloated, held_up, over, picker_on_top, planned
from tests.tui.piloting import piloted, shows, until


def test_names_in_a_message_are_no_markup(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        app.notify("restored to /data/[/foo]/run[lr=1e-4]/x [io]\n\x1b[31mred", title="[b]a title")
        await until(pilot, lambda: shows(app, "[/foo]", "run[lr=1e-4]", "[io]", "[b]a title", "\\x1b[31mred"))

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_job_that_is_stopped_at_once_was_stopped(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        job = app.start(jobs.Verify(), "verify everything")
        job.stop()
        await over(pilot, lambda: job)
        assert job.state == "stopped"
        assert job.problem is not None
        assert job.problem.code == "interrupted"

    piloted(CkptfmtApp(str(made_store)), act)


def test_ages_that_change_while_it_plans_are_those_of_the_plan(writable_store: Path) -> None:
    with Store.open(writable_store) as opened:
        opened.drop("other")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, GcPage) and app.screen.job is not None)
        page = app.screen
        assert isinstance(page, GcPage)
        first = page.job
        page._changed({"grace": "240", "history": "0"})
        job = await planned(app, pilot)
        assert job is not first
        assert job.request == jobs.Gc(240.0, 0.0)
        await until(pilot, lambda: shows(app, "grace 240 hours", "keep history 0 days"))
        assert first is not None
        await over(pilot, lambda: first)
        assert first.state == "stopped"

    piloted(CkptfmtApp(str(writable_store), page="gc"), act)


def test_a_plan_that_is_stopped_is_made_anew_at_once(writable_store: Path) -> None:
    """It was agreed to by nobody: nothing has to end before."""
    with Store.open(writable_store) as opened:
        opened.drop("other")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, GcPage)
        first = await planned(app, pilot)
        assert first.state == "asking"
        page.action_stop()
        assert first.state == "stopping"
        assert not page.is_executing
        page.action_reload()
        assert page.job is not first
        again = await planned(app, pilot)
        assert again.state == "asking"
        await over(pilot, lambda: first)
        assert first.state == "stopped"
        with held_up(again):
            app.agree(again)
            await until(pilot, lambda: again.was_agreed)
            page.action_reload()
            assert page.job is again, "what is being done is not planned anew"
        await over(pilot, lambda: again)
        assert again.state == "done", again.problem

    piloted(CkptfmtApp(str(writable_store), page="gc"), act)


def test_a_plan_page_that_is_left_early_leaves_no_error(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = PrunePage(jobs.Prune(last=1))
        app.push_screen(page)
        await until(pilot, lambda: page.job is not None)
        app.pop_screen()
        job = await over(pilot, lambda: page.job)
        assert job.state == "stopped"

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_page_that_was_hidden_shows_what_jobs_came_to(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage))
        await pilot.press("1")
        await until(pilot, lambda: not isinstance(app.screen, JobsPage))
        job = app.start(jobs.Verify(("nothing/such",)), "verify nothing/such")
        await over(pilot, lambda: job)
        await pilot.press("8")
        await until(pilot, lambda: shows(app, "verify nothing/such", "no ref 'nothing/such'"))

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_filter_stays_when_the_store_changes(writable_store: Path) -> None:
    with Store.open(writable_store) as opened:
        opened.drop("other")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = PrunePage(jobs.Prune(last=1))
        app.push_screen(page)
        await until(pilot, lambda: page.job is not None and page.job.state == "asking")
        await until(pilot, lambda: len(page.table.rows) > 1)
        await pilot.press("slash", *"checkpoint-10", "enter")
        await until(pilot, lambda: len(page.table.rows) == 1)
        page.store_changed()
        await until(pilot, lambda: shows(app, "The store changed since this plan was made"))
        assert len(page.table.rows) == 1

    piloted(CkptfmtApp(str(writable_store)), act)


def test_enter_takes_the_path_that_is_typed(tmp_path: Path, made_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk is slow: what was listed before is not it."""
    (tmp_path / "m").mkdir()
    whole = path_picker.look_into
    taken: list[object] = []

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return whole(*arguments, **named)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        app.push_screen(PathPicker("where", f"{tmp_path}/m", "new"), taken.append)
        await picker_on_top(pilot)
        monkeypatch.setattr(path_picker, "look_into", slow)
        await pilot.press("2", "enter")
        await until(pilot, lambda: taken)
        assert taken == [f"{tmp_path}/m2"]

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_cleanup_of_nothing_has_no_command_line(writable_store: Path, quick: Path) -> None:
    """Without `--only` it would take everything."""
    bloated(quick, writable_store, "one", "two")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, CleanupPage)
        page.directories = (str(quick / "tree"),)
        page.scan()
        await until(pilot, lambda: page.report is not None and page.plan_request.only is None)
        await until(pilot, lambda: shows(app, "$ ckptfmt cleanup"))
        await pilot.press("A")
        await until(pilot, lambda: page.plan_request.only == ())
        await until(pilot, lambda: shows(app, "$ ckptfmt scan"))
        await pilot.press("p")
        await until(pilot, lambda: shows(app, "nothing is taken"))
        assert app.screen is page

    piloted(CkptfmtApp(str(writable_store), page="cleanup"), act)


def test_one_name_that_cannot_be_read_keeps_no_other_from_being_verified(writable_store: Path) -> None:
    with Store.open(writable_store) as opened:
        manifest = opened.show("stages/stage-3").id
    path = writable_store / "manifests" / manifest[:2] / f"{manifest}.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-20])

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, StorePage)
        await until(pilot, lambda: any(line.path == "stages" for line in page.table.rows))
        page.table.cursor = next(at for at, line in enumerate(page.table.rows) if line.path == "stages")
        await pilot.press("v")
        job = await over(pilot, lambda: app.jobs[-1] if app.jobs else None)
        assert job.problem is None
        assert "stages/stage-1" in job.request.refs
        assert "stages/stage-3" not in job.request.refs

    piloted(CkptfmtApp(str(writable_store)), act)


@pytest.mark.parametrize("told", [b"stop\n", b"go\nstop\n", b""])
def test_a_stop_whose_signal_is_lost_is_heeded(monkeypatch: pytest.MonkeyPatch, told: bytes) -> None:
    """What is raised while Python loads a module may be swallowed; a plan is not executed for all that."""
    monkeypatch.setattr(worker.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(worker.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(told)))
    descriptor = os.open(os.devnull, os.O_WRONLY)
    agreement = worker.Agreement(worker.Teller(descriptor))
    agreement.listen()
    with pytest.raises(KeyboardInterrupt):
        agreement.ask({})
    os.close(descriptor)


def test_an_answer_that_comes_as_the_application_is_left_is_not_drawn(
    made_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widgets go one after the other then: some may not be there any more."""
    drawn: list[object] = []

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, MergePage)
        page._choose("stages/stage-1")
        await until(pilot, lambda: page.target is not None)
        with monkeypatch.context() as patch:
            patch.setattr(MergePage, "_draw", lambda page: drawn.append(page))  # noqa: PLW0108 - it is a method
            app._running = False
            page._looked(Target(page.out, None, 1), begin=False)
            assert not drawn
            app._running = True
            page._looked(Target(page.out, None, 1), begin=False)
            assert drawn == [page]

    piloted(CkptfmtApp(str(made_store), page="merge"), act)
