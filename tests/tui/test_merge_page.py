"""The merge page: what onto what, how the base stands before anything begins, the result, refusals in words."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens import merge as merge_page
from ckptfmt_tui.screens.merge import MergePage
from ckptfmt_tui.widgets.chooser import Chooser
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.wording import size
from tests.cli.made import adapter, full
from tests.tui.acting import over, pick
from tests.tui.piloting import piloted, shows, until


@pytest.fixture
def store(quick: Path) -> Path:
    """Stages on a referenced base that a test may spoil, a model, and an adapter that is bound to nothing."""
    path = quick / "store"
    with Store.init(path) as opened:
        opened.add_base("tiny", full(quick / "base"))
        parent = None
        for stage, rank in ((1, 4), (2, 8)):
            directory = adapter(quick / f"stage-{stage}", seed=stage, rank=rank)
            how = "continue" if parent else None
            opened.import_path(directory, name=f"s/{stage}", base="tiny", parent=parent, stage=stage, how=how)
            parent = f"s/{stage}"
        opened.import_path(full(quick / "model", seed=9), name="model")
        opened.import_path(adapter(quick / "loose", seed=8), name="loose")
    return path


def spoil(base: Path) -> None:
    """Change one element of one tensor."""
    path = base / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


async def chosen(app: CkptfmtApp, pilot: Pilot[Any], ref: str) -> MergePage:
    await until(pilot, lambda: isinstance(app.screen, MergePage))
    page = app.screen
    assert isinstance(page, MergePage)
    await pilot.press("c")
    await until(pilot, lambda: isinstance(app.screen, Chooser) and app.screen.table.rows)
    for letter in ref:
        await pilot.press({"/": "slash", "-": "minus"}.get(letter, letter))
    await pilot.press("enter")
    await until(pilot, lambda: app.screen is page and page.ref == ref)
    await until(pilot, lambda: page.recipe is not None or page.refusal is not None)
    await until(pilot, lambda: page.check is None or page.check.over)
    await pilot.pause()
    return page


def words(app: CkptfmtApp, name: str) -> str:
    return str(app.screen.query_one(name).render())  # type: ignore[attr-defined]


def test_stages_are_shown_in_order_and_merged(store: Path, quick: Path) -> None:
    roots = []

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        rows = [row.cells["what"] for row in page.table.rows]
        assert rows == ["base tiny", "stage 1: s/1", "stage 2: s/2"]
        assert [row.cells["rank"] for row in page.table.rows] == ["", "4", "8"]
        assert shows(app, "stage 1: s/1", "lora", "is what was recorded", "root")
        await pilot.press("o")
        await pick(pilot, quick / "out")
        await pilot.press("t", "f")
        assert (page.dtype, page.form) == ("bf16", "universal")
        assert "--format universal --dtype bf16" in app.command_of(page.request)
        assert page.recipe is not None
        assert shows(app, f"about {size(page.recipe.cast_bytes['bf16'])} are written")
        await pilot.press("t", "t", "t", "f", "y")
        job = await over(pilot, lambda: page.job)
        assert job.state == "done", job.problem
        await until(pilot, lambda: shows(app, "every base tensor was compared", "2 adapters of 2 stages"))
        roots.append(job.result.root)

    piloted(CkptfmtApp(str(store), page="merge"), act, (80, 24))
    with Store.open(store) as opened:
        assert roots == [opened.merge("s/2", quick / "again").root]
    assert (quick / "out" / "model.safetensors").read_bytes() == (quick / "again" / "model.safetensors").read_bytes()


def test_the_store_page_hands_a_checkpoint_over(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        app.chosen = "s/1"
        app.show_page("merge")
        await until(pilot, lambda: shows(app, "stage 1: s/1"))
        app.show_page("store")
        app.chosen = "s/2"
        app.show_page("merge")
        await until(pilot, lambda: shows(app, "stage 2: s/2"))

    piloted(CkptfmtApp(str(store)), act)


def test_a_base_that_changed_is_shown_before_anything_begins(store: Path, quick: Path) -> None:
    spoil(quick / "base")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        await until(pilot, lambda: shows(app, "NOT what was recorded", "differs: model."))
        assert "hint: ckptfmt base verify tiny --path DIR" in words(app, "#state")
        page.out = str(quick / "out")
        await pilot.press("y")
        await pilot.pause(0.2)
        assert page.job is None

    piloted(CkptfmtApp(str(store), page="merge"), act)
    assert not (quick / "out").exists()


def test_a_base_that_is_gone_is_told_with_the_next_command(store: Path, quick: Path) -> None:
    shutil.move(quick / "base", quick / "moved")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        assert not page.base_state.stands
        assert "its files are not there" in words(app, "#state")
        assert "hint: ckptfmt base verify tiny --path DIR" in words(app, "#state")
        await pilot.press("y")
        await pilot.pause(0.1)
        assert page.job is None

    piloted(CkptfmtApp(str(store), page="merge"), act)


def test_a_base_that_changes_after_the_look_stops_the_merge(store: Path, quick: Path) -> None:
    """What was looked at beforehand is not relied on: each tensor is compared as it is read."""

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        assert page.base_state.stands
        spoil(quick / "base")
        page.out = str(quick / "out")
        await pilot.press("y")
        job = await over(pilot, lambda: page.job)
        assert job.state == "failed"
        assert job.problem is not None
        assert (job.problem.code, job.problem.exit_code) == ("base-mismatch", 3)
        await until(pilot, lambda: shows(app, "error:", "[base-mismatch]", "hint:"))

    piloted(CkptfmtApp(str(store), page="merge"), act)
    assert not (quick / "out").exists()


@pytest.mark.parametrize(
    ("ref", "told"), [("model", "has no adapter to merge"), ("loose", "is bound to no base")], ids=["full", "unbound"]
)
def test_what_cannot_be_merged_is_refused_in_words(store: Path, ref: str, told: str) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, ref)
        assert told in words(app, "#state")
        assert "hint: ckptfmt" in words(app, "#state")
        await pilot.press("y")
        await pilot.pause(0.1)
        assert page.job is None

    piloted(CkptfmtApp(str(store), page="merge"), act)


def test_the_next_checkpoint_goes_beside_the_one_before(store: Path, quick: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/1")
        assert page.out == str(Path.cwd() / "1-merged")
        page._into(str(quick / "merged" / "first"))
        await pilot.press("f5")
        await until(pilot, lambda: page.recipe is not None)
        assert page.out == str(quick / "merged" / "first")
        page = await chosen(app, pilot, "s/2")
        assert page.out == str(quick / "merged" / "2-merged")

    piloted(CkptfmtApp(str(store), page="merge"), act)


def test_a_target_that_is_not_empty_is_refused(store: Path, quick: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/1")
        page._into(str(quick / "base"))
        await until(pilot, lambda: shows(app, "it is not empty"))
        await pilot.press("y")
        await pilot.pause(0.1)
        assert page.job is None

    piloted(CkptfmtApp(str(store), page="merge"), act)


def test_a_comparison_that_begins_while_the_target_is_looked_at_is_waited_for(
    store: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, answered = threading.Event(), threading.Event()

    def slow(path: str) -> int:
        looking.set()
        answered.wait(20)
        return 1 << 40

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        await until(pilot, lambda: page.target is not None)
        page.out = str(quick / "out")
        monkeypatch.setattr(merge_page, "free_bytes", slow)
        await pilot.press("y")
        await until(pilot, looking.is_set)
        page.action_read_base()
        answered.set()
        await until(pilot, lambda: page.target is not None)
        assert page.job is None
        await until(pilot, lambda: shows(app, "the base is being compared: wait"))
        check = await over(pilot, lambda: page.check)
        assert check.state == "done"
        await pilot.press("y")
        job = await over(pilot, lambda: page.job)
        assert job.state == "done", job.problem

    try:
        piloted(CkptfmtApp(str(store), page="merge"), act)
    finally:
        answered.set()
    assert (quick / "out" / "model.safetensors").exists()


def test_what_cannot_be_merged_is_asked_once_a_listing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every manifest is read for that; and what is known stays known where the next read fails."""
    asked: list[dict[str, str]] = []
    whole = Store.refusals

    def counted(opened: Store) -> dict[str, str]:
        if failing.is_set():
            raise OSError(errno.EIO, "the disk is gone")
        asked.append(whole(opened))
        return asked[-1]

    failing = threading.Event()
    monkeypatch.setattr(Store, "refusals", counted)

    async def refused(app: CkptfmtApp, pilot: Pilot[Any]) -> set[str]:
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Chooser) and app.screen.table.rows)
        await until(pilot, lambda: shows(app, "cannot: is bound to no base"))
        readers = [worker for worker in app.workers if worker.group == "reading"]
        await app.workers.wait_for_complete(readers)
        await pilot.pause()
        chooser = app.screen
        assert isinstance(chooser, Chooser)
        found = {row.ref for row in chooser.table.rows if row.refusal}
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MergePage))
        return found

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, MergePage))
        for _ in range(2):
            assert await refused(app, pilot) == {"model", "loose"}
            assert len(asked) == 1
        with Store.open(store) as opened:
            opened.drop("model")
        failing.set()
        assert await refused(app, pilot) == {"loose"}
        failing.clear()
        assert await refused(app, pilot) == {"loose"}
        assert [set(each) for each in asked] == [{"model", "loose"}, {"loose"}]

    piloted(CkptfmtApp(str(store), page="merge"), act)


def test_read_only_shows_and_does_not_merge(store: Path, quick: Path) -> None:
    before = sorted(os.listdir(quick))

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await chosen(app, pilot, "s/2")
        assert shows(app, "stage 2: s/2")
        await pilot.press("y")
        page.action_merge()
        await pilot.pause(0.1)
        assert page.job is None
        refused = app.start(page.request, "merge")
        await over(pilot, lambda: refused)
        assert refused.problem is not None
        assert refused.problem.code == "read-only"

    piloted(CkptfmtApp(str(store), page="merge", read_only=True), act)
    assert set(os.listdir(quick)) - set(before) <= {"cache"}
