"""A heat map: a table of coloured cells with a cursor. Without colours, shading characters tell the same."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckptfmt.wording import clean
from ckptfmt_tui.models.columns import cut_left
from ckptfmt_tui.models.heat import Grid, Heat, Scale, colour, column_widths, headers, ink, scale_of, shade, window

_HEADER_LINES: Final = 1
_SAME: Final = "·"
_OUTSIDE: Final = "outside layers"
_LONE_WIDTH: Final = 8
_LABEL_MOST: Final = 18


class HeatMap(ScrollView, can_focus=True):
    """Rows down, columns across, and below them cells that stand in no row."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"heat--header", "heat--same", "heat--cursor"}
    DEFAULT_CSS = """
    HeatMap { height: 1fr; overflow-x: hidden; background: $surface; color: $foreground; }
    HeatMap > .heat--header { color: $text-muted; text-style: bold; background: $panel; }
    HeatMap > .heat--same { color: $text-muted; }
    HeatMap > .heat--cursor { text-style: bold; }
    HeatMap:focus > .heat--cursor { text-style: bold reverse; }
    """
    BINDINGS: ClassVar = [
        Binding("up,k", "move(-1, 0)", "Up", show=False),
        Binding("down,j", "move(1, 0)", "Down", show=False),
        Binding("left", "move(0, -1)", "Left", show=False),
        Binding("right", "move(0, 1)", "Right", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "edge(0)", "First", show=False),
        Binding("end,G", "edge(-1)", "Last", show=False),
        Binding("enter", "pick", "Pick", show=False),
    ]

    class Moved(Message):
        """The cursor is on another cell; None where there is none."""

        def __init__(self, heat: Heat | None) -> None:
            super().__init__()
            self.heat = heat

    class Picked(Message):
        """A cell was picked, by Enter or a click."""

        def __init__(self, heat: Heat) -> None:
            super().__init__()
            self.heat = heat

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        super().__init__(id=id)
        self._grid = Grid("", (), (), {})
        self._names: tuple[str, ...] = ()
        self._heat_scale: Scale | None = None
        self._at = (0, 0)
        self._first = 0

    @property
    def grid(self) -> Grid:
        """What it shows."""
        return self._grid

    @property
    def heat_scale(self) -> Scale | None:
        """Its scale; None where nothing changed."""
        return self._heat_scale

    @property
    def current(self) -> Heat | None:
        """The cell under the cursor."""
        return self._cell(*self._at)

    def show_grid(self, grid: Grid) -> None:
        """Show another table; the cursor goes to its largest value."""
        self._grid = grid
        self._names = tuple(map(clean, grid.columns))
        self._heat_scale = scale_of(grid.all_cells)
        self._first = 0
        places = [(row, column) for row in range(self.lines_of_cells) for column in range(self._width_of(row))]
        cells = [(cell.value or 0.0, place) for place in places if (cell := self._cell(*place)) is not None]
        self._at = max(cells, key=lambda each: (each[0], -each[1][0]), default=(0.0, (0, 0)))[1]
        self._measure()
        self.scroll_to(y=0, animate=False, force=True)
        self._moved()

    @property
    def lines_of_cells(self) -> int:
        """Lines that the cursor goes to."""
        return len(self._grid.rows) + len(self._grid.outside)

    @property
    def lines_drawn(self) -> int:
        """Lines below the header."""
        return self.lines_of_cells + self._rule + bool(self._grid.below)

    def _width_of(self, row: int) -> int:
        return len(self._grid.columns) if row < len(self._grid.rows) else 1

    def _cell(self, row: int, column: int) -> Heat | None:
        if row < len(self._grid.rows):
            return self._grid.cells.get((row, column))
        row -= len(self._grid.rows)
        return self._grid.outside[row][1] if row < len(self._grid.outside) else None

    @property
    def _rule(self) -> bool:
        return bool(self._grid.rows and self._grid.outside)

    def _line_of(self, row: int) -> int:
        """The drawn line of a row of cells, below the header."""
        return row + (1 if self._rule and row >= len(self._grid.rows) else 0)

    def _row_of(self, line: int) -> int | None:
        rows = len(self._grid.rows)
        if self._rule and line == rows:
            return None
        row = line - (1 if self._rule and line > rows else 0)
        return row if 0 <= row < self.lines_of_cells else None

    def on_resize(self) -> None:
        """Fit the columns anew."""
        self._measure()

    def _measure(self) -> None:
        self.virtual_size = Size(self.size.width, _HEADER_LINES + self.lines_drawn)

    def action_move(self, down: int, right: int) -> None:
        """Move the cursor by cells."""
        row = max(min(self._at[0] + down, self.lines_of_cells - 1), 0)
        most = self._width_of(row) - 1
        column = max(min(self._at[1] + right, most), 0) if right or most > 0 else self._at[1]
        self._at = (row, column)
        self._moved()

    def action_page(self, pages: int) -> None:
        """Move the cursor by a page."""
        self.action_move(pages * max(self.size.height - _HEADER_LINES - 1, 1), 0)

    def action_edge(self, where: int) -> None:
        """Move the cursor to the first (0) or the last row (-1)."""
        self.action_move((-1 if where == 0 else 1) * self.lines_of_cells, 0)

    def action_pick(self) -> None:
        """Pick the cell under the cursor."""
        if self.current is not None:
            self.post_message(self.Picked(self.current))

    def _moved(self) -> None:
        line, top = self._line_of(self._at[0]), round(self.scroll_y)
        height = max(self.size.height - _HEADER_LINES, 1)
        if line < top:
            self.scroll_to(y=line, animate=False, force=True)
        elif line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False, force=True)
        self.refresh()
        self.post_message(self.Moved(self.current))

    def _label_width(self) -> int:
        return min(max(map(len, (self._grid.title, *self._grid.rows))), _LABEL_MOST)

    def _widths(self) -> tuple[int, ...]:
        room = self.scrollable_content_region.width - self._label_width() - 1
        return column_widths(self._names, room)

    def _columns(self) -> list[tuple[int, int, int]]:
        """The columns in sight: index, first column of the terminal, width."""
        left = self._label_width() + 1
        room = self.scrollable_content_region.width - left
        widths = self._widths()
        if not widths:
            return []
        self._first, last = window(widths, self._first, min(self._at[1], len(widths) - 1), room)
        placed = []
        for index in range(self._first, last):
            placed.append((index, left, widths[index]))
            left += widths[index] + 1
        return placed

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to a cell, and pick it."""
        row = self._row_of(round(self.scroll_y) + event.y - _HEADER_LINES)
        if event.y < _HEADER_LINES or row is None:
            return
        column = next((index for index, left, width in self._columns() if left <= event.x <= left + width), None)
        self._at = (row, 0 if row >= len(self._grid.rows) else self._at[1] if column is None else column)
        self._moved()
        if column is not None or row >= len(self._grid.rows):
            self.action_pick()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y < _HEADER_LINES:
            header = self.get_component_rich_style("heat--header")
            return self._strip(self._header(), width, header)
        line = round(self.scroll_y) + y - _HEADER_LINES
        row = self._row_of(line)
        if row is None:
            told = _OUTSIDE if self._rule and line == len(self._grid.rows) else ""
            if self._grid.below and line == self._line_of(self.lines_of_cells):
                told = f"{_OUTSIDE}, the same: {clean(self._grid.below)}"[:width]
            return self._strip(Text(told, self.get_component_rich_style("heat--same")), width, base)
        return self._strip(self._row(row), width, base)

    def _header(self) -> Text:
        line = Text(cut_left(self._grid.title, self._label_width()).ljust(self._label_width()))
        told = headers(self._names, self._widths())
        for index, _, width in self._columns():
            line.append(f" {told[index]:>{width}}")
        return line

    def _row(self, row: int) -> Text:
        if row >= len(self._grid.rows):
            name, heat = self._grid.outside[row - len(self._grid.rows)]
            return self._drawn(heat, _LONE_WIDTH, under=self._at[0] == row).append(f" {clean(name)}", Style.null())
        room = self._label_width()
        line = Text(cut_left(clean(self._grid.rows[row]), room).ljust(room), no_wrap=True)
        for index, _, width in self._columns():
            line.append(" ")
            line.append_text(self._drawn(self._grid.cells.get((row, index)), width, under=self._at == (row, index)))
        return line

    def _drawn(self, heat: Heat | None, width: int, *, under: bool) -> Text:
        """One cell, `width` columns wide; brackets mark the one under the cursor."""
        style = Style()
        if heat is None:
            text = " " * width
        elif heat.value is None or self._heat_scale is None or heat.value <= 0:
            text, style = (heat.told or _SAME).center(width), self.get_component_rich_style("heat--same")
        else:
            position = self._heat_scale.at(heat.value)
            told = heat.told if len(heat.told) <= width else ""
            if self.app.no_color:
                text = told.rjust(width) if len(told) >= width else f" {told}".rjust(width, shade(position))
            else:
                paper = colour(position, dark=self.app.current_theme.dark)
                style = Style(color=Color.from_rgb(*ink(paper)), bgcolor=Color.from_rgb(*paper))
                text = f"{told} ".rjust(width) if len(told) < width else told
        if under:
            inner = heat.told[: width - 2] if heat is not None else ""
            style += self.get_component_rich_style("heat--cursor", partial=True)
            text = f"[{inner.rjust(width - 2)}]"
        return Text(text, style)

    def _strip(self, line: Text, width: int, style: Style) -> Strip:
        segments = [Segment(text, piece) for text, piece, _ in line.render(self.app.console, end="")]
        return Strip(Segment.apply_style(segments, style)).adjust_cell_length(width, style)
