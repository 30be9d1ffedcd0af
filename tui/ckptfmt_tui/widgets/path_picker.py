"""Picks a path: typed, completed, or walked to. The keyboard alone does it, in 80 columns."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Label, Static
from textual.worker import get_current_worker

from ckptfmt.wording import clean, size
from ckptfmt_tui.browsing import Entry, Listed, Want, absolute, look_into, refused, size_below
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.widgets.dialogs import Dialog
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("name", "NAME", 30, 0, grows=True),
    Column("size", "SIZE", 11, 1, "right"),
    Column("changed", "CHANGED", 16, 2),
)
_HELP: Final = "↑↓ move  Enter open or use  Tab complete  F2 hidden  Esc cancel"


class PathPicker(Dialog):
    """A window over a page. Dismissed with an absolute path, or None.

    Args:
        title: what the path is for.
        start: the path it begins with.
        want: what may be picked.
    """

    DEFAULT_CSS = """
    PathPicker > Vertical { height: 90%; }
    PathPicker VirtualTable { height: 1fr; }
    PathPicker #path { height: 1; border: none; padding: 0 1; background: $boost; }
    PathPicker #help { color: $text-muted; height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    PathPicker .buttons { height: 3; }
    """
    BINDINGS: ClassVar = [
        Binding("escape", "close", "Close"),
        Binding("up", "go(-1)", "Up", show=False),
        Binding("down", "go(1)", "Down", show=False),
        Binding("pageup", "go(-10)", "Page up", show=False),
        Binding("pagedown", "go(10)", "Page down", show=False),
        Binding("tab", "complete", "Complete", show=False, priority=True),
        Binding("f2", "hidden", "Hidden files", show=False),
    ]

    def __init__(self, title: str, start: str, want: Want = "directory") -> None:
        super().__init__()
        self._title = title
        self._start = start
        self._want: Want = want
        self._shows_hidden = False
        self._sizes: dict[str, tuple[int, bool]] = {}
        self._listed_for: str | None = None
        self._opens_next = False

    def compose(self) -> ComposeResult:
        """See Textual."""
        with Vertical():
            yield Label(Text(clean(self._title)), classes="title")
            yield Input(self._start, placeholder="a path", id="path", select_on_focus=False)
            yield VirtualTable(COLUMNS, self._cell, empty="nothing here begins so", id="entries")
            yield Static(id="fault", classes="fault")
            yield Static(Text(_HELP), id="help")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button("Use it", id="go", variant="primary")

    @property
    def field(self) -> Input:
        """Where the path is typed."""
        return self.query_one("#path", Input)

    @property
    def table(self) -> VirtualTable[Entry]:
        """What there is."""
        return self.query_one("#entries", VirtualTable)

    def on_mount(self) -> None:
        """Look at where it begins."""
        self.field.focus()
        self.field.cursor_position = len(self._start)
        self._look()

    @on(Input.Changed)
    def _look(self) -> None:
        self._opens_next = False
        self._listed_for = None
        self._list(self.field.value, hidden=self._shows_hidden)

    @work(thread=True, exclusive=True, group="listing")
    def _list(self, typed: str, *, hidden: bool) -> None:
        listed = look_into(typed, self._want, hidden=hidden)
        if not get_current_worker().is_cancelled and stands(self):
            self.app.call_from_thread(self._listed, typed, listed)

    def _listed(self, typed: str, listed: Listed) -> None:
        if typed != self.field.value:
            return
        self._listed_for = typed
        self.table.show_rows(listed.entries)
        self._tell(listed.problem)
        self._measure([each.path for each in listed.entries if each.kind == "directory"])
        if self._opens_next:
            self._open()

    @work(thread=True, exclusive=True, group="measuring")
    def _measure(self, paths: list[str]) -> None:
        worker = get_current_worker()
        for path in paths:
            if path in self._sizes:
                continue
            found = size_below(path, lambda: worker.is_cancelled)
            if found is None or not stands(self):
                return
            self._sizes[path] = found
            self.app.call_from_thread(self._measured)

    def _measured(self) -> None:
        if stands(self):
            self.table.redraw()

    def _cell(self, entry: Entry, column: Column, room: int) -> Cell:
        if column.key == "name":
            if entry.kind == "use":
                return Text(f"✓ {entry.name}", style="bold green")
            return Text(clean(entry.name) + ("/" if entry.kind == "directory" else ""))
        if column.key == "size":
            if entry.size is not None:
                return size(entry.size)
            found = self._sizes.get(entry.path)
            return "" if found is None else size(found[0]) if found[1] else f"> {size(found[0])}"
        return "" if entry.changed is None else f"{datetime.fromtimestamp(entry.changed):%Y-%m-%d %H:%M}"

    def _tell(self, fault: str | None) -> None:
        self.query_one("#fault", Static).update(Text(clean(fault or "")))

    def action_go(self, lines: int) -> None:
        """Move the cursor, from wherever the keyboard is."""
        self.table.cursor += lines

    def action_hidden(self) -> None:
        """Show hidden files, or hide them again."""
        self._shows_hidden = not self._shows_hidden
        self._look()

    def action_complete(self) -> None:
        """Type on what the entry under the cursor is called."""
        entry = self.table.current
        if entry is not None and entry.kind == "use":
            entry = next((each for each in self.table.rows if each.kind in ("directory", "file")), None)
        if entry is not None:
            self._type(entry)

    def _type(self, entry: Entry) -> None:
        path = entry.path if entry.kind == "file" else entry.path.rstrip("/") + "/"
        self.field.value = path
        self.field.cursor_position = len(path)
        self.field.focus()

    @on(Input.Submitted)
    @on(VirtualTable.Picked)
    def _open(self) -> None:
        """Use the line under the cursor, once what is listed is of what is typed."""
        if self._listed_for != self.field.value:
            self._opens_next = True
            return
        self._opens_next = False
        entry = self.table.current
        if entry is None:
            self._use(absolute(self.field.value))
        elif entry.kind == "use" or (entry.kind == "file" and self._want == "any"):
            self._use(entry.path)
        else:
            self._type(entry)

    def _use(self, path: str) -> None:
        fault = refused(path, self._want)
        if fault is None:
            self.dismiss(path)
        else:
            self._tell(f"{path}: {fault}")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Use what is typed, or nothing."""
        if event.button.id == "go":
            self._use(absolute(self.field.value).rstrip("/") or "/")
        else:
            self.dismiss(None)
