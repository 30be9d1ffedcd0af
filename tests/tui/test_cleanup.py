"""Clean up in the terminal UI: the tree, what is picked, figures that agree to the byte, undo and purge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens.cleanup import CleanupPage
from ckptfmt_tui.screens.cleanup_plan import CleanupPlanPage, PurgePage
from ckptfmt_tui.screens.receipts import ReceiptsPage
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.api.results_reclaim import CleanupReport, PurgeReport
from tests.tui.acting import answer, assert_sound, bloated, files_of, over, pick, plan_page, planned
from tests.tui.piloting import piloted, shows, until


@pytest.fixture
def store(quick: Path) -> Path:
    path = quick / "store"
    Store.init(path).close()
    return path


def page(app: CkptfmtApp) -> CleanupPage:
    assert isinstance(app.screen, CleanupPage), app.screen
    return app.screen


async def scanned(app: CkptfmtApp, pilot: Pilot[Any], tree: Path) -> CleanupPage:
    await until(pilot, lambda: isinstance(app.screen, CleanupPage))
    await pilot.press("d")
    await pick(pilot, tree)
    found = page(app)
    await until(pilot, lambda: found.report is not None)
    await pilot.pause()
    return found


def held_bytes(tree: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (tree / ".ckptfmt-hold").rglob("*") if path.is_file())


def test_from_a_directory_to_the_purge_with_the_same_figures(store: Path, quick: Path) -> None:
    """What the plan frees is what is held, and what a purge deletes, to the byte; then the store gives it back."""
    weights = bloated(quick, store, "first", "second")
    tree = quick / "tree"
    before = files_of(tree)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        found = await scanned(app, pilot, tree)
        promised = found.report.reclaimable_bytes if found.report else 0
        assert shows(app, "tree", "[x]", "cleaning all frees")
        await pilot.press("p")
        job = await planned(app, pilot)
        plan: CleanupReport = job.plan
        assert plan.plan is not None
        assert plan.plan.freed_bytes == promised == sum(path.stat().st_blocks * 512 for path in weights)
        assert files_of(tree) == before, "a plan moves nothing"
        await pilot.press("y")
        said = await answer(pilot, "clean up")
        assert f"{plan.plan.freed_bytes:,} bytes" in said
        await over(pilot, lambda: job)
        assert job.state == "done", job.problem
        done: CleanupReport = job.result
        assert done.held_bytes == plan.plan.freed_bytes == held_bytes(tree)
        assert done.grown_bytes <= plan.plan.needed_bytes
        await until(pilot, lambda: shows(app, f"{done.held_bytes:,} bytes", str(done.receipt)))
        assert not any(path.exists() for path in weights)

        await pilot.press("escape", "r")
        await until(pilot, lambda: isinstance(app.screen, ReceiptsPage) and app.screen.table.rows)
        assert shows(app, "held", str(done.receipt)[:20])
        await pilot.press("p")
        purge = await planned(app, pilot)
        purged_plan: PurgeReport = purge.plan
        assert [row.held_bytes for row in purged_plan.plan or ()] == [done.held_bytes]
        await pilot.press("y")
        await answer(pilot, "delete")
        await over(pilot, lambda: purge)
        assert purge.result.freed_bytes == done.held_bytes
        assert held_bytes(tree) == 0
        await until(pilot, lambda: shows(app, "Freed", f"({done.held_bytes:,} bytes)"))

    piloted(CkptfmtApp(str(store), page="cleanup"), act, (80, 24))
    with Store.open(store) as opened:
        for number, path in enumerate(weights):
            opened.restore(f"tree/{path.parent.name}", quick / f"out-{number}")
            assert (quick / f"out-{number}" / path.name).read_bytes() == before[str(path.relative_to(tree))]
    assert_sound(store)


def test_what_is_left_out_stays_and_undo_puts_the_rest_back(store: Path, quick: Path) -> None:
    first, second = bloated(quick, store, "first", "second")
    tree = quick / "tree"
    before = files_of(tree)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        found = await scanned(app, pilot, tree)
        at = next(i for i, line in enumerate(found.table.rows) if line.node.path == str(second.parent))
        found.table.cursor = at
        await pilot.press("space")
        assert shows(app, "[ ] second", "[x] first", "1 checkpoint left out")
        assert found.plan_request.only == (str(first.parent),)
        await pilot.press("p")
        job = await planned(app, pilot)
        plan = job.plan.plan
        assert [file.path for each in plan.checkpoints for file in each.files] == [str(first)]
        assert {each.path: each.reason for each in plan.staying} == {str(second): "its checkpoint was not picked"}
        plan_page(app).table.action_edge(-1)
        await until(pilot, lambda: shows(app, "its checkpoint was not picked"))
        await pilot.press("y")
        await answer(pilot, "clean up")
        await over(pilot, lambda: job)
        assert second.exists()
        assert not first.exists()
        await pilot.press("escape", "r")
        await until(pilot, lambda: isinstance(app.screen, ReceiptsPage) and app.screen.table.rows)
        await pilot.press("u")
        await answer(pilot, None)
        await until(pilot, lambda: files_of(tree) == before, 30)
        await until(pilot, lambda: shows(app, "undone"))

    piloted(CkptfmtApp(str(store), page="cleanup"), act)
    assert_sound(store)


def test_a_hold_of_nothing_deletes_at_once_and_says_so(store: Path, quick: Path) -> None:
    (path,) = bloated(quick, store, "run")
    allocated = path.stat().st_blocks * 512

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        found = await scanned(app, pilot, quick / "tree")
        await pilot.press("h")
        await until(pilot, lambda: app.screen is not found)
        await pilot.press("0", "enter")
        await until(pilot, lambda: shows(app, "none: deleted at once"))
        assert "--hold 0" in app.command_of(found.plan_request)
        await pilot.press("p")
        job = await planned(app, pilot)
        await pilot.press("y")
        said = await answer(pilot, "delete")
        assert "deleted at once" in said
        await over(pilot, lambda: job)
        assert job.result.freed_bytes == job.plan.plan.freed_bytes == allocated
        await until(pilot, lambda: shows(app, f"Freed {allocated / 1000:.1f} kB ({allocated:,} bytes)"))

    piloted(CkptfmtApp(str(store), page="cleanup"), act)
    assert not path.exists()
    assert_sound(store)


def test_a_hard_link_elsewhere_is_named_and_nothing_is_promised_for_it(store: Path, quick: Path) -> None:
    (path,) = bloated(quick, store, "run")
    (quick / "elsewhere").mkdir()
    os.link(path, quick / "elsewhere" / "model.safetensors")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        found = await scanned(app, pilot, quick / "tree")
        assert found.report is not None
        assert found.report.reclaimable_bytes == 0
        await pilot.press("p")
        job = await planned(app, pilot)
        assert job.plan.plan.freed_bytes == 0
        await until(pilot, lambda: shows(app, "Nothing goes.", "1 redundant file stays"))
        await pilot.press("down")
        await until(pilot, lambda: shows(app, "a hard link"))
        await pilot.press("y")
        await pilot.pause(0.1)
        assert isinstance(app.screen, CleanupPlanPage), "there is nothing to agree to"

    piloted(CkptfmtApp(str(store), page="cleanup"), act)
    assert path.exists()


def test_a_file_that_changes_after_the_plan_stays_and_is_told(store: Path, quick: Path) -> None:
    first, second = bloated(quick, store, "first", "second")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await scanned(app, pilot, quick / "tree")
        await pilot.press("p")
        job = await planned(app, pilot)
        data = bytearray(first.read_bytes())
        data[-1] ^= 1
        first.write_bytes(data)
        await pilot.press("y")
        await answer(pilot, "clean up")
        await over(pilot, lambda: job)
        assert job.state == "done"
        assert [each.path for each in job.result.refused] == [str(first)]
        assert first.read_bytes() == bytes(data)
        assert not second.exists()
        await until(pilot, lambda: shows(app, "1 path stayed", "changed"))

    piloted(CkptfmtApp(str(store), page="cleanup"), act)
    assert_sound(store)


def test_a_plan_says_that_the_store_changed_since(store: Path, quick: Path) -> None:
    bloated(quick, store, "run")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await scanned(app, pilot, quick / "tree")
        await pilot.press("p")
        job = await planned(app, pilot)
        with Store.open(store) as other:
            other.import_path(quick / "tree" / "run", name="meanwhile")
        await until(pilot, lambda: shows(app, "The store changed since this plan was made"))
        await pilot.press("f5")
        await until(pilot, lambda: plan_page(app).job is not job)
        again = await planned(app, pilot)
        assert again.plan.plan.checkpoints[0].known
        assert not shows(app, "The store changed")
        await over(pilot, lambda: job)
        assert job.state == "stopped"

    piloted(CkptfmtApp(str(store), page="cleanup"), act)


def test_leaving_a_plan_gives_it_up(store: Path, quick: Path) -> None:
    (path,) = bloated(quick, store, "run")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await scanned(app, pilot, quick / "tree")
        await pilot.press("p")
        job = await planned(app, pilot)
        await pilot.press("1")
        await over(pilot, lambda: job)
        assert job.state == "stopped"

    piloted(CkptfmtApp(str(store), page="cleanup"), act)
    assert path.exists()
    with Store.open(store) as opened:
        assert cleaning.list_receipts(opened) == ()
        assert opened.list_refs() == []


def test_what_is_not_due_is_not_purged(store: Path, quick: Path) -> None:
    bloated(quick, store, "run")
    with Store.open(store) as opened:
        cleaning.execute(opened, cleaning.plan(opened, [quick / "tree"]))

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ReceiptsPage) and app.screen.table.rows)
        await pilot.press("P")
        await until(pilot, lambda: isinstance(app.screen, PurgePage))
        await planned(app, pilot)
        await until(pilot, lambda: shows(app, "Nothing is due. 1 hold not over yet"))

    piloted(CkptfmtApp(str(store), page="cleanup"), act)


def test_read_only_plans_and_writes_nothing(store: Path, quick: Path) -> None:
    (path,) = bloated(quick, store, "run")
    inside = files_of(store)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await scanned(app, pilot, quick / "tree")
        await pilot.press("p")
        job = await planned(app, pilot)
        assert job.state == "done"
        await until(pilot, lambda: shows(app, "frees"))
        assert "--apply" not in app.command_of(job.request)
        assert not shows(app, "Do it")
        await pilot.press("y")
        await pilot.pause(0.1)
        assert isinstance(app.screen, CleanupPlanPage)

    piloted(CkptfmtApp(str(store), page="cleanup", read_only=True), act)
    assert path.exists()
    assert files_of(store) == inside
