"""The help: every key of a page, made from the table of keys."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from ckptfmt_tui.keys import PAGES, keys_of

_NAMES = {
    "slash": "/",
    "question_mark": "?",
    "ctrl+p": "Ctrl+P",
    "ctrl+y": "Ctrl+Y",
    "ctrl+s": "Ctrl+S",
    "ctrl+t": "Ctrl+T",
    "ctrl+q": "Ctrl+Q",
    "ctrl+c": "Ctrl+C",
    "f1": "F1",
    "f5": "F5",
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "delete": "Del",
    "tab": "Tab",
    "plus": "+",
    "left": "←",
    "right": "→",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "minus": "-",
    "tilde": "~",
    "equals_sign": "=",
}


class Help(ModalScreen[None]):
    """A window with the keys of a page; any key of its own closes it."""

    CSS = """
    Help { align: center middle; }
    Help > VerticalScroll {
        width: 90%; max-width: 90; height: auto; max-height: 90%;
        border: round $primary; background: $surface; padding: 0 1;
    }
    """
    BINDINGS: ClassVar = [Binding("escape,q,question_mark,f1,enter", "close", "Close")]

    def __init__(self, page: str, *, read_only: bool) -> None:
        super().__init__()
        self._page = page
        self._read_only = read_only

    def compose(self) -> ComposeResult:
        """See Textual."""
        with VerticalScroll():
            yield Label(f"Keys: {PAGES.get(self._page, self._page)}")
            yield Static(help_table(self._page, read_only=self._read_only), id="keys")

    def action_close(self) -> None:
        """Close it."""
        self.dismiss(None)


def help_table(page: str, *, read_only: bool) -> Table:
    """The keys of a page and what they do; those that write are left out under `--read-only`."""
    table = Table.grid(padding=(0, 2))
    for key in keys_of(page):
        if not (read_only and key.writes):
            table.add_row(shown_keys(key.keys), key.help)
    return table


def shown_keys(keys: str) -> str:
    """Keys as people know them."""
    return " ".join(_NAMES.get(key, key) for key in keys.split(","))
