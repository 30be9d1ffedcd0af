"""The receipts of cleanups: what is held, until when; undo and purge."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.results_reclaim import ReceiptRow
from ckptfmt.wording import clean, count, size
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.filters import fitting
from ckptfmt_tui.models.plans import some
from ckptfmt_tui.models.plans_cleanup import receipt_cells
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens.cleanup_plan import PurgePage
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.dialogs import Confirmation
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("receipt", "RECEIPT", 29, 0),
    Column("state", "STATE", 8, 0),
    Column("held", "HELD", 9, 0, "right"),
    Column("freed", "FREED", 9, 1, "right"),
    Column("files", "FILES", 6, 4, "right"),
    Column("until", "HELD UNTIL", 20, 2),
    Column("of", "OF", 16, 3, grows=True),
)
_STYLES: Final = {"held": "green", "stopped": "yellow", "mixed": "yellow", "purged": "dim", "undone": "dim"}


class ReceiptsPage(Page):
    """Every receipt, the newest first."""

    PAGE = "receipts"
    TAB = "cleanup"
    CSS: ClassVar[str] = """
    ReceiptsPage #sums { height: 1; padding: 0 1; background: $boost; }
    ReceiptsPage #told { height: 5; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._receipts: tuple[ReceiptRow, ...] = ()

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="sums")
        yield VirtualTable(COLUMNS, _cell, empty="reading …", id="receipts")
        yield Static(id="told")

    def begin(self) -> None:
        """Read them."""
        self.table.focus()

    @property
    def table(self) -> VirtualTable[ReceiptRow]:
        """The receipts."""
        return self.query_one("#receipts", VirtualTable)

    def store_changed(self) -> None:
        """Read them again."""
        self.ask(_receipts, self._listed)

    def on_screen_resume(self) -> None:
        """What lay above may have purged: `Page` reads what is outdated."""
        self.outdate()

    def _listed(self, answer: Answer[tuple[ReceiptRow, ...]]) -> None:
        found = self.value_of(answer)
        if found is None:
            return
        self._receipts = tuple(reversed(found))
        held = sum(row.held_bytes for row in self._receipts)
        self.query_one("#sums", Static).update(
            Text(
                f"{count(len(self._receipts), 'receipt')}: "
                + (f"{size(held)} held, to be undone or purged" if held else "nothing is held"),
                style="bold",
            )
        )
        self.filtered(self.filter_words)

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        rows = fitting(self._receipts, words, lambda row: " ".join(receipt_cells(row).values()))
        empty = "nothing fits the filter" if self._receipts else "no receipts: nothing was cleaned up yet"
        self.table.show_rows(rows, cursor=self.table.cursor, empty=empty)

    @on(VirtualTable.Moved)
    def _tell(self) -> None:
        row = self.table.current
        if row is None:
            self.tell_command(commands.line(self.ui.store_path, "cleanup", (), ["--receipts"]))
            self.query_one("#told", Static).update("")
            return
        self.tell_command(self.ui.command_of(jobs.Undo(row.receipt)))
        told = [
            f"of {row.created}: {', '.join(row.directories)}",
            f"taken in as {some(row.refs, 4)}",
            f"holds {row.held_bytes:,} bytes in {count(row.files, 'file')}; {row.freed_bytes:,} bytes were freed",
        ]
        self.query_one("#told", Static).update(Text("\n".join(map(clean, told))))

    def action_undo(self) -> None:
        """Put back what the receipt holds."""
        row = self.table.current
        if row is None:
            return
        if not row.files:
            self.app.notify("it holds nothing any more: 'restore' gives back what was deleted", timeout=6)
            return
        request = jobs.Undo(row.receipt)
        question = Confirmation(
            "Put everything back?",
            [
                f"{count(row.files, 'file')}, {size(row.held_bytes)}, go back to where they were.",
                "Nothing is replaced: where something lies in the way now, that file stays held.",
            ],
            command=self.ui.command_of(request),
        )
        self.app.push_screen(question, lambda answer: self._undo(request) if answer else None)

    def _undo(self, request: jobs.Undo) -> None:
        self.ui.start(request, f"undo {request.receipt}", then=self._undone)

    def _undone(self, job: RunningJob) -> None:
        if job.state == "stopped":
            said = "Stopped: what was put back until then is in place, all else is still held; u goes on."
            self.app.notify(said, title=job.title, severity="warning", timeout=10)
        elif job.problem is not None:
            self.ui.tell_problem(job.problem)
        else:
            stayed = [f"{each.path}: {each.reason}" for each in job.result.refused]
            names = (
                [f"{count(len(job.result.refs), 'name')} of the cleanup still in the store"] if job.result.refs else []
            )
            told = "\n".join([f"{count(job.result.files, 'file')} back in place", *names, *stayed[:4]])
            self.app.notify(told, title=job.title, severity="warning" if stayed else "information", timeout=10)
        if stands(self):
            self.store_changed()

    def action_purge(self) -> None:
        """Plan a purge of this receipt."""
        row = self.table.current
        if row is not None:
            self.app.push_screen(PurgePage(row.receipt))

    def action_purge_due(self) -> None:
        """Plan a purge of all that is due."""
        self.app.push_screen(PurgePage(None))


def _receipts(store: Store) -> tuple[ReceiptRow, ...]:
    from ckptfmt.api.cleaning import list_receipts  # noqa: PLC0415 - loaded when it is first asked for

    return list_receipts(store)


def _cell(row: ReceiptRow, column: Column, room: int) -> Cell:
    text = receipt_cells(row)[column.key]
    return Text(clean(text), style=_STYLES.get(row.state, "")) if column.key == "state" else text
