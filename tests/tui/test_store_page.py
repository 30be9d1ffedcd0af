"""The store's page: what a user sees, does, and what the store then holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.keys import writing_actions
from ckptfmt_tui.screens.help import Help
from ckptfmt_tui.screens.store import StorePage
from ckptfmt_tui.widgets.dialogs import Confirmation, Form, ProblemDialog
from ckptfmt_tui.widgets.table import VirtualTable
from textual.color import Color
from textual.pilot import Pilot

from ckptfmt import Store
from ckptfmt.api.results import RefRow
from ckptfmt.format.refs import directory_of
from ckptfmt.store.store import manifest_key
from tests.tui.piloting import piloted, screen_text, shows, until

ROWS = 12
"""Lines of the whole tree: eight checkpoints and the runs that they lie in."""


def page(app: CkptfmtApp) -> StorePage:
    assert isinstance(app.screen, StorePage), app.screen
    return app.screen


def rows_of(store: Path) -> dict[str, RefRow]:
    with Store.open(store) as opened:
        return {row.ref: row for row in opened.list_refs()}


async def opened(app: CkptfmtApp, pilot: Pilot[Any], path: str | None = None) -> None:
    """Wait for the tree, and go to a node."""
    await until(pilot, lambda: isinstance(app.screen, StorePage) and len(page(app).table.rows) > 0)
    if path is not None:
        await go(app, pilot, path)


async def go(app: CkptfmtApp, pilot: Pilot[Any], path: str) -> None:
    table = page(app).table
    table.cursor = next(at for at, line in enumerate(table.rows) if line.path == path)
    await until(pilot, lambda: table.current is not None and table.current.path == path)
    await pilot.pause()


def command(app: CkptfmtApp) -> str:
    from ckptfmt_tui.widgets.command_line import CommandLine

    return app.screen.query_one(CommandLine).command


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (160, 48)])
def test_the_tree_shows_runs_sizes_and_what_is_saved(made_store: Path, size: tuple[int, int]) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot)
        await until(pilot, lambda: shows(app, "smaller", "encoded"))
        assert shows(app, "8 checkpoints", "▾ sweep", "▾ run-1", "checkpoint-20", "stage-2", "stage 2", "OWN")
        assert shows(app, "needs base", "pinned")
        if size[0] >= 120:
            await go(app, pilot, "stages/stage-2")
            assert shows(app, "parent", "stages/stage-1", "only its own")
        if size[0] >= 160:
            await go(app, pilot, "sweep/run-1/checkpoint-30")
            await until(pilot, lambda: shows(app, "pinned [best]", "eval_loss", "0.1667"))
        assert command(app).startswith("ckptfmt show" if size[0] >= 120 else "ckptfmt ls")

    piloted(CkptfmtApp(str(made_store)), act, size)


def test_who_shares_is_told_for_the_row_under_the_cursor(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        await until(pilot, lambda: shows(app, "Shared with", "stages/stage-3"))
        await go(app, pilot, "other")
        await until(pilot, lambda: shows(app, "Shared with", "merged/stage-1") and not shows(app, "stages/stage-3  "))

    piloted(CkptfmtApp(str(made_store)), act, (160, 48))


def test_details_come_below_where_there_is_no_room_beside(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        assert not shows(app, "manifest ")
        await pilot.press("s")
        await until(pilot, lambda: shows(app, "manifest ", "parent"))
        await pilot.press("end")
        await until(pilot, lambda: shows(app, "checkpoint-30@3"))
        await until(pilot, lambda: shows(app, "      checkpoint-30 pinned"))  # The cursor is in sight.
        await pilot.press("s")
        await until(pilot, lambda: not shows(app, "manifest "))

    piloted(CkptfmtApp(str(made_store)), act, (80, 24))


def test_order_fold_and_filter(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot)
        table = page(app).table

        def paths() -> list[str]:
            return [line.path for line in table.rows]

        assert len(paths()) == ROWS
        await go(app, pilot, "sweep/run-1/checkpoint-20")
        await pilot.press("o")
        assert table.sorted_by == "-own"
        assert paths()[0] == "other", "the largest first"
        assert table.current is not None
        assert table.current.path == "sweep/run-1/checkpoint-20", "the cursor stays on its node"
        await pilot.press("o", "o")
        assert table.sorted_by == "name"
        await pilot.press("left")
        assert table.current.path == "sweep/run-1"
        await pilot.press("left")
        assert "sweep/run-1/checkpoint-20" not in paths()
        await pilot.press("right")
        assert "sweep/run-1/checkpoint-20" in paths()
        await pilot.press("z")
        assert set(paths()) == {"merged", "other", "stages", "sweep"}
        await pilot.press("z")
        await pilot.press("slash", *"stage-2")
        await until(pilot, lambda: paths() == ["stages", "stages/stage-2"])
        await pilot.press("enter", "escape")
        await until(pilot, lambda: len(paths()) == ROWS)
        await pilot.press("slash", *"nothing of the kind", "enter")
        await until(pilot, lambda: shows(app, "nothing fits the filter"))
        await pilot.press("escape")
        await until(pilot, lambda: len(paths()) == ROWS)
        await pilot.click("#refs", offset=(42, 0))
        await until(pilot, lambda: table.sorted_by == "-own")

    piloted(CkptfmtApp(str(made_store)), act)


def test_pin_label_rename_drop_and_bring_back(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-3")
        await pilot.press("p")
        await until(pilot, lambda: shows(app, "stage-3 stage 3 pinned"))
        assert rows_of(writable_store)["stages/stage-3"].pinned
        assert command(app).startswith("ckptfmt pin stages/stage-3"), "what was done stays to be copied"
        await pilot.press("p")  # What protects is not taken away by one key.
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await pilot.press("n")
        assert rows_of(writable_store)["stages/stage-3"].pinned
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await until(pilot, lambda: shows(app, "Frees nothing now", "ckptfmt rm stages/stage-3"))
        await pilot.click("#go")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(pilot, lambda: shows(app, "is pinned", "ckptfmt pin stages/stage-3 --off"))
        await pilot.press("escape", "p")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await pilot.press("y")
        await until(pilot, lambda: not shows(app, "stage-3 stage 3 pinned"))

        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Form))
        await pilot.press(*"good old")
        await until(pilot, lambda: shows(app, "ckptfmt tag stages/stage-3 good old --store"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, StorePage) and shows(app, "[good] [old]"))
        assert rows_of(writable_store)["stages/stage-3"].labels == ("good", "old")

        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, Form))
        await pilot.press("end", *"b")
        await until(pilot, lambda: shows(app, "ckptfmt rename stages/stage-3 stages/stage-3b"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, StorePage) and shows(app, "stage-3b"))
        assert "stages/stage-3" not in rows_of(writable_store)

        await go(app, pilot, "stages/stage-3b")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await pilot.press("escape")
        assert "stages/stage-3b" in rows_of(writable_store), "escape does nothing"
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirmation))
        await pilot.click("#go")
        await until(pilot, lambda: isinstance(app.screen, StorePage) and not shows(app, "  stage-3b"))
        assert "stages/stage-3b" not in rows_of(writable_store)

        await pilot.press("U")
        await until(
            pilot, lambda: shows(app, "Bring back which of 1 dropped name?", "ckptfmt rollback stages/stage-3b@")
        )
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, StorePage) and shows(app, "  stage-3b"))
        assert "stages/stage-3b" in rows_of(writable_store)

    piloted(CkptfmtApp(str(writable_store)), act, (160, 48))


def test_rollback_shows_the_generations(writable_store: Path) -> None:
    before = rows_of(writable_store)["stages/stage-1"]

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-1")
        await pilot.press("u")
        await until(pilot, lambda: shows(app, "Return stages/stage-1 to which generation?", "@1"))
        await pilot.press("escape")
        await pilot.press("u")
        await until(pilot, lambda: shows(app, "ckptfmt rollback stages/stage-1@1"))
        await pilot.press("enter")
        await until(pilot, lambda: rows_of(writable_store)["stages/stage-1"].generation == before.generation + 1)
        await go(app, pilot, "other")
        await pilot.press("u")
        await until(pilot, lambda: shows(app, "every generation stands for what it is now"))

    piloted(CkptfmtApp(str(writable_store)), act)
    assert rows_of(writable_store)["stages/stage-1"].manifest != before.manifest


def test_marks_for_a_diff(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-1")
        await pilot.press("a")
        await until(pilot, lambda: shows(app, "stage-1 A"))
        assert app.marks == {"a": "stages/stage-1"}
        await go(app, pilot, "stages")
        await pilot.press("a")
        assert app.marks == {"a": "stages/stage-1"}, "a run is not to be compared"

    piloted(CkptfmtApp(str(made_store)), act)


def test_verify_a_run_and_restore_a_checkpoint(made_store: Path, people: Path, tmp_path: Path) -> None:
    target = tmp_path / "back"

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages")
        await pilot.press("v")
        await until(pilot, lambda: bool(app.jobs) and app.jobs[0].over)
        assert app.jobs[0].request.refs == ("stages/stage-1", "stages/stage-2", "stages/stage-3")
        await until(pilot, lambda: shows(app, "all sound"))
        assert command(app).startswith("ckptfmt verify stages/stage-1 stages/stage-2 stages/stage-3 ")
        await go(app, pilot, "stages/stage-2")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Form))
        form = app.screen
        form.query_one("#target").value = f" {target}"  # type: ignore[attr-defined]
        await until(pilot, lambda: shows(app, "ckptfmt restore stages/stage-2"))
        await pilot.press("enter")
        await until(pilot, lambda: len(app.jobs) == 2 and app.jobs[1].over)
        assert app.jobs[1].problem is None

    piloted(CkptfmtApp(str(made_store)), act, (160, 48))
    for path in (people / "stage-2").iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


def test_what_others_do_is_shown_and_the_cursor_stays(writable_store: Path, people: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-3")
        await pilot.pause(2.2)  # The first look tells what there was.
        with Store.open(writable_store) as store:
            store.import_path(people / "stage-1", name="early/bird", base="tiny")
        await until(pilot, lambda: shows(app, "early", "bird"), seconds=10)
        table = page(app).table
        assert table.current is not None
        assert table.current.path == "stages/stage-3"
        with Store.open(writable_store) as store:
            store.drop("stages/stage-3")
        await until(pilot, lambda: not shows(app, "stage-3"), seconds=10)
        assert table.current is not None, "the cursor is on a neighbour"
        await pilot.press("enter")

    piloted(CkptfmtApp(str(writable_store)), act)


def test_what_vanishes_under_a_key_is_told_and_no_crash(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-3")
        with Store.open(writable_store) as store:
            store.drop("stages/stage-3")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(pilot, lambda: shows(app, "error:", "stages/stage-3"))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, StorePage) and not shows(app, "stage-3"))

    piloted(CkptfmtApp(str(writable_store)), act)


@pytest.mark.parametrize("what", ["ref", "manifest"])
def test_a_damaged_ref_is_shown_among_the_others(writable_store: Path, what: str) -> None:
    with Store.open(writable_store) as store:  # Not listed: what the catalog knows of a manifest is not read again.
        manifest, _ = store.engine.resolve("stages/stage-2")
    if what == "ref":
        (writable_store / "refs" / directory_of("stages/stage-2") / "1.json").write_bytes(b"not a ref")
    else:
        (writable_store / manifest_key(manifest)).write_bytes(b"{}")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        assert shows(app, "stage-2 damaged", "cannot be read", "checkpoint-30")
        for key in ("p", "d", "t", "n", "a", "r", "m"):
            await pilot.press(key)
        assert isinstance(app.screen, StorePage), "nothing can be done with it"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(pilot, lambda: shows(app, "error:", "hint:"))
        await pilot.press("escape")
        await go(app, pilot, "stages/stage-3")
        await until(pilot, lambda: shows(app, "Shared with"))

    piloted(CkptfmtApp(str(writable_store)), act, (160, 48))


def test_a_run_of_which_nothing_can_be_read_is_not_verified_as_everything(writable_store: Path) -> None:
    (writable_store / "refs" / directory_of("merged/stage-1") / "1.json").write_bytes(b"not a ref")

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "merged")
        await pilot.press("v")
        await until(pilot, lambda: shows(app, "none of these can be read"))
        assert not app.jobs

    piloted(CkptfmtApp(str(writable_store)), act)


def test_an_empty_store_says_how_to_begin(tmp_path: Path) -> None:
    Store.init(tmp_path / "empty").close()

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: shows(app, "no checkpoints yet: i takes one in"))
        for key in ("enter", "space", "p", "d", "v", "o", "z", "left", "right", "U", "s", "down", "pagedown", "end"):
            await pilot.press(key)
        await until(pilot, lambda: shows(app, "no name was dropped"))
        assert app.jobs == []

    piloted(CkptfmtApp(str(tmp_path / "empty")), act)


def test_a_store_that_is_not_there_and_one_that_goes(tmp_path: Path, writable_store: Path) -> None:
    async def none(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, ProblemDialog))
        await until(pilot, lambda: shows(app, "[no-store]", "hint:"))
        await pilot.press("escape")
        await until(pilot, lambda: shows(app, "nowhere"))

    piloted(CkptfmtApp(str(tmp_path / "nowhere")), none)

    async def going(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        await pilot.pause(2.2)
        shutil.rmtree(writable_store)
        await pilot.pause(2.5)
        for key in ("escape", "escape", "f5", "p", "enter"):
            await pilot.press(key)
            await pilot.pause(0.1)
        assert screen_text(app)

    piloted(CkptfmtApp(str(writable_store)), going)


def test_read_only_leaves_no_way_to_write(made_store: Path) -> None:
    before = rows_of(made_store)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        assert shows(app, "Mark A", "Verify")
        assert not shows(app, "Import") and not shows(app, "Drop") and not shows(app, "Restore")
        for key in ("m", "i", "r", "p", "t", "n", "u", "U", "d", "delete"):
            await pilot.press(key)
            assert isinstance(app.screen, StorePage), key
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Verify", "Order", "Mark A"} <= titles
        assert not titles & {"Drop", "Pin", "Rename", "Label", "Roll back", "Bring back", "Import", "Restore"}
        for action in writing_actions():
            assert app.screen.check_action(action, ()) is False
        await pilot.press("question_mark")
        await until(pilot, lambda: shows(app, "Keys:"))
        assert not shows(app, "Drop its name")

    piloted(CkptfmtApp(str(made_store), read_only=True), act, (160, 48))
    assert rows_of(made_store) == before


def test_the_palette_does_what_keys_do(writable_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "stages/stage-2")
        helps = [each.help for each in app.get_system_commands(app.screen)]
        assert sum("to the page Merge" in each or each == "Go to Merge" for each in helps) == 1
        entry = next(each for each in app.get_system_commands(app.screen) if each.title == "Pin")
        entry.callback()
        await until(pilot, lambda: shows(app, "stage-2 stage 2 pinned"))

    piloted(CkptfmtApp(str(writable_store)), act)


def test_the_mouse_moves_opens_and_sorts(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot)
        table = page(app).table
        await pilot.click("#refs", offset=(5, 4))
        assert table.cursor == 3
        line = table.current
        assert line is not None
        await pilot.click("#refs", offset=(5, 4))
        await until(
            pilot, lambda: line.open is None or (table.current is not None and table.current.open is not line.open)
        )
        assert isinstance(app.screen.query_one("#refs"), VirtualTable)

    piloted(CkptfmtApp(str(made_store)), act)


def test_keys_of_the_application_work_on_every_page(made_store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot)
        theme = app.theme
        await pilot.press("ctrl+t")
        assert app.theme != theme
        await pilot.press("ctrl+s")
        await until(pilot, lambda: list(tmp_path.glob("ckptfmt-*.svg")))
        await pilot.press("ctrl+y")
        assert app.clipboard == command(app)
        await pilot.press("8")
        await until(pilot, lambda: not isinstance(app.screen, StorePage))
        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, StorePage))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: app.screen.__class__.__name__ == "CommandPalette")
        await pilot.press("escape", "q")
        await until(pilot, lambda: app.return_code == 0 and not app.is_running)

    piloted(CkptfmtApp(str(made_store)), act)


def test_another_theme_reaches_what_is_seen_what_is_covered_and_what_was_left(made_store: Path) -> None:
    def ground(screen: Any) -> Color:
        return Color(*screen.styles.background[:3])

    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot)
        left, dark = app.screen, ground(app.screen)
        await pilot.press("8")
        await until(pilot, lambda: app.screen is not left)
        covered = app.screen
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        app.action_toggle_theme()
        await until(pilot, lambda: dark not in (ground(covered), ground(app.screen), Color(*app.styles.background[:3])))
        light = ground(covered)
        await pilot.press("escape", "1")
        await until(pilot, lambda: app.screen is left and ground(left) == light)
        # Again, and quickly: what is parsed already is not what was parsed last.
        await pilot.press("ctrl+t", "ctrl+t", "ctrl+t")
        await until(pilot, lambda: ground(left) == dark)

    piloted(CkptfmtApp(str(made_store)), act)


def test_every_key_of_a_page_can_be_read_in_a_small_terminal(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await pilot.press("question_mark")
        await until(pilot, lambda: shows(app, "Keys: Store", "Open the checkpoint"))
        await pilot.press("end")
        await until(pilot, lambda: shows(app, "Quit; asks while jobs run."))

    piloted(CkptfmtApp(str(made_store)), act, (80, 24))
