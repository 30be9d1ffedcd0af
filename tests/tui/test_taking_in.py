"""Imports in the terminal UI: a path by keyboard alone, the plan, options, the result in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.browsing import look_into, refused, size_below
from ckptfmt_tui.screens.taking_in import ImportPage, default_name
from ckptfmt_tui.widgets.dialogs import Form
from ckptfmt_tui.widgets.path_picker import PathPicker
from textual.pilot import Pilot
from textual.widgets import Input, Select, Static

from ckptfmt import Store
from tests.cli.made import lying
from tests.tui.acting import answer, assert_sound, over, pick, picker_on_top, planned
from tests.tui.piloting import piloted, shows, until


@pytest.fixture
def store(quick: Path, people: Path) -> Path:
    path = quick / "store"
    with Store.init(path) as opened:
        opened.add_base("tiny", people / "base")
    return path


def test_a_directory_of_many_is_planned_and_taken_in(
    store: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By keyboard alone, at 80 columns: the picker is walked, not typed into."""
    monkeypatch.chdir(people.parent)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("i")
        picker = await picker_on_top(pilot)
        names = [entry.name for entry in picker.table.rows]
        await pilot.press(*["down"] * names.index(people.name), "enter")
        await until(pilot, lambda: picker.field.value == f"{people}/" and len(picker.table.rows) > 5)
        await until(pilot, lambda: shows(app, "use this directory", "stage-1/", "kB"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ImportPage))
        job = await planned(app, pilot)
        refs = {each.ref: each.parent for each in job.plan.checkpoints}
        assert refs[f"{people.name}/stage-2"] == f"{people.name}/stage-1"
        assert shows(app, f"takes in {len(refs)} checkpoints", f"{people.name}/base", "hf-full")
        assert f"--name '{people.name}/{{name}}'" in app.command_of(job.request)
        await pilot.press("y")
        await answer(pilot, None)
        await over(pilot, lambda: job)
        assert job.state == "done", job.problem
        assert {each.ref for each in job.result.checkpoints} == set(refs)
        await until(pilot, lambda: shows(app, f"{len(refs)} checkpoints:", "of new bytes"))

    piloted(CkptfmtApp(str(store)), act, (80, 24))
    assert_sound(store)
    with Store.open(store) as opened:
        assert opened.show(f"{people.name}/stage-2").manifest.lineage is not None


def test_options_make_the_plan_anew_and_stand_in_the_command(store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("i")
        await pick(pilot, people / "stage-1")
        first = await planned(app, pilot)
        assert [each.ref for each in first.plan.checkpoints] == ["stage-1"]
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Form) and app.screen.query(Select))
        app.screen.query_one("#name", Input).value = "mine/one"
        app.screen.query_one("#base", Select).value = "tiny"
        app.screen.query_one("#stage", Input).value = "x"
        await until(pilot, lambda: shows(app, "a stage is a number"))
        app.screen.query_one("#stage", Input).value = "4"
        command = app.screen.query_one("#command", Static)
        await until(pilot, lambda: "--base tiny --stage 4" in str(command.content))
        app.screen.query_one("#name").focus()
        await pilot.press("enter")
        page = app.screen
        await until(pilot, lambda: isinstance(app.screen, ImportPage) and app.screen.job is not first)
        page = app.screen
        assert isinstance(page, ImportPage)
        job = await planned(app, pilot)
        assert [(each.ref, each.stage) for each in job.plan.checkpoints] == [("mine/one", 4)]
        assert shows(app, "base tiny", "stage 4")
        await pilot.press("y")
        await answer(pilot, None)
        await over(pilot, lambda: job)
        (done,) = job.result.checkpoints
        assert (done.ref, done.base, done.binding) == ("mine/one", "tiny", "stated")
        await until(pilot, lambda: shows(app, "mine/one", "base tiny"))
        assert first.state == "stopped", "the plan before waits no longer"

    piloted(CkptfmtApp(str(store)), act)


