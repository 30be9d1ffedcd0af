"""A window in which one row of a list is chosen; the command line that does it is shown for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Generic, TypeVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label, Static

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.widgets.table import Cell, VirtualTable

Row = TypeVar("Row")
_MOST_LINES: Final = 12


class Choice(ModalScreen[Row | None], Generic[Row]):
    """Dismissed with the row that was chosen, or None.

    Args:
        title: of the window.
        columns: of the list.
        cell: makes one cell.
        rows: the list.
        command: the command line that a row stands for.
    """

    CSS: ClassVar[str] = """
    Choice { align: center middle; }
    Choice > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 90%;
        background: $surface; border: round $primary; padding: 0 1;
    }
    Choice .title { text-style: bold; width: 1fr; }
    Choice .buttons { height: auto; align-horizontal: right; }
    Choice Button { margin: 0 0 0 2; min-width: 12; }
    """
    BINDINGS: ClassVar = [Binding("escape", "close", "Close")]

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        cell: Callable[[Row, Column, int], Cell],
        rows: Sequence[Row],
        *,
        command: Callable[[Row], str],
    ) -> None:
        super().__init__()
        self._heading = title
        self._columns = columns
        self._make_cell = cell
        self._choices = rows
        self._command = command

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._heading)), classes="title")
            yield VirtualTable(self._columns, self._make_cell, id="choices")
            yield Static(id="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button("Choose", id="go", variant="primary")

    @property
    def table(self) -> VirtualTable[Row]:
        """The list."""
        return self.query_one("#choices", VirtualTable)

    def on_mount(self) -> None:
        """Begin with the first row."""
        self.table.styles.height = min(len(self._choices), _MOST_LINES) + 1
        self.table.show_rows(self._choices)
        self.table.focus()

    @on(VirtualTable.Moved)
    def _told(self) -> None:
        row = self.table.current
        if row is not None:
            self.query_one("#command", Static).update(Text(f"$ {clean(self._command(row))}", style="dim"))

    @on(VirtualTable.Picked)
    def _picked(self) -> None:
        self.dismiss(self.table.current)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Choose or not."""
        self.dismiss(self.table.current if event.button.id == "go" else None)

    def action_close(self) -> None:
        """Close it, with nothing done."""
        self.dismiss(None)
