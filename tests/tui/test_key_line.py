"""The keys at the foot of a page and in the help: what can be pressed, made no more often than it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptfmt_tui.app import CkptfmtApp
from ckptfmt_tui.screens.checkpoint import CheckpointPage
from ckptfmt_tui.screens.help import Help, KeyTable, help_lines
from ckptfmt_tui.screens.store import StorePage
from ckptfmt_tui.widgets.key_line import KeyLine
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from tests.tui.piloting import piloted, screen_text, shows, until


def _keys(app: CkptfmtApp) -> list[FooterKey]:
    return list(app.screen.query_one(KeyLine).query(FooterKey))


def test_keys_that_stay_are_not_made_again(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage) and _keys(app))
        before = _keys(app)
        for key in ("8", "1", "question_mark", "escape", "down"):
            await pilot.press(key)
            await pilot.pause(0.1)
        assert isinstance(app.screen, StorePage)
        assert all(now is then for now, then in zip(_keys(app), before, strict=True))

    piloted(CkptfmtApp(str(made_store)), act)


def test_keys_that_cannot_be_pressed_go_and_come_back(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage) and "/" in {key.key_display for key in _keys(app)})
        before = [key.key for key in _keys(app)]
        await pilot.press("slash")
        await until(pilot, lambda: "/" not in {key.key_display for key in _keys(app)})
        await pilot.press("escape")
        await until(pilot, lambda: [key.key for key in _keys(app)] == before)

    piloted(CkptfmtApp(str(made_store)), act)


def test_no_key_is_shown_that_does_nothing_where_one_is(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage))
        app.push_screen(CheckpointPage("other"))
        await until(pilot, lambda: isinstance(app.screen, CheckpointPage) and shows(app, "model root", "v Verify"))
        assert "Look" not in screen_text(app), "there is no tensor under a cursor among the facts"

    piloted(CkptfmtApp(str(made_store)), act)


def test_what_does_not_fit_goes_on_in_its_own_column() -> None:
    rows = [("Enter", "Open the checkpoint, or fold the run."), ("o", "Order.")]
    assert help_lines(rows, 80) == ["Enter  Open the checkpoint, or fold the run.", "o      Order."]
    assert help_lines(rows, 28) == ["Enter  Open the checkpoint,", "       or fold the run.", "o      Order."]
    assert help_lines(rows, 0) == help_lines(rows, 27), "asked before the width is known"


def test_the_help_fits_when_the_terminal_becomes_narrower(made_store: Path) -> None:
    async def act(app: CkptfmtApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(app.screen, StorePage))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help) and shows(app, "with whom a checkpoint shares."))
        await pilot.resize_terminal(48, 60)
        table = app.screen.query_one(KeyTable)
        await until(pilot, lambda: "with whom a checkpoint shares." not in screen_text(app))
        await until(pilot, lambda: shows(app, "shares."))
        assert table.size.height > len(table._rows)

    piloted(CkptfmtApp(str(made_store)), act)
