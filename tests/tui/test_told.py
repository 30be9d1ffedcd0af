"""What people read is what holds: command lines, questions, times, lines about what is over, headers."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.protocol import Failed, Finished, Planned, encode
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.heat import column_widths, headers
from ckptfmt_tui.screens import merge as merge_page
from ckptfmt_tui.screens.cleanup import CleanupPage
from ckptfmt_tui.screens.diff import DiffPage
from ckptfmt_tui.screens.jobs import JobsPage
from ckptfmt_tui.screens.merge import MergePage
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.receipts import ReceiptsPage
from ckptfmt_tui.screens.verify import VerifyPage
from ckptfmt_tui.widgets.chooser import Chooser
from ckptfmt_tui.widgets.dialogs import Confirmation, ProblemDialog
from ckptfmt_tui.widgets.job_bar import JobBar
from textual.pilot import Pilot
from textual.widgets import Button, Input

from ckptfmt import Store
from ckptfmt.api import cleaning
from tests.tui.acting import bloated, held_up, over, planned
from tests.tui.piloting import piloted, screen_text, shows, until


def bar(app: CkptfmtApp) -> str:
    """What the line of jobs says; nothing where it is hidden."""
    shown = app.screen.query_one(JobBar)
    return str(shown.render()) if shown.display else ""


def test_a_command_line_that_is_cut_says_so_and_is_copied_whole(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "stages", "$ ckptfmt ls"))
        whole = "ckptfmt restore a/run/checkpoint-100 /data/out --store " + "/very/long" * 10
        cast("Page", app.screen).tell_command(whole)
        await until(pilot, lambda: shows(app, "$ ckptfmt restore"))
        assert shows(app, "…  Ctrl+Y copies all of it")
        line = next(line for line in screen_text(app).split("\n") if line.startswith(" $ ckptfmt"))
        assert len(line) <= 80
        await pilot.press("ctrl+y")
        assert app.clipboard == whole
        await pilot.resize_terminal(240, 30)
        await until(pilot, lambda: shows(app, f"$ {whole}"))
        assert not shows(app, "Ctrl+Y copies")

    piloted(CkptfmtApp(str(made_store)), act, (80, 24))


def test_a_question_is_answered_by_y_and_n(made_store: Path) -> None:
    answers: list[object] = []

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        for key in ("y", "n", "enter", "escape"):
            app.push_screen(
                Confirmation("Put back?", ["all of it"], command="ckptfmt cleanup --undo x"), answers.append
            )
            await until(pilot, lambda: isinstance(app.screen, Confirmation) and app.screen.query("#go"))
            assert app.screen.focused is app.screen.query_one("#go")
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(app.screen, Confirmation))
        assert answers == [True, None, True, None]

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_word_that_has_to_be_typed_does_not_stand_there_already(made_store: Path) -> None:
    answers: list[object] = []

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        app.push_screen(Confirmation("Delete?", ["all of it"], command="", typed="yes"), answers.append)
        await until(pilot, lambda: isinstance(app.screen, Confirmation) and app.screen.query("#typed"))
        field = app.screen.query_one("#typed", Input)
        assert (field.value, field.placeholder) == ("", "")
        assert app.screen.query_one("#go", Button).disabled
        await pilot.press("y", "enter")
        assert field.value == "y", "a letter is typed, and answers nothing"
        assert isinstance(app.screen, Confirmation)
        await pilot.press("e", "s", "enter")
        await until(pilot, lambda: answers == [True])

    piloted(CkptfmtApp(str(made_store)), act)


@pytest.mark.parametrize("agreed", [True, False])
def test_waiting_for_a_word_is_no_work(monkeypatch: pytest.MonkeyPatch, *, agreed: bool) -> None:
    now = 0.0
    job = RunningJob(1, jobs.Gc(), "gc", began_at=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        now = 3.0
        job._take(encode(Planned({})), (dict, dict))
        assert job.seconds == 3.0
        now = 100.0
        assert (job.state, job.seconds) == ("asking", 3.0)
        if agreed:
            asyncio.run(job.agree())
            now = 105.0
            assert job.seconds == 8.0
            job._take(encode(Finished({})), (dict, dict))
        else:
            job.stop()
            now = 101.0
            job._take(encode(Failed("interrupted", "stopped", None, 130)), (dict, dict))
        now = 200.0
        assert job.seconds == (8.0 if agreed else 4.0)


def test_the_line_of_jobs_tells_nothing_old_on_another_page(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "stages"))
        job = app.start(jobs.Verify(("other",)), "verify other")
        await over(pilot, lambda: job)
        await until(pilot, lambda: "verify other" in bar(app))
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage) and shows(app, "all sound"))
        assert bar(app) == ""
        again = app.start(jobs.Verify(("other",)), "verify it again")
        await over(pilot, lambda: again)
        await until(pilot, lambda: "verify it again" in bar(app))

    piloted(CkptfmtApp(str(made_store)), act)


def test_a_comparison_says_when_other_sides_are_chosen(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "A is the base of B"))
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.screen, Chooser))
        await pilot.press(*"./nowhere", "enter")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, DiffPage) and shows(app, "c compares what is chosen now"))
        assert shows(app, "below are bases/tiny and merged/stage-1")
        assert not shows(app, "A is the base of B")

    app = CkptfmtApp(str(made_store), page="diff")
    app.marks = {"a": "bases/tiny", "b": "merged/stage-1"}
    piloted(app, act)


@pytest.mark.parametrize(
    "names",
    [
        ("q_proj", "k_proj", "up_proj", "down_proj", "gate_proj"),
        ("input_layernorm", "post_attention_layernorm", "q_norm"),
        ("experts.0.up_proj", "experts.1.up_proj", "experts.10.up_proj"),
        ("model.aa.kkkkkkkk", "model.ab.kkkkkkkk", "model.ba.kkkkkkkk", "model.bb.kkkkkkkk"),
        ("self_attn.o_proj", "cross_attn.o_proj", "self_attn.o_proj_bias"),
    ],
)
@pytest.mark.parametrize("room", [20, 40, 80, 200])
def test_headers_of_the_heat_map_are_told_apart(names: tuple[str, ...], room: int) -> None:
    widths = column_widths(names, room)
    told = headers(names, widths)
    assert len(set(told)) == len(names), told
    assert all(len(text) <= width for text, width in zip(told, widths, strict=True))
    assert all(text == name for text, name, width in zip(told, names, widths, strict=True) if len(name) <= width)


def test_the_picker_of_a_merge_says_what_cannot_be_merged(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, MergePage))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Chooser) and app.screen.table.rows)
        await until(pilot, lambda: shows(app, "cannot: has no adapter to merge"))
        chooser = cast("Chooser[Any]", app.screen)
        refused = {row.ref for row in chooser.table.rows if row.refusal}
        # The later stages do not say how they go on from the ones before.
        assert refused == {"other", "merged/stage-1", "stages/stage-2", "stages/stage-3"}
        with Store.open(made_store) as store:
            assert refused == set(store.refusals())

    piloted(CkptfmtApp(str(made_store), page="merge"), act)


def test_a_target_on_a_slow_disk_holds_up_nothing(made_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(path: str) -> int:
        answered.wait(20)
        return 123_400_000

    monkeypatch.setattr(merge_page, "free_bytes", slow)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = cast("MergePage", app.screen)
        page._choose("stages/stage-1")
        await until(pilot, lambda: page.recipe is not None and shows(app, "looking at what is free"))
        await pilot.press("t")
        await until(pilot, lambda: shows(app, "bf16"))
        assert page.target is None
        answered.set()
        await until(pilot, lambda: shows(app, "123.4 MB are free"))

    try:
        piloted(CkptfmtApp(str(made_store), page="merge"), act)
    finally:
        answered.set()


def test_a_plan_of_nothing_waits_for_nobody(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("6", "1")
        await until(pilot, lambda: app.jobs and app.jobs[0].state == "asking")
        assert app.jobs[0].is_idle
        await pilot.press("8")
        await until(pilot, lambda: isinstance(app.screen, JobsPage) and shows(app, "nothing to do"))
        assert not shows(app, "waits for your word")
        await pilot.press("6")
        await until(pilot, lambda: shows(app, "nothing to do", "grace 24 hours"))
        assert not shows(app, "waits for your word")

    piloted(CkptfmtApp(str(made_store)), act)


def test_an_undo_that_is_stopped_says_so(writable_store: Path, quick: Path) -> None:
    bloated(quick, writable_store, "one")
    with Store.open(writable_store) as opened:
        report = cleaning.execute(opened, cleaning.plan(opened, [quick / "tree"]))

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ReceiptsPage) and app.screen.table.rows)
        page = cast("ReceiptsPage", app.screen)
        page._undo(jobs.Undo(str(report.receipt)))
        app.jobs[-1].stop()
        await over(pilot, lambda: app.jobs[-1])
        assert app.jobs[-1].state == "stopped"
        await until(pilot, lambda: shows(app, "Stopped: what was put back"))
        assert not isinstance(app.screen, ProblemDialog)

    piloted(CkptfmtApp(str(writable_store), page="cleanup"), act)


def test_a_directory_that_is_gone_takes_no_other_along(writable_store: Path, quick: Path) -> None:
    bloated(quick, writable_store, "one", "two")
    tree, gone = str(quick / "tree"), str(quick / "gone")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = cast("CleanupPage", app.screen)
        page._chosen(tree)
        await until(pilot, lambda: page.report is not None)
        await pilot.press("down", "space")
        left = page._left
        assert left
        page._chosen(gone)
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await pilot.press("escape")
        await until(pilot, lambda: page.report is not None and shows(app, f"{gone}: it is not there"))
        assert (page.directories, page._left) == ((tree,), left)
        assert len([job for job in app.jobs if isinstance(job.request, jobs.Scan)]) == 2, "nothing is looked at again"
        await pilot.press("f5")
        await until(pilot, lambda: len(app.jobs) == 3 and page.report is not None)
        assert page.table.rows

    piloted(CkptfmtApp(str(writable_store), page="cleanup"), act)


def test_a_tree_that_was_cleaned_since_says_so(writable_store: Path, quick: Path) -> None:
    bloated(quick, writable_store, "one")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = cast("CleanupPage", app.screen)
        page._chosen(str(quick / "tree"))
        await until(pilot, lambda: page.report is not None)
        await pilot.press("p")
        job = await planned(app, pilot)
        assert not page._is_old
        app.agree(job)
        await over(pilot, lambda: job)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is page and shows(app, "F5 looks again"))
        await pilot.press("f5")
        await until(pilot, lambda: page.report is not None and not shows(app, "F5 looks again"))

    piloted(CkptfmtApp(str(writable_store), page="cleanup"), act)


def test_a_tree_that_is_cleaned_while_it_is_looked_at_says_so(writable_store: Path, quick: Path) -> None:
    """Who leaves the plan while it is executed sees the tree as it was, and is told when it is no more."""
    bloated(quick, writable_store, "one")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = cast("CleanupPage", app.screen)
        page._chosen(str(quick / "tree"))
        await until(pilot, lambda: page.report is not None)
        await pilot.press("p")
        job = await planned(app, pilot)
        with held_up(job):
            app.agree(job)
            await until(pilot, lambda: job.was_agreed)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is page and shows(app, "cleaning all frees"))
            assert not shows(app, "F5 looks again")
            assert not job.over
        await over(pilot, lambda: job)
        assert job.state == "done", job.problem
        await until(pilot, lambda: shows(app, "F5 looks again"))
        assert app.screen is page

    piloted(CkptfmtApp(str(writable_store), page="cleanup"), act)


def test_a_page_that_is_not_in_sight_reads_when_it_is_shown_again(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, VerifyPage) and app.screen.listing.rows)
        page = cast("VerifyPage", app.screen)
        await pilot.press("1")
        await until(pilot, lambda: shows(app, "other"))
        with Store.open(writable_store) as opened:
            opened.drop("other")
        await until(pilot, lambda: not shows(app, "other"))
        assert any(row.ref == "other" for row in page.listing.rows), "nobody looks at it"
        await pilot.press("5")
        await until(pilot, lambda: all(row.ref != "other" for row in page.listing.rows))

    piloted(CkptfmtApp(str(writable_store), page="verify"), act)


def test_what_was_verified_is_told_and_what_was_not(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, VerifyPage) and app.screen.listing.rows)
        page = cast("VerifyPage", app.screen)
        await pilot.press("f")
        await over(pilot, lambda: page.job)
        await until(pilot, lambda: shows(app, "Not decoded:", "nothing is wrong with the structure"))
        assert not shows(app, "nothing is damaged")
        page._start(jobs.Verify(("other",)), "verify other")
        await over(pilot, lambda: page.job)
        await until(pilot, lambda: shows(app, "Decoded: all of 1 checkpoint. Not looked at: all others"))
        with Store.open(writable_store) as opened:
            opened.drop("other")
        await until(pilot, lambda: shows(app, "Since then checkpoints came, went, or changed."))

    piloted(CkptfmtApp(str(writable_store), page="verify"), act, (80, 24))


def test_what_is_filtered_on_one_part_of_a_comparison_is_on_the_next(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "CHANGE", "q_proj"))
        page = cast("DiffPage", app.screen)
        await pilot.press("f")
        await until(pilot, lambda: page.table_of("files").rows)
        before = len(page.table_of("files").rows)
        await pilot.press("t", "slash", *"nothing such", "enter", "f")
        await until(pilot, lambda: shows(app, "nothing fits the filter"))
        await pilot.press("escape")
        await until(pilot, lambda: len(page.table_of("files").rows) == before)

    app = CkptfmtApp(str(made_store), page="diff")
    app.marks = {"a": "bases/tiny", "b": "merged/stage-1"}
    piloted(app, act)
