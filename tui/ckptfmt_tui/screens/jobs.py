"""The jobs of this run: what runs, what is over, how it ended."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.wording import clean, duration
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.filters import fitting
from ckptfmt_tui.models.outcomes import outcome
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.job_bar import STYLES, progress_words, state_words
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("title", "JOB", 24, 0, grows=True),
    Column("state", "STATE", 13, 0),
    Column("progress", "PROGRESS", 30, 1, grows=True),
    Column("seconds", "TIME", 8, 2, "right"),
)
_LEFT: Final = "its plan was left: nothing was done"


class JobsPage(Page):
    """All jobs, the newest first."""

    PAGE = "jobs"
    CSS: ClassVar[str] = """
    JobsPage #told { height: 10; border-top: solid $panel; padding: 0 1; }
    """

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield VirtualTable(COLUMNS, _cell, empty="no job was started yet", id="jobs")
        with VerticalScroll(id="told"):
            yield Static(id="words")

    def begin(self) -> None:
        """Show them."""
        self.table.focus()
        self.jobs_changed()

    @property
    def table(self) -> VirtualTable[RunningJob]:
        """The jobs."""
        return self.query_one("#jobs", VirtualTable)

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        rows = fitting(self.ui.jobs[::-1], self.filter_words, lambda job: job.title)
        if list(rows) != list(self.table.rows):
            self.table.show_rows(rows, cursor=self.table.cursor)
        self.table.redraw()
        self._tell()

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self.jobs_changed()

    @on(VirtualTable.Moved)
    def _tell(self) -> None:
        job = self.table.current
        words = self.query_one("#words", Static)
        if job is None:
            words.update("")
            return
        self.tell_command(self.ui.command_of(job.request))
        told = Text(f"{job.title}\n", style="bold")
        if _was_left(job):
            told.append(_LEFT, style="not bold")
        elif job.problem is not None:
            told.append("\n".join(clean(line) for line in job.problem.lines()), style="not bold")
        elif not job.over:
            waits = "it has a plan, and waits for your word\n" if job.state == "asking" else ""
            waits = "there is nothing to do: its page shows why\n" if job.is_idle else waits
            told.append(f"{waits}{progress_words(job)}", style="not bold")
        else:
            told.append("\n".join(clean(line) for line in outcome(job.request, job.result)), style="not bold")
        words.update(told)

    def action_stop(self) -> None:
        """Stop the job under the cursor."""
        job = self.table.current
        if job is not None and not job.over:
            job.stop()
            self.jobs_changed()


def _cell(job: RunningJob, column: Column, room: int) -> Cell:
    if column.key == "state":
        return Text(state_words(job), style="" if job.is_idle else STYLES.get(job.state, ""))
    return {
        "title": job.title,
        "progress": progress_words(job) if not job.over else _end(job),
        "seconds": duration(job.seconds),
    }[column.key]


def _end(job: RunningJob) -> str:
    """How a job ended, on one line."""
    if _was_left(job):
        return _LEFT
    if job.problem is not None:
        return job.problem.message
    return next(iter(outcome(job.request, job.result)), "")


def _was_left(job: RunningJob) -> bool:
    """Whether it had only planned, and was stopped before anybody agreed."""
    return job.state == "stopped" and job.plan is not None and not job.was_agreed
