"""The bases page: where bases are, how they stand, adding, copying in, dropping, and what refuses that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens.bases import BasesPage
from ckptfmt_tui.widgets.dialogs import Form, ProblemDialog
from textual.pilot import Pilot
from textual.widgets import Input

from ckptfmt import Store
from tests.cli.made import adapter, full
from tests.tui.acting import answer, assert_sound, pick, problem
from tests.tui.piloting import piloted, shows, until


@pytest.fixture
def store(quick: Path) -> Path:
    path = quick / "store"
    with Store.init(path) as opened:
        opened.add_base("tiny", full(quick / "base"))
        opened.add_base("spare", full(quick / "spare", seed=4))
        opened.import_path(adapter(quick / "mine"), name="mine", base="tiny")
        near = full(quick / "near")
        opened.import_path(near, name="near", base="tiny")
    return path


async def listed(app: CkptfmtApp, pilot: Pilot[Any]) -> BasesPage:
    await until(pilot, lambda: isinstance(app.screen, BasesPage) and app.screen.table.rows)
    assert isinstance(app.screen, BasesPage)
    return app.screen


def test_bases_tell_where_they_are_and_who_is_bound(store: Path, quick: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await listed(app, pilot)
        assert {row.report.name: (row.state, row.bound) for row in page.table.rows} == {
            "spare": ("referenced", ()),
            "tiny": ("referenced", ("mine", "near")),
        }
        await pilot.press("down")
        await until(
            pilot, lambda: shows(app, "bound to it: mine, near", "root", "without its files these are lost: near")
        )
        await pilot.press("v")
        await until(pilot, lambda: shows(app, "is what was recorded"))
        await pilot.press("V")
        await until(pilot, lambda: shows(app, "read, the same", "every file read now"))

    piloted(CkptfmtApp(str(store), page="bases", read_only=True), act)


def test_a_base_that_differs_or_is_gone_is_told(store: Path, quick: Path) -> None:
    path = quick / "base" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    shutil.rmtree(quick / "spare")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await listed(app, pilot)
        assert shows(app, "files are gone")
        await pilot.press("v")
        await until(pilot, lambda: shows(app, "failed", "its files are not there", "hint: ckptfmt base verify spare"))
        await pilot.press("down", "v")
        await until(pilot, lambda: shows(app, "DIFFERS", "NOT what was recorded", "differs: model."))

    piloted(CkptfmtApp(str(store), page="bases"), act, (80, 24))


def test_a_base_is_added_and_copied_in(store: Path, quick: Path) -> None:
    full(quick / "Third", seed=7)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await listed(app, pilot)
        await pilot.press("n")
        await pick(pilot, quick / "Third")
        await until(pilot, lambda: isinstance(app.screen, Form) and app.screen.query(Input))
        assert app.screen.query_one("#name", Input).value == "third"
        await pilot.press("enter")
        await until(pilot, lambda: len(page.table.rows) == 3)
        assert [row.report.name for row in page.table.rows] == ["spare", "third", "tiny"]
        page.table.cursor = 2
        await pilot.press("c")
        said = await answer(pilot, None)
        assert "1 checkpoint then come back without them" in said
        await until(pilot, lambda: page.table.rows[2].state == "in the store")
        await until(pilot, lambda: shows(app, "in the store"))

    piloted(CkptfmtApp(str(store), page="bases"), act)
    shutil.rmtree(quick / "base")
    assert_sound(store)
    with Store.open(store) as opened:
        opened.restore("near", quick / "out")


def test_dropping_is_refused_while_needed_and_asks_else(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await listed(app, pilot)
        page.table.cursor = 1
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        assert "base 'tiny' is needed by 2 checkpoints (mine, near) [needed]" in problem(app)
        await pilot.press("escape")
        page.table.cursor = 0
        await pilot.press("d")
        said = await answer(pilot, "spare")
        assert "Frees nothing now" in said
        await until(pilot, lambda: [row.report.name for row in page.table.rows] == ["tiny"])

    piloted(CkptfmtApp(str(store), page="bases"), act)


def test_read_only_changes_nothing(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        page = await listed(app, pilot)
        for key in ("n", "c", "d"):
            await pilot.press(key)
            await pilot.pause(0.05)
            assert app.screen is page
        assert not shows(app, "Drop")
        assert not shows(app, "Copy in")

    piloted(CkptfmtApp(str(store), page="bases", read_only=True), act)
