"""A table that draws only the lines in sight: a hundred thousand rows open and scroll as ten do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import Column, fit

Row = TypeVar("Row")
Cell = str | Text
_GAP: Final = "  "
_HEADER_LINES: Final = 1


class VirtualTable(ScrollView, Generic[Row], can_focus=True):
    """Rows under a header, with a cursor. Cells are made when a row comes into sight.

    Args:
        columns: what there is to show.
        cell: makes one cell of a row, of the given width at most; longer ones are cut.
        sorted_by: key of the column that is marked in the header, with `-` before it for a falling order.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor", "table--empty"}
    DEFAULT_CSS = """
    VirtualTable { height: 1fr; overflow-x: hidden; background: $surface; color: $foreground; }
    VirtualTable > .table--header { color: $text-muted; text-style: bold; background: $panel; }
    VirtualTable > .table--cursor { background: $block-cursor-blurred-background; }
    VirtualTable:focus > .table--cursor {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: $block-cursor-text-style;
    }
    VirtualTable > .table--empty { color: $text-muted; }
    """
    BINDINGS: ClassVar = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "edge(0)", "First", show=False),
        Binding("end,G", "edge(-1)", "Last", show=False),
        Binding("enter", "pick", "Pick", show=False),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Told(Message):
        """Something that a table tells.

        Attributes:
            table: which one.
        """

        def __init__(self, table: VirtualTable[Any]) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> VirtualTable[Any]:
            """The table."""
            return self.table

    class Moved(Told):
        """The cursor is on another row, or other rows are shown, or none."""

    class Picked(Told):
        """A row was picked, by Enter or a click on the cursor's row."""

    class HeaderPicked(Told):
        """A column's header was clicked."""

        def __init__(self, table: VirtualTable[Any], key: str) -> None:
            super().__init__(table)
            self.key = key

    def __init__(
        self,
        columns: Sequence[Column],
        cell: Callable[[Row, Column, int], Cell],
        *,
        empty: str = "nothing here",
        sorted_by: str = "",
        id: str | None = None,  # noqa: A002 - Textual's word
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._cell = cell
        self._rows: Sequence[Row] = ()
        self._empty = empty
        self.sorted_by = sorted_by

    @property
    def rows(self) -> Sequence[Row]:
        """What it shows."""
        return self._rows

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor] if 0 <= self.cursor < len(self._rows) else None

    def show_rows(self, rows: Sequence[Row], *, cursor: int = 0, empty: str | None = None) -> None:
        """Show other rows.

        Args:
            rows: held, not copied.
            cursor: the row that the cursor goes to.
            empty: what stands where there are none.
        """
        self._rows = rows
        self._empty = empty or self._empty
        self._measure()
        self.cursor = max(min(cursor, len(rows) - 1), 0)
        self._show_cursor()
        self.refresh()
        self.post_message(self.Moved(self))

    def redraw(self) -> None:
        """Draw the rows in sight again: something that cells are made of has changed."""
        self.refresh()

    def on_resize(self) -> None:
        """Fit the columns anew, and keep the cursor in sight."""
        self._measure()
        self._show_cursor()

    def _measure(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._rows) + _HEADER_LINES)

    def validate_cursor(self, cursor: int) -> int:
        """Keep the cursor on a row."""
        return max(min(cursor, len(self._rows) - 1), 0)

    def watch_cursor(self, old: int, new: int) -> None:
        """Draw the two lines again, and tell."""
        self.refresh()
        if old != new and self._rows:
            self._show_cursor()
            self.post_message(self.Moved(self))

    def _show_cursor(self) -> None:
        height = max(self.size.height - _HEADER_LINES, 1)
        top = round(self.scroll_y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True)

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self.cursor += lines

    def action_page(self, pages: int) -> None:
        """Move the cursor by a page."""
        self.cursor += pages * max(self.size.height - _HEADER_LINES - 1, 1)

    def action_edge(self, where: int) -> None:
        """Move the cursor to the first (0) or the last row (-1)."""
        self.cursor = 0 if where == 0 else len(self._rows) - 1

    def action_pick(self) -> None:
        """Pick the row under the cursor."""
        if self._rows:
            self.post_message(self.Picked(self))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor, pick what it is on already, or tell of a header."""
        if event.y < _HEADER_LINES:
            at = 0
            for column, width in fit(self._columns, self.scrollable_content_region.width):
                if at <= event.x < at + width + len(_GAP):
                    self.post_message(self.HeaderPicked(self, column.key))
                    return
                at += width + len(_GAP)
            return
        row = round(self.scroll_y) + event.y - _HEADER_LINES
        if not 0 <= row < len(self._rows):
            return
        if row == self.cursor:
            self.action_pick()
        else:
            self.cursor = row

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width = self.scrollable_content_region.width
        fitted = fit(self._columns, width)
        base = self.rich_style
        if y < _HEADER_LINES:
            return self._header(fitted, width, self.get_component_rich_style("table--header"))
        index = round(self.scroll_y) + y - _HEADER_LINES
        if index >= len(self._rows):
            if not self._rows and y == _HEADER_LINES:
                text = Text(clean(self._empty)[:width], self.get_component_rich_style("table--empty", partial=True))
                return self._strip(text, width, base)
            return Strip.blank(width, base)
        style = base + self.get_component_rich_style("table--cursor", partial=True) if index == self.cursor else base
        row = self._rows[index]
        line = Text()
        for at, (column, room) in enumerate(fitted):
            if at:
                line.append(_GAP)
            line.append_text(_cut(self._cell(row, column, room), column, room))
        return self._strip(line, width, style)

    def _header(self, fitted: Sequence[tuple[Column, int]], width: int, style: Style) -> Strip:
        line = Text()
        for at, (column, room) in enumerate(fitted):
            if at:
                line.append(_GAP)
            arrow = {column.key: "▲", f"-{column.key}": "▼"}.get(self.sorted_by, "")
            title = Text(column.title)
            title.truncate(room - len(arrow), overflow="ellipsis")  # The arrow stays, also of a title that fills it.
            line.append_text(_cut(title.append(arrow), column, room))
        return self._strip(line, width, style)

    def _strip(self, line: Text, width: int, style: Style) -> Strip:
        segments = [Segment(text, piece) for text, piece, _ in line.render(self.app.console, end="")]
        return Strip(Segment.apply_style(segments, style)).adjust_cell_length(width, style)


def _cut(cell: Cell, column: Column, room: int) -> Text:
    """A cell as wide as its column."""
    text = Text(clean(cell)) if isinstance(cell, str) else cell.copy()
    text.truncate(room, overflow="ellipsis")
    text.pad_left(room - text.cell_len) if column.align == "right" else text.pad_right(room - text.cell_len)
    return text