def test_a_file_that_lies_is_refused_in_words(store: Path, quick: Path) -> None:
    lying(quick / "many" / "bad")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("i")
        await pick(pilot, quick / "many" / "bad")
        job = await planned(app, pilot)
        await pilot.press("y")
        await answer(pilot, None)
        await over(pilot, lambda: job)
        assert job.state == "failed"
        assert job.problem is not None
        assert job.problem.exit_code == 5
        await until(pilot, lambda: shows(app, "error:", "hint:"))

    piloted(CkptfmtApp(str(store)), act)
    assert_sound(store)
    with Store.open(store) as opened:
        assert opened.list_refs() == []


def test_read_only_takes_nothing_in(store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: app.screen.query("#refs"))
        page = app.screen
        await pilot.press("i")
        await pilot.pause(0.1)
        assert app.screen is page
        assert not shows(app, "Import")

    piloted(CkptfmtApp(str(store), read_only=True), act)


def test_the_picker_completes_and_hides(store: Path, quick: Path) -> None:
    top = quick / "top"
    for name in ("alpha", "beta", ".secret"):
        (top / name).mkdir(parents=True)
    (top / "alpha" / "file.pt").write_bytes(b"x" * 2048)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        picked: list[object] = []
        app.push_screen(PathPicker("Which?", f"{top}/al"), picked.append)
        picker = await picker_on_top(pilot)
        await pilot.press("tab")
        await until(pilot, lambda: picker.field.value == f"{top}/alpha/")
        picker.field.value = f"{top}/"
        await until(pilot, lambda: shows(app, "alpha/", "beta/", "2.0 kB"))
        assert not shows(app, ".secret")
        await pilot.press("f2")
        await until(pilot, lambda: shows(app, ".secret/"))
        picker.field.value = f"{top}/nothing"
        await until(pilot, lambda: not picker.table.rows)
        await pilot.press("enter")
        await until(pilot, lambda: shows(app, "it is not there"))
        await pilot.press("escape")
        await until(pilot, lambda: picked == [None])

    piloted(CkptfmtApp(str(store)), act, (80, 24))


def test_what_the_picker_lists(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "one").write_bytes(b"12345")
    (tmp_path / "file").write_bytes(b"1")
    kinds = [(entry.kind, entry.name) for entry in look_into(f"{tmp_path}/", "any", hidden=False).entries]
    assert kinds == [("use", "use this directory"), ("up", ".."), ("directory", "full"), ("file", "file")]
    assert [entry.name for entry in look_into(f"{tmp_path}/", "directory", hidden=False).entries][-1] == "full"
    assert look_into(f"{tmp_path}/absent/x", "any", hidden=False).problem is not None
    assert size_below(str(tmp_path), lambda: False) == (6, True)
    assert size_below(str(tmp_path), lambda: True) is None


def test_what_may_be_picked(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "one").touch()
    (tmp_path / "empty").mkdir()
    assert refused(str(tmp_path / "new"), "new") is None
    assert refused(str(tmp_path / "empty"), "new") is None
    assert refused(str(tmp_path / "full"), "new") == "it is not empty"
    assert refused(str(tmp_path / "no" / "new"), "new") == "the directory above it is not there"
    assert refused(str(tmp_path / "full" / "one"), "new") == "there is a file of that name"
    assert refused(str(tmp_path / "full" / "one"), "directory") == "it is no directory"
    assert refused(str(tmp_path / "absent"), "any") == "it is not there"


@pytest.mark.parametrize(("name", "made"), [("runs", "runs/{name}"), ("my runs!", "my-runs/{name}")])
def test_names_begin_as_the_directory_is_called(tmp_path: Path, name: str, made: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "ckpt.pt").touch()
    assert default_name(str(tmp_path / name)) == made
    assert default_name(str(tmp_path / name / "ckpt.pt")) == made
