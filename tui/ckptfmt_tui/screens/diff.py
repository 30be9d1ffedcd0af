"""Two checkpoints, compared: tensors, a heat map of layers and modules, files, settings, metrics."""

from __future__ import annotations

import math
from typing import ClassVar, Final, Literal

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.results_diff import Cell, DiffReport, DiffSide
from ckptfmt.wording import clean, size
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models import diffs
from ckptfmt_tui.models.bars import bar
from ckptfmt_tui.models.columns import Column, cut_left
from ckptfmt_tui.models.heat import Grid
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens.diff_facts import empty_words, legend_text, side_words, summary_text
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.chooser import OPTION_COLUMNS, Chooser, Option, option_cell
from ckptfmt_tui.widgets.heat_map import HeatMap
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.switches import Switch, Switches
from ckptfmt_tui.widgets.table import Cell as TableCell
from ckptfmt_tui.widgets.table import VirtualTable

View = Literal["tensors", "heat", "files", "settings", "metrics"]
_VIEWS: Final[dict[View, tuple[str, str]]] = {
    "tensors": ("t", "Tensors"),
    "heat": ("h", "Heat map"),
    "files": ("f", "Files"),
    "settings": ("s", "Settings"),
    "metrics": ("m", "Metrics"),
}
_BOTH_FROM: Final = 36
"""Rows of the terminal from which on the heat map stands above the tensors."""
_MARKS: Final = Column("mark", "", 1)
_COLUMNS: Final[dict[View, tuple[Column, ...]]] = {
    "tensors": (_MARKS, *diffs.TENSOR_COLUMNS),
    "files": (_MARKS, *diffs.FILE_COLUMNS),
    "settings": (_MARKS, *diffs.VALUE_COLUMNS),
    "metrics": (_MARKS, *diffs.VALUE_COLUMNS),
}
_COLOURS: Final[dict[diffs.Kind, str]] = {"added": "green", "removed": "red", "changed": "yellow", "same": "dim"}
_EMPTY: Final = "nothing of this kind: see the switches above"
_WELCOME: Final = (
    "Two checkpoints side by side: what changed in tensors, layers, files, settings and metrics.\n\n"
    "  a  chooses A, b chooses B: a ref, ref@generation, bases/NAME, or a path\n"
    "     (or mark two on the page Store, with the same keys)\n"
    "  c  compares them; nothing is written\n"
)


