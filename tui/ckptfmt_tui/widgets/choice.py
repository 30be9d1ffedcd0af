"""A window to choose one of many by typing a part of its name, or to type something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Label, Static

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.widgets.dialogs import Dialog
from ckptfmt_tui.widgets.table import Cell, VirtualTable

Option = tuple[str, str]
"""What is chosen, and what is told of it."""

_COLUMNS: Final = (Column("name", "NAME", 28, 0, grows=True), Column("told", "", 24, 1, grows=True))


class Choice(Dialog):
    """Dismissed with the name that was chosen or typed, or None.

    Args:
        title: of the window.
        options: what may be chosen.
        typed: whether a text is taken as it is typed, though it is none of the options.
        value: what stands in the field first.
    """

    CSS = (
        Dialog.CSS
        + """
    Choice > Vertical { height: 80%; }
    Choice VirtualTable { height: 1fr; }
    Choice #told { color: $text-muted; height: 1; }
    """
    )
    BINDINGS: ClassVar = [
        Binding("down", "step(1)", "Down", show=False, priority=True),
        Binding("up", "step(-1)", "Up", show=False, priority=True),
        Binding("pagedown", "step(10)", "Page down", show=False, priority=True),
        Binding("pageup", "step(-10)", "Page up", show=False, priority=True),
    ]

    def __init__(
        self, title: str, options: Sequence[Option], *, typed: Callable[[str], bool], value: str = "", hint: str = ""
    ) -> None:
        super().__init__()
        self._title = title
        self._options = options
        self._typed = typed
        self._value = value
        self._hint = hint

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._title)), classes="title")
            yield Input(self._value, placeholder=self._hint, id="wanted")
            yield VirtualTable(_COLUMNS, _cell, empty="no name fits", id="options")
            yield Static("Enter takes the one under the cursor", id="told")

    @property
    def table(self) -> VirtualTable[Option]:
        """The options that fit."""
        return self.query_one("#options", VirtualTable)

    def on_mount(self) -> None:
        """Show the options."""
        self.query_one("#wanted").focus()
        self._show(self._value)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what fits."""
        self._show(event.value)

    def _show(self, text: str) -> None:
        words = text.lower().split()
        self.table.show_rows([each for each in self._options if all(word in each[0].lower() for word in words)])
        told = f"Enter takes what is typed: {text}" if self._typed(text) else "Enter takes the one under the cursor"
        self.query_one("#told", Static).update(Text(told))

    def action_step(self, lines: int) -> None:
        """Move the cursor of the options while typing."""
        self.table.cursor += lines

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take what is typed, or what the cursor is on."""
        text = event.value.strip()
        if self._typed(text):
            self.dismiss(text)
        elif self.table.current is not None:
            self.dismiss(self.table.current[0])

    @on(VirtualTable.Picked)
    def _picked(self) -> None:
        if self.table.current is not None:
            self.dismiss(self.table.current[0])


def _cell(option: Option, column: Column, room: int) -> Cell:
    return option[0] if column.key == "name" else Text(option[1], "dim")
