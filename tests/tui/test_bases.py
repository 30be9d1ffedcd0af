"""The page Bases: what is where, whether it is what was recorded; record, copy in, drop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.jobs.requests import AddBase, KeepBase, VerifyBase
from ckptfmt_tui.jobs.verbs import writes
from ckptfmt_tui.models import base_rows as told
from ckptfmt_tui.screens.bases import BasesPage
from ckptfmt_tui.widgets.command_line import CommandLine
from ckptfmt_tui.widgets.dialogs import Confirmation, Form, ProblemDialog
from ckptfmt_tui.widgets.path_picker import PathPicker
from safetensors.numpy import load_file, save_file
from textual.pilot import Pilot
from textual.widgets import Button, Input, Select

from ckptfmt import Store
from ckptfmt.api.base_places import BaseLook, BasePlace
from ckptfmt.api.results import BaseReport, BaseVerified
from tests.api.test_verify import flip
from tests.cli.made import adapter, full, weight_name
from tests.tui.piloting import piloted, shows, until

Act = Callable[[CkptfmtApp, Pilot[Any]], Any]
CHANGED = weight_name(1, "v_proj")


@pytest.fixture
def people_of_one(quick: Path) -> Path:
    """A referenced base `tiny` with `run/one` bound to it and a copied base `kept`; `base` and `other` lie beside."""
    full(quick / "base")
    full(quick / "other", seed=5)
    adapter(quick / "one")
    with Store.init(quick / "store.ckptfmt") as store:
        store.add_base("tiny", quick / "base")
        store.add_base("kept", quick / "other", keep="copy")
        store.import_path(quick / "one", name="run/one", base="tiny")
        store.import_path(quick / "base", name="run/same", base="tiny")
    return quick


def see(top: Path, act: Act, *, read_only: bool = False, size: tuple[int, int] = (120, 30)) -> None:
    async def begin(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, BasesPage) and page_of(app).table.rows)
        await act(app, pilot)

    piloted(CkptfmtApp(str(top / "store.ckptfmt"), page="bases", read_only=read_only), begin, size)


def page_of(app: CkptfmtApp) -> BasesPage:
    return cast(BasesPage, app.screen_stack[-1] if isinstance(app.screen, BasesPage) else app.screen_stack[-2])


def command_of(app: CkptfmtApp) -> str:
    return page_of(app).query_one(CommandLine).command


def row_of(app: CkptfmtApp, name: str) -> told.BaseRow:
    [row] = [row for row in page_of(app).table.rows if row.name == name]
    return row


async def choose(app: CkptfmtApp, pilot: Pilot[Any], name: str) -> None:
    names = [row.name for row in page_of(app).table.rows]
    page_of(app).table.cursor = names.index(name)
    await pilot.pause()


async def over(app: CkptfmtApp, pilot: Pilot[Any], jobs: int = 1) -> None:
    await until(pilot, lambda: len(app.jobs) == jobs and app.jobs[-1].over, 60)
    await pilot.pause()


async def agree(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: isinstance(app.screen, Confirmation))
    app.screen.query_one("#go", Button).press()
    await until(pilot, lambda: not isinstance(app.screen, Confirmation))


async def pick_path(app: CkptfmtApp, pilot: Pilot[Any], path: Path) -> None:
    await until(pilot, lambda: isinstance(app.screen, PathPicker))
    app.screen.query_one("#path", Input).value = f"{path}/"
    await pilot.pause()
    app.screen.query_one("#go", Button).press()
    await until(pilot, lambda: not isinstance(app.screen, PathPicker))


def change_a_tensor(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    weights[CHANGED] = weights[CHANGED] + np.float32(1)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def test_what_there_is(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        tiny, kept = row_of(app, "tiny"), row_of(app, "kept")
        assert tiny.bound == ("run/one", "run/same") and kept.bound == ()
        assert (tiny.report.kept, kept.report.kept, tiny.there, kept.there) == (False, True, "there", "there")
        await choose(app, pilot, "tiny")
        await until(
            pilot, lambda: shows(app, "reference", "copy", "tiny: 2 files, 5 tensors", "run/one", tiny.report.record)
        )
        await until(
            pilot,
            lambda: shows(
                app, f"seen in {people_of_one / 'base'}: there", "cannot be restored without its files: run/same"
            ),
        )
        assert command_of(app) == f"ckptfmt base verify tiny --store {people_of_one / 'store.ckptfmt'}"
        await pilot.press("enter")
        assert app.screen.query_one("#more").has_focus
        await pilot.press("escape", "slash", *"kep", "enter")
        assert [row.name for row in page_of(app).table.rows] == ["kept"]
        await pilot.press("slash", *"zz", "enter")
        await until(pilot, lambda: shows(app, "nothing fits the filter"))
        await pilot.press("escape")
        assert len(page_of(app).table.rows) == 2

    see(people_of_one, act, size=(80, 24))


def test_verify_from_the_cache_and_by_reading(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        changed = (people_of_one / "base/model.safetensors").stat().st_ctime
        # What changed less than two seconds ago is never remembered.
        await until(pilot, lambda: time.time() - changed > 2.1)
        await pilot.press("V")
        await over(app, pilot)
        await until(pilot, lambda: shows(app, "is what was recorded (every file read)", "read: same"))
        await pilot.press("v")
        await over(app, pilot, 2)
        words = "is what was recorded (not read again: sizes and times are as at"
        await until(pilot, lambda: shows(app, words, "unchanged"))
        assert [job.request for job in app.jobs] == [VerifyBase("tiny", full=True), VerifyBase("tiny")]

    see(people_of_one, act, read_only=True)


def test_a_changed_tensor_is_named_and_the_base_is_not_copied_in(people_of_one: Path) -> None:
    change_a_tensor(people_of_one / "base")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        await pilot.press("V")
        await over(app, pilot)
        assert app.jobs[0].result.mismatched == (CHANGED,)
        await until(pilot, lambda: shows(app, "is NOT what was recorded", f"differs: {CHANGED}", "DIFFERS"))
        await pilot.press("c")
        await agree(app, pilot)
        await over(app, pilot, 2)
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(
            pilot,
            lambda: shows(
                app, "base 'tiny' is not what was recorded", "[base-mismatch]", "ckptfmt base verify tiny --full"
            ),
        )
        assert not row_of(app, "tiny").report.kept

    see(people_of_one, act)


def test_a_missing_directory_and_where_it_is_now(people_of_one: Path) -> None:
    shutil.move(people_of_one / "base", people_of_one / "moved")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        assert row_of(app, "tiny").there == "gone" and row_of(app, "tiny").tone == "bad"
        await until(
            pilot, lambda: shows(app, f"seen in {people_of_one / 'base'}: gone", "cannot be restored now: run/same")
        )
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog), 60)
        await until(pilot, lambda: shows(app, "base 'tiny' is needed and its files are not there (last seen in"))
        await until(pilot, lambda: shows(app, "hint: ckptfmt base verify tiny --path DIR"))
        await pilot.press("escape")

        await pilot.press("p")
        await pick_path(app, pilot, people_of_one / "other")
        await over(app, pilot, 2)
        await until(pilot, lambda: shows(app, "is NOT what was recorded"))
        assert row_of(app, "tiny").there == "gone", "another model is never taken for it"

        await pilot.press("p")
        await pick_path(app, pilot, people_of_one / "moved")
        await over(app, pilot, 3)
        await until(pilot, lambda: row_of(app, "tiny").there == "there")
        await until(pilot, lambda: shows(app, f"seen in {people_of_one / 'moved'}: there", "is what was recorded"))

    see(people_of_one, act)


def test_record_a_base(people_of_one: Path) -> None:
    full(people_of_one / "third", seed=9)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, Form))
        await until(pilot, lambda: shows(app, "ckptfmt base add NAME PATH_OR_REPO"))
        app.screen.query_one("#go", Button).press()
        await pick_path(app, pilot, people_of_one / "third")
        await until(pilot, lambda: isinstance(app.screen, Form) and shows(app, str(people_of_one / "third")))
        assert app.screen.query_one("#name", Input).value == "third"
        app.screen.query_one("#keep", Select).value = "copy"
        await until(pilot, lambda: shows(app, "--keep copy"))
        app.screen.query_one("#go", Button).press()
        await over(app, pilot)
        assert app.jobs[0].request == AddBase("third", str(people_of_one / "third"), copy=True)
        await until(pilot, lambda: any(row.name == "third" for row in page_of(app).table.rows))
        assert row_of(app, "third").report.kept

        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, Form))
        app.screen.query_one("#source", Input).value = "nobody/nothing"
        await pilot.pause()
        assert app.screen.query_one("#go", Button).disabled, "it has no name"
        app.screen.query_one("#name", Input).value = "hub"
        await pilot.pause()
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog), 60)
        await until(
            pilot,
            lambda: shows(
                app, "nobody/nothing is neither a path nor in the local Hub cache", "hf download nobody/nothing"
            ),
        )

    see(people_of_one, act)


def test_copy_in_so_that_the_directory_may_go(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "kept")
        await pilot.press("c")
        await pilot.pause()
        assert not isinstance(app.screen, Confirmation), "the store holds it already"
        await choose(app, pilot, "tiny")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await until(pilot, lambda: shows(app, "ckptfmt base keep tiny", "1 checkpoint"))
        await agree(app, pilot)
        await over(app, pilot)
        assert app.jobs[0].request == KeepBase("tiny") and app.jobs[0].result.bytes > 0
        shutil.rmtree(people_of_one / "base")
        await until(pilot, lambda: row_of(app, "tiny").report.kept)
        await pilot.press("f5")
        await until(pilot, lambda: row_of(app, "tiny").there == "gone")
        assert row_of(app, "tiny").tone == "dim" and row_of(app, "tiny").needing == ()

    see(people_of_one, act)
    with Store.open(people_of_one / "store.ckptfmt") as store:
        store.restore("run/same", people_of_one / "back")
        assert store.list_refs()[0].needs_base is None
    assert (people_of_one / "back/model.safetensors").is_file()


def test_drop_is_refused_while_a_checkpoint_needs_it(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await until(pilot, lambda: shows(app, "ckptfmt base rm tiny", "2 checkpoints bound to it: refused"))
        await agree(app, pilot)
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(pilot, lambda: shows(app, "base 'tiny' is needed by 2 checkpoints", "[needed]", "hint: ckptfmt rm"))
        await pilot.press("escape")
        await choose(app, pilot, "kept")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await pilot.press("escape")
        assert len(page_of(app).table.rows) == 2
        await pilot.press("d")
        await agree(app, pilot)
        await until(pilot, lambda: [row.name for row in page_of(app).table.rows] == ["tiny"])

    see(people_of_one, act)
    assert (people_of_one / "other/model.safetensors").is_file()


def test_a_damaged_record_is_told_beside_the_others(people_of_one: Path) -> None:
    with Store.open(people_of_one / "store.ckptfmt") as store:
        record = {base.name: base.record for base in store.list_bases()}["kept"]
    path = people_of_one / "store.ckptfmt/bases" / f"{record}.json"
    flip(path, path.stat().st_size // 2)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        assert [row.name for row in page_of(app).table.rows] == ["tiny"]
        await until(pilot, lambda: shows(app, "cannot be read: bases/kept: "))

    see(people_of_one, act)


def test_a_look_is_stopped(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        await pilot.press("V", "v")
        assert [job.request for job in app.jobs] == [VerifyBase("tiny", full=True)], "it is being read already"
        await pilot.press("x")
        await over(app, pilot)
        assert app.jobs[0].state == "stopped"
        await until(pilot, lambda: shows(app, "stopped"))

    see(people_of_one, act)


def test_read_only_looks_and_writes_nothing(people_of_one: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await choose(app, pilot, "tiny")
        for key in "npcd":
            await pilot.press(key)
            assert isinstance(app.screen, BasesPage), key
        for action in ("add", "place", "keep", "drop"):
            getattr(page_of(app), f"action_{action}")()
            await pilot.pause()
            assert isinstance(app.screen, BasesPage), action
        palette = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Verify", "Read"} <= palette and not {"New", "Is here", "Copy in", "Drop"} & palette
        refused = app.start(VerifyBase("tiny", path=str(people_of_one / "base")), "verify base tiny")
        assert refused.problem is not None and refused.problem.code == "read-only"

    see(people_of_one, act, read_only=True)


def test_a_look_elsewhere_writes_where_it_was_found() -> None:
    assert writes(VerifyBase("b", path="/models/b"))
    assert not writes(VerifyBase("b", full=True))


def test_words_for_places() -> None:
    report = BaseReport("b", "r" * 64, "t" * 64, 2, 1, False, "org/b", "abc", "/new", 900)
    gone, part = BasePlace("/old", False, ("a", "b")), BasePlace("/new", True, ("b",))
    assert told.BaseRow(BaseLook(report, (part, gone)), (), ()).there == "incomplete"
    assert told.BaseRow(BaseLook(report, ()), (), ()).there == "never seen"
    lines = [line.text for line in told.BaseRow(BaseLook(report, (part, gone)), (), ()).details()]
    assert "seen in /new: missing or of another size: b" in lines and "seen in /old: gone" in lines
    assert "from   org/b@abc" in lines and "no checkpoint is bound to it" in lines


def test_very_many_tensors_that_differ_are_counted() -> None:
    verified = BaseVerified("b", "t" * 64, False, "read", tuple(map(str, range(500))), "/b", None)
    lines = told.verified_lines(verified)
    assert lines[1].text == "  differs: 0" and lines[-1].text == "  and 300 more" and len(lines) == 202
