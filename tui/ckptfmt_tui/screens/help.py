"""The help: every key of a page, made from the table of keys."""

from __future__ import annotations

import textwrap
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Label

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
_GAP: Final = 2
_NARROWEST: Final = 20
"""Columns that a text has at least; Textual asks before it knows the width, too."""


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
            yield KeyTable(help_rows(self._page, read_only=self._read_only), id="keys")

    def action_close(self) -> None:
        """Close it."""
        self.dismiss(None)


class KeyTable(Widget):
    """Keys, and what they do beside them. A Rich table of the same costs ten milliseconds more at each drawing."""

    DEFAULT_CSS = "KeyTable { height: auto; }"

    def __init__(self, rows: list[tuple[str, str]], *, id: str) -> None:  # noqa: A002 - as Textual calls it
        super().__init__(id=id)
        self._rows = rows

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """See Textual."""
        return len(help_lines(self._rows, width))

    def render(self) -> Content:
        """See Textual."""
        return Content("\n".join(help_lines(self._rows, self.content_size.width)))


def help_rows(page: str, *, read_only: bool) -> list[tuple[str, str]]:
    """The keys of a page and what they do; those that write are left out under `--read-only`."""
    return [(shown_keys(key.keys), key.help) for key in keys_of(page) if not (read_only and key.writes)]


def help_lines(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Two columns in `width` columns of text; what does not fit goes on below, in its own column."""
    left = max(len(keys) for keys, _ in rows) + _GAP
    lines: list[str] = []
    for keys, told in rows:
        lines += textwrap.wrap(
            told, max(width, left + _NARROWEST), initial_indent=keys.ljust(left), subsequent_indent=" " * left
        )
    return lines


def shown_keys(keys: str) -> str:
    """Keys as people know them."""
    return " ".join(_NAMES.get(key, key) for key in keys.split(","))
