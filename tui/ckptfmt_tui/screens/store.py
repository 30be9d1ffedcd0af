"""The store: its refs as a tree of runs, what each takes, and what the whole of it saves."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.timer import Timer
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.overview import Overview
from ckptfmt.api.results import RefRow
from ckptfmt.api.sharing import Sharing
from ckptfmt.format.refs import BASES
from ckptfmt.problems import Problem
from ckptfmt.wording import clean, count, metrics, size
from ckptfmt_tui import commands
from ckptfmt_tui.models.bars import split_bar
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.runs import (
    DAMAGED,
    ORDERS,
    Branch,
    Line,
    Order,
    branches,
    damaged_row,
    fitting,
    lines,
    lowest,
    place_of,
    text_of,
    tree,
)
from ckptfmt_tui.reading import Answer, Listing, list_refs
from ckptfmt_tui.screens import deeds, naming
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.store_facts import branch_text, damaged_text, ref_text, summary_text
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("name", "NAME", 26, 0, grows=True),
    Column("own", "OWN", 9, 1, "right"),
    Column("bar", "OWN █ SHARED ░", 14, 4),
    Column("stored", "STORED", 9, 3, "right"),
    Column("logical", "LOGICAL", 9, 6, "right"),
    Column("step", "STEP", 7, 2, "right"),
    Column("base", "BASE", 14, 7),
    Column("layout", "LAYOUT", 12, 8),
    Column("metrics", "METRICS", 20, 5),
)
_DETAILS_FROM: Final = 120
"""Columns of the terminal from which on the details stand beside the tree."""
_FOLDED_FROM: Final = 200
"""So many refs begin with their runs folded."""
_CALM_SECONDS: Final = 0.25
"""So long the cursor has to rest on a checkpoint before the store is asked with whom it shares."""


class StorePage(Page):
    """Refs, and what to do with the one under the cursor."""

    PAGE = "store"
    CSS: ClassVar[str] = """
    StorePage #summary { height: 1; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    StorePage #damaged { height: auto; max-height: 3; padding: 0 1; color: $text-error; display: none; }
    StorePage #details { width: 44; border-left: solid $panel; padding: 0 1; display: none; }
    StorePage.narrow #around { layout: vertical; }
    StorePage.narrow #details { width: 1fr; height: 10; border-left: none; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: tuple[RefRow, ...] = ()
        self._texts: tuple[str, ...] = ()
        self._folded: frozenset[str] = frozenset()
        self._order: Order = "name"
        self._most = 1
        self._listed_once = False
        self._asked = self._answered = 0
        self._details: bool | None = None
        self._told = ""
        self._damaged: dict[str, str] = {}
        self._calm: Timer | None = None
        self._pointed_at: tuple[str, bool] | None = None
        self._sharing: dict[tuple[str, int], Sharing] = {}

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(Text(self.ui.store_path, style="dim"), id="summary")
        yield Static(id="damaged")
        with Horizontal(id="around"):
            yield VirtualTable(COLUMNS, self._cell, empty="reading the store …", sorted_by="name", id="refs")
            with VerticalScroll(id="details"):
                yield Static(id="detail")

    def begin(self) -> None:
        """Read the refs, once the first frame stands: both want the interpreter."""
        self.table.focus()
        self.call_after_refresh(self.store_changed)

    @property
    def table(self) -> VirtualTable[Line]:
        """The tree."""
        return self.query_one("#refs", VirtualTable)

    def on_resize(self) -> None:
        """Show the details beside the tree where there is room, else below it where they are asked for."""
        narrow = self.size.width < _DETAILS_FROM
        self.set_class(narrow, "narrow")
        self.query_one("#details").display = not narrow if self._details is None else self._details

    def action_details(self) -> None:
        """Show or hide the details."""
        self._details = not self.query_one("#details").display
        self.on_resize()
        self.table.post_message(VirtualTable.Moved(self.table))

    def store_changed(self) -> None:
        """Read again."""
        self._asked += 1
        number = self._asked
        self.ask(list_refs, lambda answer: self._listed(number, answer))

    def _listed(self, number: int, answer: Answer[Listing]) -> None:
        if number < self._answered:  # Threads may come back in another order; what was asked later knows more.
            return
        self._answered = number
        if answer.value is None:
            if answer.problem is not None:
                if self._told != answer.problem.message:  # Said once, not every two seconds.
                    self._told = answer.problem.message
                    self.ui.tell_problem(answer.problem)
                if not self._listed_once:
                    self.table.show_rows((), empty=answer.problem.message)
            return
        first, self._told, self._listed_once = not self._listed_once, "", True
        self._damaged = {name: why for name, why in answer.value.damaged if not name.startswith(BASES)}
        self._rows = (*answer.value.rows, *map(damaged_row, self._damaged))
        self._texts = tuple(map(text_of, self._rows))
        if first and len(self._rows) > _FOLDED_FROM:
            self._folded = lowest(tree(self._rows, "name"))
        self._sharing = {}
        damaged = self.query_one("#damaged", Static)
        damaged.display = bool(answer.value.damaged)
        damaged.update(_damaged_text(answer.value.damaged))
        self._draw()
        self.ask(_overview, self._summed)

    def _summed(self, answer: Answer[Overview]) -> None:
        if answer.value is not None:
            self.query_one("#summary", Static).update(summary_text(answer.value))

    def _draw(self) -> None:
        """Make the lines anew; the cursor stays on its node."""
        current = self.table.current
        rows = fitting(self._rows, self._texts, self.filter_words)
        made = lines(tree(rows, self._order), frozenset() if self.filter_words else self._folded)
        self._most = max((line.node.stored_bytes for line in made), default=1)
        cursor = place_of(made, current.path if current else None, self.table.cursor)
        takes_in = "" if self.ui.read_only else ": i takes one in"
        empty = "nothing fits the filter" if self._rows else f"no checkpoints yet{takes_in}"
        self.table.sorted_by = {"name": "name", "size": "-own", "time": ""}[self._order]
        self.table.show_rows(made, cursor=cursor, empty=empty)

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def _cell(self, line: Line, column: Column, room: int) -> Cell:
        node = line.node
        if column.key == "name":
            return self._name_of(line)
        if column.key == "bar":
            own, shared = split_bar(
                node.exclusive_bytes, max(node.stored_bytes - node.exclusive_bytes, 0), self._most, room
            )
            return Text.assemble((own, "cyan"), (shared, "dim"))
        if column.key in ("own", "stored", "logical"):
            amount = {"own": node.exclusive_bytes, "stored": node.stored_bytes, "logical": node.logical_bytes}
            return size(amount[column.key]) if column.key != "stored" or isinstance(node, RefRow) else ""
        if isinstance(node, Branch):
            return count(node.refs, "checkpoint") if column.key == "metrics" else ""
        return {
            "step": "" if node.step is None else f"{node.step:,}",
            "base": node.base or "",
            "layout": node.layout,
            "metrics": metrics(node.metrics),
        }[column.key]

    def _name_of(self, line: Line) -> Text:
        text = Text("  " * line.depth)
        if isinstance(line.node, Branch):
            text.append("▾ " if line.open else "▸ ", style="dim")
            text.append(clean(line.node.name), style="bold")
            return text
        row = line.node
        text.append("  ")
        if row.layout == DAMAGED:
            text.append(clean(row.ref.rpartition("/")[2]), style="red")
            text.append(" damaged", style="bold red")
            return text
        text.append(clean(row.ref.rpartition("/")[2]))
        for mark, ref in self.ui.marks.items():
            if ref == row.ref:
                text.append(f" {mark.upper()}", style="bold yellow")
        if row.stage is not None:
            text.append(f" stage {row.stage}", style="dim")
        if row.pinned:
            text.append(" pinned", style="green")
        for label in row.labels:
            text.append(f" [{clean(label)}]", style="magenta")
        if row.needs_base is not None:
            text.append(" needs base", style="yellow")
        return text

    @on(VirtualTable.Moved)
    def _moved(self, event: VirtualTable.Moved) -> None:
        line = self.table.current
        if self._calm is not None:
            self._calm.stop()
        self._tell_details()
        if self.row is not None and self._key(self.row) not in self._sharing:
            self._calm = self.set_timer(_CALM_SECONDS, self._ask_sharing)
        # What is done changes the list: its command line stays until the cursor goes elsewhere.
        here = (line.path, isinstance(line.node, Branch)) if line is not None else ("", True)
        if here != self._pointed_at:
            self._pointed_at = here
            path, is_run = here
            words = [path] if path else []
            self.tell_command(commands.line(self.ui.store_path, "ls" if is_run else "show", words))

    @staticmethod
    def _key(row: RefRow) -> tuple[str, int]:
        return row.ref, row.generation

    def _ask_sharing(self) -> None:
        row = self.row
        if row is not None and self.query_one("#details").display:
            self.ask(lambda store: (self._key(row), store.sharing(row.ref)), self._shared)

    def _shared(self, answer: Answer[tuple[tuple[str, int], Sharing]]) -> None:
        if answer.value is not None:  # One that is gone, or damaged, is told of where it is listed.
            key, found = answer.value
            self._sharing[key] = found
            self._tell_details()

    def _tell_details(self) -> None:
        line = self.table.current
        told = Text()
        if line is not None and isinstance(line.node, Branch):
            told = branch_text(line.node)
        elif line is not None and isinstance(line.node, RefRow):
            told = ref_text(line.node, self._sharing.get(self._key(line.node)))
            if line.path in self._damaged:
                told = damaged_text(line.path, self._damaged[line.path])
        self.query_one("#detail", Static).update(told)

    @on(VirtualTable.Picked)
    def _picked(self, event: VirtualTable.Picked) -> None:
        self.action_open()

    @on(VirtualTable.HeaderPicked)
    def _header(self, event: VirtualTable.HeaderPicked) -> None:
        self._order = "name" if event.key == "name" else "size"
        self._draw()

    @property
    def row(self) -> RefRow | None:
        """The checkpoint under the cursor; None where that is a run, or cannot be read."""
        node = line.node if (line := self.table.current) is not None else None
        return node if isinstance(node, RefRow) and node.layout != DAMAGED else None

    def action_open(self) -> None:
        """Open a checkpoint, fold a run."""
        line = self.table.current
        if line is not None and line.path in self._damaged and isinstance(line.node, RefRow):
            hint = f"ckptfmt fsck, or u: return to an earlier generation of {line.path}"
            self.ui.tell_problem(Problem("damaged", self._damaged[line.path], hint, 3))
            return
        if self.row is None:
            self.action_fold()
            return
        from ckptfmt_tui.screens.checkpoint import CheckpointPage  # noqa: PLC0415 - loaded when it is first opened

        self.app.push_screen(CheckpointPage(self.row.ref))

    def action_fold(self) -> None:
        """Fold or unfold a run."""
        line = self.table.current
        if line is not None and isinstance(line.node, Branch):
            self._folded = self._folded ^ {line.path}
            self._draw()

    def action_close_run(self) -> None:
        """Fold the run, or go to the run that this lies in."""
        line = self.table.current
        if line is None:
            return
        if line.open:
            self.action_fold()
            return
        above = line.path.rpartition("/")[0]
        at = next((at for at, each in enumerate(self.table.rows) if each.path == above), None)
        if at is not None:
            self.table.cursor = at

    def action_open_run(self) -> None:
        """Unfold the run."""
        line = self.table.current
        if line is not None and line.open is False:
            self.action_fold()

    def action_fold_all(self) -> None:
        """Fold all runs, or unfold them where some are folded."""
        every = branches(tree(self._rows, "name"))
        self._folded = frozenset() if self._folded & every else every
        self._draw()

    def action_order(self) -> None:
        """The next order."""
        self._order = ORDERS[(ORDERS.index(self._order) + 1) % len(ORDERS)]
        self.app.notify(f"by {self._order}", timeout=2)
        self._draw()

    def action_mark(self, letter: str) -> None:
        """Mark for a diff; both marks together open it."""
        if self.row is None:
            return
        self.ui.marks[letter] = self.row.ref
        self.table.redraw()
        if len(self.ui.marks) == 2 and letter == "b":
            self.ui.show_page("diff")

    def action_merge(self) -> None:
        """Go to the merge of this checkpoint."""
        if self.row is not None:
            deeds.merge(self.ui, self.row.ref)

    def action_verify(self) -> None:
        """Verify this checkpoint, or all below the run."""
        line = self.table.current
        if line is None:
            return
        if isinstance(line.node, RefRow):
            refs = [line.path]
        else:  # One that cannot be read would keep all others from being verified.
            below = (row for row in self._rows if row.layout != DAMAGED)
            refs = [row.ref for row in below if row.ref.startswith(f"{line.path}/")]
        if not refs:  # Asked for none, it would decode everything.
            self.app.notify("none of these can be read", title=line.path, severity="warning")
            return
        self.tell_command(deeds.verify(self.ui, refs, line.path))

    def action_import(self) -> None:
        """Take in what lies in a directory."""
        from ckptfmt_tui.screens.taking_in import take_in  # noqa: PLC0415 - loaded when it is first asked for

        take_in(self.ui)

    def action_restore(self) -> None:
        """Give the files back."""
        if self.row is not None:
            deeds.restore(self.ui, self.row.ref)

    def action_pin(self) -> None:
        """Protect from prune, or no longer."""
        if self.row is not None:
            naming.pin(self, self.row)

    def action_tag(self) -> None:
        """Add a label, or take one away."""
        if self.row is not None:
            naming.tag(self, self.row)

    def action_rename(self) -> None:
        """Give it another name."""
        if self.row is not None:
            naming.rename(self, self.row)

    def action_rollback(self) -> None:
        """Choose an earlier generation."""
        line = self.table.current  # Of a ref that is damaged, too: an earlier generation may be sound.
        if line is not None and isinstance(line.node, RefRow):
            naming.rollback(self, line.path)

    def action_dropped(self) -> None:
        """Bring a dropped name back."""
        naming.bring_back(self)

    def action_drop(self) -> None:
        """Drop a name, once that is agreed to."""
        if self.row is not None:
            naming.drop(self, self.row)


def _overview(store: Store) -> Overview:
    return store.overview()


def _damaged_text(damaged: tuple[tuple[str, str], ...]) -> Text:
    text = Text()
    if damaged:
        name, why = damaged[0]
        more = f" (and {len(damaged) - 1:,} more)" if len(damaged) > 1 else ""
        text.append(f"cannot be read: {clean(name)}: {clean(why)}{more}; see the page Verify")
    return text