class DiffPage(Page):
    """A, B and what is different between them."""

    PAGE = "diff"
    CSS: ClassVar[str] = """
    DiffPage #sides { height: 2; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    DiffPage #notes { height: auto; padding: 0 1; }
    DiffPage #notes { max-height: 4; }
    DiffPage #welcome { height: 1fr; padding: 1 2; color: $text-muted; }
    DiffPage #found { height: 1fr; display: none; }
    DiffPage #map { height: 1fr; }
    DiffPage #legend { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
    DiffPage #legend { text-wrap: nowrap; text-overflow: ellipsis; }
    DiffPage #more { height: auto; max-height: 4; padding: 0 1; background: $boost; color: $text-muted; }
    DiffPage #more { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._wanted: tuple[str, str] | None = None
        self._job: RunningJob | None = None
        self._report: DiffReport | None = None
        self._all: dict[View, tuple[diffs.Row, ...]] = {}
        self._counts: dict[View, dict[diffs.Kind, int]] = {}
        self._grids: dict[str, Grid] = {}
        self._of: Literal["model", "adapter"] = "model"
        self._view: View = "tensors"
        self._kinds: frozenset[diffs.Kind] = frozenset({"added", "removed", "changed"})
        self._orders: dict[View, str] = {"tensors": "change"}
        self._most = 0.0
        self._chosen_cell: Cell | None = None
        self._options: tuple[Option, ...] = ()

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="sides")
        yield Static(id="notes")
        yield Static(Text(_WELCOME), id="welcome")
        with Vertical(id="found"):
            yield Switches(choice=True, id="views")
            yield Switches(choice=False, id="kinds")
            with Vertical(id="map"):
                yield HeatMap(id="heat")
                yield Static(id="legend")
            for view, columns in _COLUMNS.items():
                yield VirtualTable(columns, self._cell, empty=_EMPTY, id=view)
            yield Static(id="more")

    def begin(self) -> None:
        """Look for what can be compared."""
        self.store_changed()
        self._sides()

    def store_changed(self) -> None:
        """See `Page.store_changed`."""
        self.ask(_names, self._named)

    def _named(self, answer: Answer[tuple[Option, ...]]) -> None:
        self._options = answer.value or ()

    def on_screen_resume(self) -> None:
        """Compare what was marked meanwhile."""
        marks = self.ui.marks
        if "a" in marks and "b" in marks and self._wanted != (marks["a"], marks["b"]):
            self.action_compare()
        self._sides()
        self._focus()

    def on_resize(self) -> None:
        """Show the map above the tensors where there is room."""
        self._arrange()

    # A, B and the job

    def action_choose(self, letter: str) -> None:
        """Choose A or B."""
        names = [name for name, _ in self._options]
        marked = self.ui.marks.get(letter)
        window = Chooser(
            f"{letter.upper()}: which checkpoint?",
            OPTION_COLUMNS,
            option_cell,
            self._options,
            text=lambda option: option[0],
            cursor=names.index(marked) if marked in names else 0,
            hint="a part of its name; or ref@2, the beginning of a manifest id, ./path",
            typed=_typed,
        )
        self.app.push_screen(window, lambda answer: self._choose(letter, answer))

    def _choose(self, letter: str, answer: object) -> None:
        if isinstance(answer, tuple):
            self.ui.marks[letter] = answer[0]
            self._sides()

    def action_swap(self) -> None:
        """Let A be B and B be A."""
        marks = self.ui.marks
        swapped = {{"a": "b", "b": "a"}[letter]: name for letter, name in marks.items() if letter in "ab"}
        marks.update(swapped)
        for letter in {"a", "b"} & marks.keys() - swapped.keys():
            del marks[letter]
        self.on_screen_resume()

    def action_compare(self) -> None:
        """Compare A and B."""
        marks = self.ui.marks
        if "a" not in marks or "b" not in marks:
            self.app.notify("choose A and B first: keys a and b", severity="warning")
            return
        self.action_stop()
        self._wanted = marks["a"], marks["b"]
        request = jobs.Diff(*self._wanted)
        self.tell_command(self.ui.command_of(request))
        self._job = self.ui.start(request, f"diff {marks['a']} {marks['b']}", then=self._compared)
        self._sides()

    def action_stop(self) -> None:
        """Stop comparing."""
        if self._job is not None and not self._job.over:
            self._job.stop()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        if self._job is not None and not self._job.over:
            self._notes()

    def _compared(self, job: RunningJob) -> None:
        if job is not self._job or not stands(self):
            return
        if isinstance(job.result, DiffReport):
            self.show_report(job.result)
        elif job.problem is not None and job.state == "failed":
            self.ui.tell_problem(job.problem)
        self._notes()

    # What is shown

    def show_report(self, report: DiffReport) -> None:
        """Show a comparison."""
        self._report = report
        self._all = {
            "tensors": diffs.tensor_rows(report),
            "files": diffs.file_rows(report),
            "settings": diffs.value_rows(report.settings),
            "metrics": diffs.value_rows(report.metrics),
        }
        self._counts = {view: diffs.counts(rows) for view, rows in self._all.items()}
        self._most = diffs.largest(self._all["tensors"])
        grids = {of: diffs.grid_of(report.summary, of) for of in ("model", "adapter")}
        self._grids = {of: grid for of, grid in grids.items() if grid is not None}
        self._of = "model" if "model" in self._grids else "adapter"
        self._chosen_cell = None
        self.query_one("#welcome").display = False
        self.query_one("#found").display = True
        if self._view == "heat" and not self._grids:
            self._view = "tensors"
        self._show_grid()
        self._sides()
        self._arrange()
        self._focus()

    def _sides(self) -> None:
        told = Text()
        report, marks = self._report, self.ui.marks
        for letter in ("a", "b"):
            side: DiffSide | None = getattr(report, letter) if report is not None else None
            name = marks.get(letter)
            told.append(f"{letter.upper()} ", "bold reverse" if name else "dim")
            told.append(f" {clean(name)}" if name else f" not chosen: key {letter}", "bold" if name else "dim")
            if side is not None and side.name == name:
                told.append(f"  {clean(side_words(side))}", "dim")
            told.append("\n" if letter == "a" else "")
        self.query_one("#sides", Static).update(told)
        self._notes()

    def _notes(self) -> None:
        notes = self.query_one("#notes", Static)
        job, report, marks = self._job, self._report, self.ui.marks
        if job is not None and not job.over:
            notes.update(Text.assemble(("comparing  ", "bold"), progress_words(job), ("  x stops", "dim")))
        elif report is not None and (marks.get("a"), marks.get("b")) != (report.a.name, report.b.name):
            told = f"below are {clean(report.a.name)} and {clean(report.b.name)}: c compares what is chosen now"
            notes.update(Text(told, "yellow"))
        elif report is not None and job is not None and job.state == "done":
            notes.update(summary_text(report))
        else:
            notes.update(Text("stopped: c compares again", "yellow") if job and job.state == "stopped" else "")

    def _show_grid(self) -> None:
        grid = self._grids.get(self._of)
        self.query_one(HeatMap).show_grid(grid or Grid("", (), (), {}))

    def _arrange(self) -> None:
        """Decide what is in sight, and draw it."""
        if self._report is None:
            return
        both = self.size.height >= _BOTH_FROM and bool(self._grids)
        heat = self.query_one("#map")
        heat.display = self._view == "heat" or (self._view == "tensors" and both)
        lines = self.query_one(HeatMap).lines_drawn + 2
        heat.styles.height = min(lines, self.size.height * 2 // 5) if self._view == "tensors" else "1fr"
        for view in _COLUMNS:
            self.query_one(f"#{view}").display = self._view == view
        self._draw()

    def _draw(self) -> None:
        """Draw what is in sight; the other parts are drawn when one goes to them."""
        if self._view != "heat":
            self._draw_table(self._view)
        self._switches()
        self._more()

    def _draw_table(self, view: View) -> None:
        table = self.table_of(view)
        order = self._orders.get(view, "")
        shown = diffs.chosen(
            self._all[view],
            kinds=self._kinds,
            words=self.filter_words,
            cell=self._chosen_cell if view == "tensors" else None,
            order=order,
        )
        table.sorted_by = "name" if order == "name" else f"-{order}" if order and order[0] != "-" else order[1:]
        current = table.current
        cursor = next((at for at, row in enumerate(shown) if row is current), 0)
        table.show_rows(shown, cursor=cursor, empty=empty_words(self._counts[view], self._kinds))

    def _switches(self) -> None:
        differing = {
            view: sum(number for kind, number in counts.items() if kind != "same")
            for view, counts in self._counts.items()
        }
        views = [
            Switch(view, key, label, self._view == view, f"{differing[view]:,}" if view in differing else "")
            for view, (key, label) in _VIEWS.items()
            if view != "heat" or self._grids
        ]
        self.query_one("#views", Switches).show_switches(views)
        kinds = self.query_one("#kinds", Switches)
        # The map alone has no rows: its title takes their place.
        if self._view == "heat":
            other = " (h shows the other one)" if len(self._grids) > 1 else ""
            title = "relative change by layer and module" if self._of == "model" else "what the adapters add, compared"
            kinds.show_switches([Switch("other", "", title, on=True, tail=other, marked=False)])
            return
        found = self._counts[self._view]
        words = [
            Switch(kind, diffs.MARKS[kind], f"{kind} {found[kind]:,}", kind in self._kinds) for kind in diffs.KINDS
        ]
        if self._view == "tensors" and self._chosen_cell is not None:
            words.append(Switch("cell", "Esc", diffs.cell_words(self._chosen_cell), on=True, tail="only"))
        kinds.show_switches(words)

    def _cell(self, row: diffs.Row, column: Column, room: int) -> TableCell:
        style = _COLOURS[row.kind]
        if column.key == "mark":
            return Text(diffs.MARKS[row.kind], style)
        if column.key == "name":
            return Text(cut_left(clean(row.told), room), "dim" if row.kind == "same" else "")
        if column.key == "bar":
            change = row.ranks.get("change") or 0.0
            return Text(bar(change, self._most, room) if math.isfinite(change) else "", style)
        told = clean(row.cells.get(column.key, ""))
        differs = column.key in ("a", "b", "change") and row.kind != "same"
        return Text(told, style if differs else "dim" if row.kind == "same" else "")

    def _more(self) -> None:
        more = self.query_one("#more", Static)
        if self._view == "heat":
            more.display = False
            return
        row = self.table_of(self._view).current
        more.display = row is not None
        if row is not None:
            lines = [Text(clean(row.told), "bold"), *(Text(clean(line)) for line in row.lines)]
            more.update(Text("\n").join(lines))

    def table_of(self, view: View) -> VirtualTable[diffs.Row]:
        """The table of a view."""
        return self.query_one(f"#{view}", VirtualTable)

    def _focus(self) -> None:
        if self._report is not None:
            self.query_one("#heat" if self._view == "heat" else f"#{self._view}").focus()

    def focus_list(self) -> None:
        """See `Page.focus_list`."""
        self._focus()

    # What one does with it

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def action_view(self, view: View) -> None:
        """Show another part; the heat map's key again shows the other map."""
        if self._report is None or (view == "heat" and not self._grids):
            return
        if view == "heat" and self._view == "heat" and len(self._grids) > 1:
            self._of = "adapter" if self._of == "model" else "model"
            self._show_grid()
        self._view = view
        self._arrange()
        self._focus()

    def action_kind(self, kind: diffs.Kind) -> None:
        """Show or hide what was added, removed, changed, or is the same."""
        self._kinds = self._kinds ^ {kind}
        self._draw()

    def action_order(self) -> None:
        """Sort the tensors by the next column that is in sight."""
        keys = ["change", "name", "cosine", "largest", "elements", "bits", "rank", "shape"]
        order = self._orders["tensors"].removeprefix("-")
        self._orders["tensors"] = keys[(keys.index(order) + 1) % len(keys)]
        self.app.notify(f"by {self._orders['tensors']}", timeout=2)
        self._draw()

    @on(VirtualTable.HeaderPicked)
    def _header(self, event: VirtualTable.HeaderPicked) -> None:
        view = self._view
        if event.key in ("mark", "bar", "type"):
            return
        before = self._orders.get(view, "")
        self._orders[view] = f"-{event.key}" if before == event.key else event.key
        self._draw()

    @on(VirtualTable.Moved)
    def _moved(self) -> None:
        if self._report is not None:
            self._more()

    @on(Switches.Switched)
    def _switched(self, event: Switches.Switched) -> None:
        if event.control.id == "views":
            self.action_view(event.name)  # type: ignore[arg-type]
        elif event.name == "cell":
            self._choose_cell(None)
        elif event.name == "other":
            self.action_view("heat")
        else:
            self.action_kind(event.name)  # type: ignore[arg-type]

    @on(HeatMap.Moved)
    def _heat_moved(self, event: HeatMap.Moved) -> None:
        line = Text()
        if event.heat is not None and isinstance(event.heat.source, Cell):
            line.append(f"{clean(diffs.cell_line(event.heat.source))}   ", "bold")
        scale = self.query_one(HeatMap).heat_scale
        if scale is not None:
            line.append_text(legend_text(scale, dark=self.app.current_theme.dark, coloured=not self.app.no_color))
        self.query_one("#legend", Static).update(line)

    @on(HeatMap.Picked)
    def _heat_picked(self, event: HeatMap.Picked) -> None:
        if isinstance(event.heat.source, Cell):
            self._choose_cell(event.heat.source)

    def _choose_cell(self, cell: Cell | None) -> None:
        self._chosen_cell = cell
        if cell is not None and not cell.changed:
            self._kinds = self._kinds | {"same"}
        if cell is not None:
            self._view = "tensors"
        self._arrange()
        self._focus()

    def action_back(self) -> None:
        """Take the chosen cell away, then the filter; else go back."""
        if self._chosen_cell is not None and not self.query_one("#filter").has_focus:
            self._choose_cell(None)
        else:
            super().action_back()

    def on_click(self, event: events.Click) -> None:
        """A click on the name of A or B chooses another one."""
        if event.widget is not None and event.widget.id == "sides":
            self.action_choose("a" if event.y <= event.widget.region.y else "b")


def _names(store: Store) -> tuple[Option, ...]:
    refs = store.list_refs(damaged=lambda name, error: None)
    bases = [(f"bases/{row.name}", "base") for row in store.list_bases(damaged=lambda name, error: None)]
    return (*((row.ref, f"{row.layout}  {size(row.logical_bytes)}") for row in refs), *bases)


def _typed(text: str) -> Option | None:
    """What is typed, where that is no part of a name, but a path, a generation, or the beginning of a manifest id."""
    text = text.strip()
    hexadecimal = len(text) >= 8 and all(letter in "0123456789abcdef" for letter in text)
    return (text, "") if text.startswith(("/", "./", "../")) or "@" in text or hexadecimal else None
