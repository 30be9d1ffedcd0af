"""A store that is damaged or goes away underneath is shown, never a crash; every command line that is shown is one."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.commands import line, of_job
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.screens.plan import PlanPage
from ckptfmt_tui.screens.receipts import ReceiptsPage
from ckptfmt_tui.screens.taking_in import ImportPage
from ckptfmt_tui.widgets.dialogs import ProblemDialog
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.cli.app import run as command_line
from tests.tui.piloting import piloted, shows, until

PAGES = ("merge", "cleanup", "verify", "gc", "bases")


def test_pages_of_a_store_whose_document_is_damaged(writable_store: Path) -> None:
    document = writable_store / "store.json"
    document.chmod(0o644)
    document.write_bytes(document.read_bytes()[:-10])

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        for name in PAGES:
            page = app.show_page(name)
            if isinstance(page, PlanPage):
                await until(pilot, lambda: page.job is not None and page.job.over)  # noqa: B023
                await until(pilot, lambda: shows(app, "error:", "store.json"))
            elif name in ("verify", "bases"):
                await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is page)  # noqa: B023
        await pilot.press("5", "a")
        await until(pilot, lambda: shows(app, "error:", "store.json"))

    piloted(CkptfmtApp(str(writable_store), page="merge"), act)


def test_pages_of_a_store_that_goes_away(writable_store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        for name in PAGES:
            app.show_page(name)
            await pilot.pause(0.1)
        shutil.rmtree(writable_store)
        for name in PAGES:
            page = app.show_page(name)
            await pilot.press("f5")
            await pilot.pause(0.3)
            if app.screen is not page:
                assert isinstance(app.screen, ProblemDialog)
                await pilot.press("escape")
        app.push_screen(ReceiptsPage())
        await pilot.pause(0.3)
        app.show_page("store")
        app.push_screen(ImportPage(jobs.Import(str(people / "stage-1"), "x")))
        page = app.screen
        assert isinstance(page, ImportPage)
        await until(pilot, lambda: page.job is not None and page.job.over)
        await until(pilot, lambda: shows(app, "error:"))

    piloted(CkptfmtApp(str(writable_store), page="merge"), act)


def test_a_base_that_cannot_be_read_hides_no_other(writable_store: Path) -> None:
    (record,) = (writable_store / "bases").glob("*.json")
    record.chmod(0o644)
    record.write_bytes(b"{}")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "cannot be read: bases/tiny") or shows(app, "cannot be read: tiny"))

    piloted(CkptfmtApp(str(writable_store), page="bases"), act)


@pytest.mark.parametrize(
    "job",
    [
        jobs.Import("/d", "a/{name}", base="b", parent="p", stage=2, how="stack", effort="max"),
        jobs.Merge("r", "/out", format="universal", dtype="bf16"),
        jobs.Verify(),
        jobs.Verify(("a", "b")),
        jobs.Scan(("/d",)),
        jobs.Cleanup(("/d", "/e e"), keep_weights="none", hold_days=0, only=("/d/x", "/d/y")),
        jobs.Cleanup(("/d",), apply=False),
        jobs.Undo("r-1"),
        jobs.Purge(),
        jobs.Purge("r-1"),
        jobs.Gc(0.0, 0.5),
        jobs.Gc(apply=False),
        jobs.Prune(("sweep/*",), last=3, every=100, best=("loss:min", "acc:max:2"), stages=(1, 6), tags=("paper",)),
        jobs.Fsck(full=True),
        jobs.AddBase("b", "/d", copy=True),
        jobs.VerifyBase("b", full=True, path="/d"),
        jobs.KeepBase("b"),
    ],
    ids=lambda job: type(job).__name__.lower(),
)
def test_every_command_line_that_is_shown_is_one(job: jobs.Job, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(of_job("/s", job))
    assert words[0] == "ckptfmt"
    assert command_line([*words[1:], "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_a_name_that_begins_with_a_dash_is_no_option(writable_store: Path, quick: Path) -> None:
    store = str(writable_store)
    out = str(quick / "given-back")
    for shown in (
        line(store, "rename", ["other", "-other"]),
        line(store, "show", ["-other"], ["--tensors"]),
        line(store, "tag", ["-other", "-best"]),
        line(store, "pin", ["-other"]),
        line(store, "pin", ["-other"], ["--off"]),
        of_job(store, jobs.Diff("-other", "merged/stage-1")),
        of_job(store, jobs.Verify(("-other", "merged/stage-1"))),
        of_job(store, jobs.Restore("-other", out)),
        of_job(store, jobs.Import(out, "-again", base="tiny")),
        of_job(store, jobs.Prune(("-other", "-again"), last=1, tags=("-best",))),
        line(store, "rm", ["-other"]),
        line(store, "rollback", ["-other@2"]),
    ):
        assert command_line(shlex.split(shown)[1:]) == 0, shown
    with Store.open(store) as opened:
        refs = {row.ref for row in opened.list_refs()}
    assert "-other" in refs
    assert not refs & {"other", "-again"}
