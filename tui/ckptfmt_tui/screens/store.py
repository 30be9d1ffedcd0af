"""The store: its refs as a tree of runs, what each takes, and what the whole of it saves."""

from __future__ import annotations

import os
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.results import RefChanged, RefRow, Stats
from ckptfmt.wording import clean, count, metrics, ratio, short, size
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.bars import split_bar
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.runs import ORDERS, Branch, Line, Order, fitting, lines, tree
from ckptfmt_tui.reading import Answer, Listing, list_refs
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.dialogs import Confirmation, Field, Form
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("name", "NAME", 24, 0, grows=True),
    Column("own", "OWN", 9, 1, "right"),
    Column("bar", "OWN █ SHARED ░", 14, 3),
    Column("stored", "STORED", 9, 2, "right"),
    Column("logical", "LOGICAL", 9, 4, "right"),
    Column("step", "STEP", 7, 5, "right"),
    Column("base", "BASE", 14, 6),
    Column("layout", "LAYOUT", 12, 8),
    Column("metrics", "METRICS", 24, 7),
)
_DETAILS_FROM: Final = 120
"""Columns of the terminal from which on the details stand beside the tree."""


class StorePage(Page):
    """Refs, and what to do with the one under the cursor."""

    PAGE = "store"
    CSS: ClassVar[str] = """
    StorePage #summary { height: 1; padding: 0 1; background: $surface; }
    StorePage #damaged { height: auto; padding: 0 1; color: $text-error; display: none; }
    StorePage #details { width: 42; border-left: solid $panel; padding: 0 1; display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: tuple[RefRow, ...] = ()
        self._folded: frozenset[str] = frozenset()
        self._order: Order = "name"
        self._most = 1

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(Text(self.ui.store_path, style="dim"), id="summary")
        yield Static(id="damaged")
        with Horizontal():
            yield VirtualTable(COLUMNS, self._cell, empty="reading the store …", sorted_by="name", id="refs")
            with VerticalScroll(id="details", can_focus=False):
                yield Static(id="detail")

    def begin(self) -> None:
        """Read the refs."""
        self.table.focus()
        self.store_changed()

    @property
    def table(self) -> VirtualTable[Line]:
        """The tree."""
        return self.query_one("#refs", VirtualTable)

    def on_resize(self) -> None:
        """Show the details where there is room."""
        self.query_one("#details").display = self.size.width >= _DETAILS_FROM

    def store_changed(self) -> None:
        """Read again."""
        self.ask(list_refs, self._listed)
        self.ask(_stats, self._summed)

    def _listed(self, answer: Answer[Listing]) -> None:
        if answer.value is None:
            if answer.problem is not None:
                self.ui.tell_problem(answer.problem)
                self.table.show_rows((), empty=answer.problem.message)
            return
        self._rows = answer.value.rows
        damaged = self.query_one("#damaged", Static)
        damaged.display = bool(answer.value.damaged)
        if answer.value.damaged:
            name, why = answer.value.damaged[0]
            more = f" (and {len(answer.value.damaged) - 1} more)" if len(answer.value.damaged) > 1 else ""
            damaged.update(Text(f"cannot be read: {clean(name)}: {clean(why)}{more}; see the page Verify"))
        self._draw()

    def _summed(self, answer: Answer[Stats]) -> None:
        if answer.value is not None:
            self.query_one("#summary", Static).update(_summary(answer.value))

    def _draw(self) -> None:
        """Make the lines anew; the cursor stays on its node."""
        current = self.table.current
        rows = fitting(self._rows, self.filter_words)
        made = lines(tree(rows, self._order), frozenset() if self.filter_words else self._folded)
        self._most = max((line.node.stored_bytes for line in made), default=1)
        path = current.path if current else None
        cursor = next((at for at, line in enumerate(made) if line.path == path), self.table.cursor)
        empty = "no checkpoints: i takes one in" if not self._rows else "nothing fits the filter"
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
        self.query_one("#detail", Static).update(_details(line.node) if line else "")
        if line is None:
            self.tell_command(commands.line(self.ui.store_path, ["ls"]))
        elif isinstance(line.node, Branch):
            self.tell_command(commands.line(self.ui.store_path, ["ls", line.path]))
        else:
            self.tell_command(commands.line(self.ui.store_path, ["show", line.path]))

    @on(VirtualTable.Picked)
    def _picked(self, event: VirtualTable.Picked) -> None:
        self.action_open()

    @on(VirtualTable.HeaderPicked)
    def _header(self, event: VirtualTable.HeaderPicked) -> None:
        self._order = "name" if event.key == "name" else "size"
        self._draw()

    @property
    def row(self) -> RefRow | None:
        """The checkpoint under the cursor."""
        line = self.table.current
        return line.node if line is not None and isinstance(line.node, RefRow) else None

    def action_open(self) -> None:
        """Open a checkpoint, fold a run."""
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
            self.ui.chosen = self.row.ref
            self.ui.show_page("merge")

    def action_verify(self) -> None:
        """Verify this checkpoint, or all below the run."""
        line = self.table.current
        if line is None:
            return
        refs = tuple(row.ref for row in self._rows if row.ref == line.path or row.ref.startswith(f"{line.path}/"))
        self.ui.start(jobs.Verify(refs), f"verify {line.path}", then=self._verified)

    def _verified(self, job: RunningJob) -> None:
        if job.problem is not None:
            self.ui.tell_problem(job.problem)
        elif job.result.damaged:
            self.app.notify(
                f"{count(len(job.result.damaged), 'object')} damaged: see the page Verify", severity="error", timeout=20
            )
        else:
            self.app.notify(f"{job.title}: {count(job.result.objects, 'object')}, {size(job.result.bytes)}, sound")

    def action_import(self) -> None:
        """Take in what lies in a directory."""
        from ckptfmt_tui.screens.taking_in import take_in  # noqa: PLC0415 - loaded when it is first asked for

        take_in(self.ui)

    def action_restore(self) -> None:
        """Give the files back."""
        row = self.row
        if row is None:
            return
        target = os.path.join(os.getcwd(), row.ref.rpartition("/")[2])
        form = Form(
            f"Restore {row.ref}",
            [Field("target", "Into", target, hint="a directory that does not exist, or is empty")],
            command=lambda values: self.ui.command_of(jobs.Restore(row.ref, values["target"])),
            check=lambda values: None if values["target"].strip() else "say where",
        )
        self.app.push_screen(form, lambda values: self._restore(row.ref, values))

    def _restore(self, ref: str, values: object) -> None:
        if isinstance(values, dict):
            self.ui.start(jobs.Restore(ref, values["target"]), f"restore {ref}", then=self._restored)

    def _restored(self, job: RunningJob) -> None:
        if job.problem is not None:
            self.ui.tell_problem(job.problem)
        else:
            self.app.notify(f"{count(job.result.files, 'file')}, {size(job.result.bytes)}, verified: {job.result.path}")

    def action_pin(self) -> None:
        """Protect from prune, or no longer."""
        row = self.row
        if row is not None:
            self.ask(lambda store: store.pin(row.ref, off=row.pinned), self._changed)

    def action_drop(self) -> None:
        """Drop a name, once that is agreed to."""
        row = self.row
        if row is None:
            return
        shared = max(row.stored_bytes - row.exclusive_bytes, 0)
        question = Confirmation(
            f"Drop {row.ref}?",
            [
                f"Frees nothing now. A gc then frees {size(row.exclusive_bytes)}, which only it needs.",
                f"{size(shared)} stay: other checkpoints or bases need them too.",
                f"'rollback {row.ref}@{row.generation}' brings it back until a gc has gone over it.",
            ],
            command=commands.line(self.ui.store_path, ["rm", row.ref]),
        )
        self.app.push_screen(question, lambda answer: self._drop(row.ref) if answer else None)

    def _drop(self, ref: str) -> None:
        self.ask(lambda store: store.drop(ref), self._changed)

    def _changed(self, answer: Answer[RefChanged]) -> None:
        if answer.problem is not None:
            self.ui.tell_problem(answer.problem)
        self.store_changed()


def _stats(store: Store) -> Stats:
    return store.stats(damaged=lambda name, error: None)


def _summary(stats: Stats) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(count(stats.checkpoints, "checkpoint"), style="bold")
    text.append(f"  {size(stats.logical_bytes)} in {size(stats.stored_bytes)}")
    times = ratio(stats.logical_bytes, stats.stored_bytes)
    if times:
        text.append(f"  {times} smaller", style="green")
    text.append(f"  {count(stats.bases, 'base')}", style="dim")
    for name, stored in sorted(stats.by_encoding.items(), key=lambda item: -item[1].logical_bytes):
        text.append(f"  {name} {ratio(stored.logical_bytes, stored.stored_bytes)}", style="dim")
    return text


def _details(node: Branch | RefRow) -> Text:
    text = Text()
    if isinstance(node, Branch):
        text.append(f"{clean(node.path)}\n", style="bold")
        text.append(f"{count(node.refs, 'checkpoint')}\n")
        text.append(f"only its own  {size(node.exclusive_bytes)}\nlogical       {size(node.logical_bytes)}\n")
        return text
    text.append(f"{clean(node.ref)}\n", style="bold")
    facts = [
        ("generation", str(node.generation)),
        ("manifest", short(node.manifest)),
        ("layout", node.layout),
        ("created", node.created),
        ("stage", "" if node.stage is None else str(node.stage)),
        ("step", "" if node.step is None else f"{node.step:,}"),
        ("parent", node.parent or ""),
        ("base", f"{node.base} ({node.binding})" if node.base else ""),
        ("needs base", (node.needs_base.last_seen or node.needs_base.name) if node.needs_base else ""),
        ("logical", size(node.logical_bytes)),
        ("stored", size(node.stored_bytes)),
        ("only its own", size(node.exclusive_bytes)),
    ]
    for name, told in facts:
        if told:
            text.append(f"{name:<13}", style="dim")
            text.append(f"{clean(told)}\n")
    for name, value in node.metrics.items():
        text.append(f"{clean(str(name)):<13} ", style="dim")
        text.append(f"{value:.4g}\n" if isinstance(value, float) else f"{clean(str(value))}\n")
    return text
