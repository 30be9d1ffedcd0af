"""Verifying: decoding and comparing what is stored, and looking at the store's structure. Nothing is repaired here."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.wording import clean, duration
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models import checks
from ckptfmt_tui.models.checks import COLUMNS, Found
from ckptfmt_tui.models.plans import Row, Said, problem_lines
from ckptfmt_tui.reading import Answer, Listing, list_refs
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.plan import STYLES, text_of
from ckptfmt_tui.widgets.dialogs import Field, Form
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.table import Cell, VirtualTable


class VerifyPage(Page):
    """What was looked at, and what is damaged."""

    PAGE = "verify"
    CSS: ClassVar[str] = """
    VerifyPage #state { height: auto; max-height: 6; padding: 0 1; background: $boost; }
    VerifyPage #more { height: auto; max-height: 7; min-height: 3; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.job: RunningJob | None = None
        self.listing = Listing((), ())

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="state")
        yield VirtualTable(COLUMNS, _cell, empty="a verifies everything; f looks at the structure", id="found")
        with VerticalScroll(id="more", can_focus=False):
            yield Static(id="told")

    def begin(self) -> None:
        """Read which names cannot be read."""
        self.table.focus()
        self._draw()
        self.store_changed()

    @property
    def table(self) -> VirtualTable[Row]:
        """What was found."""
        return self.query_one("#found", VirtualTable)

    def store_changed(self) -> None:
        """See `Page.store_changed`."""
        self.ask(list_refs, self._listed)

    def _listed(self, answer: Answer[Listing]) -> None:
        if answer.value is not None:
            self.listing = answer.value
        elif answer.problem is not None:
            self.ui.tell_problem(answer.problem)
        self._draw()

    @property
    def found(self) -> Found:
        """What the last look came to."""
        job = self.job
        if job is None:
            lines = [Said("Verify decodes what is stored and compares digests; fscf looks at the structure.", "dim")]
            if self.listing.damaged:
                lines.append(Said(f"{len(self.listing.damaged)} names cannot be read", "bad"))
            return Found(tuple(lines))
        if job.state == "done":
            made = checks.checked(job.result) if isinstance(job.request, jobs.Fsck) else checks.verified(job.result)
            head = Said(f"{job.title}, in {duration(job.seconds)}", "dim")
            return Found((*made.lines, head), made.rows, made.repair)
        if job.state == "stopped":
            return Found((Said(f"{job.title}: stopped; nothing is written by it", "warn"),))
        if job.problem is not None:
            return Found(problem_lines(job.problem))
        return Found((Said(f"{job.title}   x stops it", "bold"), Said(progress_words(job) or "beginning …")))

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        if self.job is not None and not self.job.over:
            self.query_one("#state", Static).update(text_of(self.found.lines))

    def _draw(self) -> None:
        found = self.found
        lines = list(found.lines)
        if found.repair:
            lines.append(Said("to repair what can be known for sure: the command line below; Ctrl+Y copies it", "warn"))
        self.query_one("#state", Static).update(text_of(lines))
        rows = (*checks.unreadable(self.listing.damaged), *found.rows)
        words = self.filter_words.lower().split()
        rows = tuple(row for row in rows if all(word in " ".join(row.cells.values()).lower() for word in words))
        sound = self.job is not None and self.job.state == "done"
        empty = "nothing is damaged" if sound else "a verifies everything; f looks at the structure"
        self.table.show_rows(rows, cursor=self.table.cursor, empty=empty)
        if found.repair:
            self.tell_command(commands.line(self.ui.store_path, found.repair))
        else:
            self.tell_command(self.ui.command_of(self.job.request if self.job is not None else jobs.Verify()))

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    @on(VirtualTable.Moved)
    def _tell_more(self) -> None:
        row = self.table.current
        self.query_one("#told", Static).update(Text("\n".join(clean(line) for line in row.more)) if row else "")

    def _start(self, request: jobs.Job, title: str) -> None:
        if self.job is not None and not self.job.over:
            self.app.notify("one look at a time: x stops the one that runs", severity="warning", timeout=5)
            return
        self.job = self.ui.start(request, title, then=self._over)
        self._draw()

    def _over(self, job: RunningJob) -> None:
        if self.is_attached and job is self.job:
            self._draw()
        if self.app.screen is not self and job.state != "stopped":
            said = self.found.lines[0]
            bad = said.tone == "bad"
            self.app.notify(said.text, title=job.title, severity="error" if bad else "information", timeout=10)

    def action_verify(self) -> None:
        """Verify everything."""
        self._start(jobs.Verify(), "verify everything")

    def action_some(self) -> None:
        """Verify some checkpoints."""
        form = Form(
            "Verify which checkpoints?",
            [Field("names", "Names", hint="runs/exp1  sweep/*: patterns, or the beginning of names")],
            command=lambda values: self.ui.command_of(jobs.Verify(self._fitting(values["names"]) or ("REF",))),
            check=lambda values: None if self._fitting(values["names"]) else "no checkpoint fits",
        )
        self.app.push_screen(form, self._verify_some)

    def _fitting(self, words: str) -> tuple[str, ...]:
        names = [row.ref for row in self.listing.rows] + [name for name, _ in self.listing.damaged]
        patterns = words.split()
        return tuple(
            name
            for name in names
            if any(
                fnmatchcase(name, pattern) or name == pattern or name.startswith(f"{pattern.rstrip('/')}/")
                for pattern in patterns
            )
        )

    def _verify_some(self, values: object) -> None:
        if isinstance(values, dict):
            refs = self._fitting(values["names"])
            self._start(jobs.Verify(refs), f"verify {values['names'].strip()} ({len(refs)})")

    def action_fsck(self, full: bool) -> None:  # noqa: FBT001 - an action's argument stands in the table of keys
        """Look at the structure."""
        self._start(jobs.Fsck(full), "fsck, every stored byte" if full else "fsck")

    def action_stop(self) -> None:
        """Stop the look."""
        if self.job is not None and not self.job.over:
            self.job.stop()
            self.jobs_changed()


def _cell(row: Row, column: object, room: int) -> Cell:
    return Text(clean(row.cells.get(getattr(column, "key", ""), "")), style=STYLES[row.tone])
