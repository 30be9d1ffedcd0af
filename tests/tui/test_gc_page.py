"""Collect and prune in the terminal UI: what goes and why, figures that agree to the byte, plans that hold no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.screens.gc import GcPage
from ckptfmt_tui.screens.prune import PrunePage
from ckptfmt_tui.widgets.dialogs import Form
from textual.pilot import Pilot
from textual.widgets import Input

from ckptfmt import Store
from ckptfmt.api.reclaiming import GcPlanned
from tests.tui.acting import answer, assert_sound, files_of, over, plan_page, planned
from tests.tui.piloting import piloted, shows, until


@pytest.fixture
def store(writable_store: Path) -> Path:
    with Store.open(writable_store) as opened:
        for name in ("other", "sweep/run-1/checkpoint-10"):
            opened.drop(name)
    return writable_store


def shard_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


async def fill(app: CkptfmtApp, pilot: Pilot[Any], **values: str) -> None:
    await until(pilot, lambda: isinstance(app.screen, Form) and app.screen.query(Input))
    for key, value in values.items():
        app.screen.query_one(f"#{key}", Input).value = value
    await pilot.pause()
    await pilot.press("enter")
    await until(pilot, lambda: not isinstance(app.screen, Form))


def test_what_a_gc_says_is_what_it_frees(store: Path) -> None:
    """With no grace and no history: freed to the byte, also as the file system sees it."""

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        job = await planned(app, pilot)
        assert job.plan.freed_bytes == 0, "what was dropped just now can still be brought back"
        await until(pilot, lambda: shows(app, "nothing to do", "30 days"))
        await pilot.press("o")
        await fill(app, pilot, grace="0", history="0")
        await until(pilot, lambda: plan_page(app).job is not job)
        again = await planned(app, pilot)
        plan: GcPlanned = again.plan
        assert plan.freed_bytes > 0
        assert {item.path for item in plan.take_out}
        assert shows(app, f"{plan.freed_bytes:,} bytes", *{item.reason[:20] for item in plan.take_out})
        assert "--grace 0 --keep-history 0 --apply" in app.command_of(again.request)
        before = shard_bytes(store)
        await pilot.press("y")
        said = await answer(pilot, "collect")
        assert f"{plan.freed_bytes:,} bytes" in said
        await over(pilot, lambda: again)
        assert again.state == "done", again.problem
        assert again.result.freed_bytes == plan.freed_bytes
        assert before - shard_bytes(store) == plan.freed_bytes - again.result.written_bytes
        await until(pilot, lambda: shows(app, f"({plan.freed_bytes:,} bytes)", "Freed"))

    piloted(CkptfmtApp(str(store), page="gc"), act, (80, 24))
    assert_sound(store)


def test_what_is_taken_out_for_later_is_what_the_plan_said(store: Path) -> None:
    """A grace of nearly nothing: files go to the trash, which the next plan shows, and the one after frees."""

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        page = app.screen
        assert isinstance(page, GcPage)
        page.grace_hours, page.history_days = 1e-4, 0.0
        await pilot.pause(0.5)
        await pilot.press("f5")
        job = await planned(app, pilot)
        plan: GcPlanned = job.plan
        assert plan.later_bytes > 0
        await pilot.press("y")
        await answer(pilot, "collect")
        await over(pilot, lambda: job)
        assert job.result.taken_out_bytes == plan.later_bytes
        await pilot.pause(0.5)
        await pilot.press("f5")
        await until(pilot, lambda: page.job is not job)
        last = await planned(app, pilot)
        assert [held.bytes for held in last.plan.trash] == [plan.later_bytes]
        assert last.plan.freed_bytes == plan.later_bytes
        await until(pilot, lambda: shows(app, "in the trash", "due, frees"))

    piloted(CkptfmtApp(str(store), page="gc"), act)


def test_a_ref_that_comes_back_while_the_plan_is_shown_loses_nothing(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        page = app.screen
        assert isinstance(page, GcPage)
        page.grace_hours = page.history_days = 0.0
        await pilot.press("f5")
        job = await planned(app, pilot)
        with Store.open(store) as other:
            other.rollback("other@1")
        await until(pilot, lambda: shows(app, "The store changed since this plan was made"))
        await pilot.press("y")
        await answer(pilot, "collect")
        await over(pilot, lambda: job)
        assert job.over

    piloted(CkptfmtApp(str(store), page="gc"), act)
    assert_sound(store)
    with Store.open(store) as opened:
        assert opened.show("other").ref == "other"


def test_ages_that_are_none_make_no_command_line(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, Form) and shows(app, "ckptfmt gc --apply"))
        app.screen.query_one("#grace", Input).value = "a day"
        await until(pilot, lambda: shows(app, "numbers, at least 0", "ckptfmt gc …"))
        assert not shows(app, "--grace 0"), "it would free at once"

    piloted(CkptfmtApp(str(store), page="gc"), act)


def test_read_only_shows_what_a_gc_would_do(store: Path) -> None:
    before = files_of(store)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = app.screen
        assert isinstance(page, GcPage)
        page.grace_hours = page.history_days = 0.0
        await planned(app, pilot)
        await pilot.press("f5")
        job = await planned(app, pilot)
        assert (job.state, job.result.applied) == ("done", False)
        await until(pilot, lambda: shows(app, f"{job.result.plan.freed_bytes:,} bytes"))
        assert not shows(app, "Do it")
        assert not shows(app, "Prune")
        await pilot.press("y", "n")
        await pilot.pause(0.1)
        assert app.screen is page

    piloted(CkptfmtApp(str(store), page="gc", read_only=True), act)
    assert files_of(store) == before


def test_prune_from_its_policy_to_its_result(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        await pilot.press("n")
        await fill(app, pilot, patterns="sweep/*", last="1", best="eval_loss:max")
        await until(pilot, lambda: isinstance(app.screen, PrunePage))
        job = await planned(app, pilot)
        assert job.request == jobs.Prune(("sweep/*",), last=1, best=("eval_loss:max",))
        assert [each.ref for each in job.plan.dropped] == ["sweep/run-1/checkpoint-20"]
        assert {each.ref.rpartition("-")[2]: each.reasons for each in job.plan.kept}.keys() == {"10", "30"}
        assert shows(app, "drop", "checkpoint-20", "2 of 3 kept, ordered by step", "pinned")
        await pilot.press("y")
        said = await answer(pilot, None)
        assert "Frees nothing now" in said
        await over(pilot, lambda: job)
        await until(pilot, lambda: shows(app, "Dropped 1 name, kept 2", "rollback sweep/run-1/checkpoint-20@1"))

    piloted(CkptfmtApp(str(writable_store), page="gc"), act)
    with Store.open(writable_store) as opened:
        assert "sweep/run-1/checkpoint-20" not in {row.ref for row in opened.list_refs()}


def test_what_moved_on_while_a_prune_was_shown_stays_and_is_told(writable_store: Path) -> None:
    """The plan that was shown is what is done: a ref with a newer generation is none of it."""

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        app.push_screen(PrunePage(jobs.Prune(("sweep/*",), last=1)))
        job = await planned(app, pilot)
        assert len(job.plan.dropped) == 2
        with Store.open(writable_store) as other:
            other.tag("sweep/run-1/checkpoint-20", ("paper",))
        await until(pilot, lambda: shows(app, "The store changed since this plan was made"))
        await pilot.press("y")
        await answer(pilot, None)
        await over(pilot, lambda: job)
        await until(pilot, lambda: shows(app, "Dropped 1 name", "1 name moved on meanwhile"))

    piloted(CkptfmtApp(str(writable_store), page="gc"), act)
    with Store.open(writable_store) as opened:
        names = {row.ref for row in opened.list_refs("sweep/*")}
    assert names == {"sweep/run-1/checkpoint-20", "sweep/run-1/checkpoint-30"}


def test_a_policy_that_names_an_unknown_metric_is_refused_in_words(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await planned(app, pilot)
        app.push_screen(PrunePage(jobs.Prune(best=("nothing:min",))))
        job = await planned(app, pilot)
        assert job.state == "failed"
        await until(pilot, lambda: shows(app, "error:", "nothing", "failed"))

    piloted(CkptfmtApp(str(writable_store), page="gc"), act)
