"""Chooses one of many: what is typed narrows the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Label

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.widgets.dialogs import Dialog
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (Column("name", "NAME", 30, 0, grows=True), Column("note", "", 30, 1, grows=True))
Choice = tuple[str, str]
"""What is chosen, and a note beside it."""


class Chooser(Dialog):
    """A window over a page. Dismissed with what was chosen, or None.

    Args:
        title: what is chosen.
        choices: in order.
        current: where the cursor begins.
    """

    DEFAULT_CSS = """
    Chooser > Vertical { height: 80%; }
    Chooser VirtualTable { height: 1fr; }
    Chooser Input { height: 1; border: none; padding: 0 1; background: $boost; }
    """
    BINDINGS: ClassVar = [
        Binding("escape", "close", "Close"),
        Binding("up", "go(-1)", "Up", show=False),
        Binding("down", "go(1)", "Down", show=False),
        Binding("pageup", "go(-10)", "Page up", show=False),
        Binding("pagedown", "go(10)", "Page down", show=False),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], current: str | None = None) -> None:
        super().__init__()
        self._title = title
        self._choices = choices
        self._current = current

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._title)), classes="title")
            yield Input(placeholder="type to narrow the list; Enter chooses", id="words")
            yield VirtualTable(COLUMNS, _cell, empty="nothing fits", id="choices")

    @property
    def table(self) -> VirtualTable[Choice]:
        """What there is to choose."""
        return self.query_one("#choices", VirtualTable)

    def on_mount(self) -> None:
        """Begin with all, at the current one."""
        self.query_one("#words").focus()
        names = [name for name, _ in self._choices]
        self.table.show_rows(self._choices, cursor=names.index(self._current) if self._current in names else 0)

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        fitting = [each for each in self._choices if all(word in f"{each[0]} {each[1]}".lower() for word in words)]
        self.table.show_rows(fitting)

    def action_go(self, lines: int) -> None:
        """Move the cursor."""
        self.table.cursor += lines

    @on(Input.Submitted)
    @on(VirtualTable.Picked)
    def _choose(self) -> None:
        if self.table.current is not None:
            self.dismiss(self.table.current[0])


def _cell(row: Choice, column: Column, room: int) -> Cell:
    return Text(clean(row[0]), style="bold") if column.key == "name" else Text(clean(row[1]), style="dim")
