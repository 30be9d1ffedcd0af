"""A window in which one of many is chosen: what is typed narrows the list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Generic, TypeVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Label, Static

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.filters import fitting
from ckptfmt_tui.widgets.dialogs import Dialog
from ckptfmt_tui.widgets.table import Cell, VirtualTable

Row = TypeVar("Row")
Option = tuple[str, str]
"""What is chosen, and what is told of it."""
OPTION_COLUMNS: Final = (Column("name", "NAME", 28, 0, grows=True), Column("told", "", 24, 1, grows=True))


def option_cell(option: Option, column: Column, room: int) -> Cell:
    """A cell of `OPTION_COLUMNS`."""
    return clean(option[0]) if column.key == "name" else Text(clean(option[1]), "dim")


class Chooser(Dialog, Generic[Row]):
    """Dismissed with the row that was chosen, or None.

    Args:
        title: what is chosen.
        columns: of the list.
        cell: makes one cell.
        rows: the list, in order.
        text: what is looked at as something is typed; begins with the row's name. The cursor goes to one that is
            typed whole, though others fit, too.
        cursor: the row where the cursor begins.
        hint: stands where nothing is typed yet.
        typed: the row that a text stands for by itself, though it may be none of the list; None: it is a part of one.
        command: the command line that a row stands for, shown below.
    """

    DEFAULT_CSS = """
    Chooser > Vertical { height: 80%; }
    Chooser VirtualTable { height: 1fr; }
    Chooser #words { height: 1; border: none; padding: 0 1; background: $boost; }
    Chooser #told { color: $text-muted; height: auto; max-height: 3; }
    """
    BINDINGS: ClassVar = [
        Binding("up", "go(-1)", "Up", show=False, priority=True),
        Binding("down", "go(1)", "Down", show=False, priority=True),
        Binding("pageup", "go(-10)", "Page up", show=False, priority=True),
        Binding("pagedown", "go(10)", "Page down", show=False, priority=True),
    ]

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        cell: Callable[[Row, Column, int], Cell],
        rows: Sequence[Row],
        *,
        text: Callable[[Row], str],
        cursor: int = 0,
        hint: str = "type to narrow the list",
        typed: Callable[[str], Row | None] = lambda typed: None,
        command: Callable[[Row], str] | None = None,
    ) -> None:
        super().__init__()
        self._heading = title
        self._columns = columns
        self._make_cell = cell
        self._choices = rows
        self._text = text
        self._begin = cursor
        self._hint = hint
        self._typed = typed
        self._command = command

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._heading)), classes="title")
            yield Input(placeholder=self._hint, id="words")
            yield VirtualTable(self._columns, self._make_cell, empty="nothing fits", id="choices")
            yield Static(id="told")

    @property
    def table(self) -> VirtualTable[Row]:
        """What fits what is typed."""
        return self.query_one("#choices", VirtualTable)

    @property
    def words(self) -> str:
        """What is typed."""
        return self.query_one("#words", Input).value

    def on_mount(self) -> None:
        """Begin with all of them."""
        self.query_one("#words").focus()
        self.table.show_rows(self._choices, cursor=self._begin)

    def show_choices(self, rows: Sequence[Row]) -> None:
        """Show the list anew, where more became known of its rows; the cursor stays on the line it is on."""
        self._choices = rows
        if self.is_mounted:
            self.table.show_rows(self._fitting(), cursor=self.table.cursor)

    @on(Input.Changed)
    def _changed(self) -> None:
        fits, name = self._fitting(), self.words.strip()
        # The row whose whole name is typed, among those that fit; else the first.
        whole = next((at for at, row in enumerate(fits) if self._text(row).partition(" ")[0] == name), 0)
        self.table.show_rows(fits, cursor=whole if self.words else self._begin)

    def _fitting(self) -> Sequence[Row]:
        return fitting(self._choices, self.words, self._text)

    @on(VirtualTable.Moved)
    def _tell(self) -> None:
        row = self._typed(self.words)
        told = "Enter takes the one under the cursor" if row is None else f"Enter takes what is typed: {self.words}"
        row = self.table.current if row is None else row
        if self._command is not None and row is not None:
            told = f"$ {self._command(row)}"
        self.query_one("#told", Static).update(Text(clean(told)))

    def action_go(self, lines: int) -> None:
        """Move the cursor while something is typed."""
        self.table.cursor += lines

    @on(Input.Submitted)
    def _taken(self) -> None:
        row = self._typed(self.words)
        self._take(self.table.current if row is None else row)

    @on(VirtualTable.Picked)
    def _picked(self) -> None:
        self._take(self.table.current)

    def _take(self, row: Row | None) -> None:
        if row is not None:
            self.dismiss(row)
