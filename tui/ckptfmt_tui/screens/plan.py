"""A page for what asks before it does: its plan, the question, its progress, what became of it.

The job that has made the plan waits; agreeing lets it execute that plan and no other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.problems import Problem
from ckptfmt.wording import clean, duration
from ckptfmt_tui.jobs.requests import Job
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.filters import fitting
from ckptfmt_tui.models.plans import Row, Said, Shown, Tone, problem_lines
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.dialogs import Confirmation
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

STYLES: dict[Tone, str] = {
    "": "",
    "good": "bold green",
    "warn": "yellow",
    "bad": "bold red",
    "dim": "dim",
    "bold": "bold",
}


def text_of(lines: Sequence[Said]) -> Text:
    """Lines for people, with their styles."""
    return Text("\n").join(Text(clean(line.text), style=STYLES[line.tone]) for line in lines)


class PlanPage(Page):
    """A plan, and what becomes of it. A subclass says what is asked and how it is told.

    Attributes:
        COLUMNS: of the plan's table.
        HEADING: stands above everything.
        NOT_YET: what stands in the table before there is a plan.
        STOPPED: what is said of work that was stopped.
        PLAN_STAYS: whether the plan stands below the outcome.
    """

    PAGE = "plan"
    COLUMNS: ClassVar[tuple[Column, ...]]
    NOT_YET: ClassVar[str] = "looking …"
    STOPPED: ClassVar[str] = "Stopped. Nothing is half-published."
    PLAN_STAYS: ClassVar[bool] = True
    DEFAULT_CSS = """
    PlanPage #heading { height: 1; padding: 0 1; background: $boost; text-wrap: nowrap; text-overflow: ellipsis; }
    PlanPage #lines { height: auto; max-height: 9; padding: 0 1; }
    PlanPage #step { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    PlanPage #more { height: auto; max-height: 6; min-height: 2; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.job: RunningJob | None = None
        self._is_stale = False
        self._told: object = None
        self._last_shown: tuple[object, Shown] | None = None
        self._all: tuple[Row, ...] = ()
        self._empty = " "

    @abstractmethod
    def request(self) -> Job:
        """What is asked; without `apply` under `--read-only`."""

    @abstractmethod
    def heading(self) -> str:
        """What stands above everything."""

    @abstractmethod
    def shown(self, plan: Any) -> Shown:
        """The plan."""

    @abstractmethod
    def outcome(self, result: Any) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """What became of it, and rows that it adds before those of the plan."""

    def dry_plan(self, result: Any) -> Any:
        """The plan in what a job that plans only gives back; None: that is no plan."""
        return getattr(result, "plan", None)

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="heading")
        with VerticalScroll(id="lines", can_focus=False):
            yield Static(id="said")
        yield Static(id="step")
        yield VirtualTable(self.COLUMNS, row_cell, empty=self.NOT_YET, id="rows")
        with VerticalScroll(id="more", can_focus=False):
            yield Static(id="told")

    def begin(self) -> None:
        """Make the plan."""
        self.table.focus()
        self.make_plan()

    @property
    def table(self) -> VirtualTable[Row]:
        """The plan's rows."""
        return self.query_one("#rows", VirtualTable)

    def make_plan(self) -> None:
        """Plan, or plan anew: a plan that still waits, or is still made, is given up."""
        if self.is_executing:
            return
        if self.job is not None:
            self.job.stop()
        request = self.request()
        self._is_stale = False
        self._told = None
        self.tell_command(self.ui.command_of(request))
        self.job = self.ui.start(request, self.heading(), then=self._over, asks=self._asks)
        self.jobs_changed()

    def _asks(self, plan: Any) -> bool:
        """Whether the plan of the job is one to agree to."""
        return self.job is not None and self._shown_of(self.job, plan).question is not None

    def _shown_of(self, job: RunningJob, plan: Any) -> Shown:
        """The plan of a job, made once for each state that the job is in: it may have very many rows."""
        key = (job.number, job.state)
        if self._last_shown is None or self._last_shown[0] != key:
            self._last_shown = (key, self.shown(plan))
        return self._last_shown[1]

    def on_unmount(self) -> None:
        """A plan that nobody sees any more waits no longer; what runs goes on."""
        if self.job is not None and not self.is_executing:
            self.job.stop()

    @property
    def is_executing(self) -> bool:
        """Whether what was planned is being done: it was agreed to, and is not over."""
        job = self.job
        return job is not None and not job.over and job.was_agreed

    def store_changed(self) -> None:
        """Another process changed the store: say that the plan may no longer hold."""
        if self.job is not None and self.job.state == "asking":
            self._is_stale = True
            self._told = None
            self.jobs_changed()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        job = self.job
        if job is None:
            return
        told = (job.number, job.state, self._is_stale)
        if told != self._told:
            self._told = told
            self._draw(job)
        step = self.query_one("#step", Static)
        step.display = not job.over and job.state != "asking"
        if step.display:
            word = "stopping: what it began is removed   " if job.state == "stopping" else ""
            step.update(Text.assemble((word, "yellow"), progress_words(job) or "looking …"))

    def _draw(self, job: RunningJob) -> None:
        plan = job.plan if job.plan is not None else self._dry(job)
        shown = self._shown_of(job, plan) if plan is not None else None
        self.query_one("#heading", Static).update(_heading(self.heading(), job))
        lines: list[Said] = []
        rows: tuple[Row, ...] = shown.rows if shown else ()
        if self._is_stale:
            lines.append(Said("The store changed since this plan was made: F5 plans anew.", "warn"))
        if job.state == "done" and self._dry(job) is None:
            said, added = self.outcome(job.result)
            lines += said
            rows = (*added, *rows) if self.PLAN_STAYS else added
        elif job.problem is not None:
            lines += self._problem_lines(job.problem, stopped=job.state == "stopped", planned=plan is not None)
        if shown is not None and not (job.over and self._dry(job) is None):
            lines += shown.lines
        if job.state == "asking" and not job.is_idle:
            lines.append(Said("y: do it    F5: plan anew    Esc: leave it", "bold"))
        self.query_one("#said", Static).update(text_of(lines))
        self.query_one("#lines").display = bool(lines)
        self._all = rows
        self._empty = (shown.empty if shown else self.NOT_YET if not job.over else "") or " "
        self._show_rows(cursor=0 if job.over else self.table.cursor)

    def _show_rows(self, *, cursor: int = 0) -> None:
        """Those rows in which all words of the filter stand."""
        words = self.filter_words
        rows = fitting(self._all, words, lambda row: " ".join((*row.cells.values(), *row.more)))
        self.table.show_rows(rows, cursor=cursor, empty="nothing fits the filter" if words.strip() else self._empty)

    def _dry(self, job: RunningJob) -> Any:
        """The plan that a job without `apply` gave back."""
        planned_only = not getattr(job.request, "apply", True)
        return self.dry_plan(job.result) if planned_only and job.state == "done" else None

    def _problem_lines(self, problem: Problem, *, stopped: bool, planned: bool) -> list[Said]:
        if stopped:
            return [Said(self.STOPPED if planned else "Stopped before anything was done.", "warn")]
        again = [Said("F5 plans anew.", "dim")] if planned else []
        return [*problem_lines(problem), *again]

    def filtered(self, words: str) -> None:
        """Show the rows in which what is typed stands."""
        self._show_rows()

    @on(VirtualTable.Moved)
    def _tell_more(self) -> None:
        row = self.table.current
        self.query_one("#told", Static).update(Text("\n".join(clean(line) for line in row.more)) if row else "")

    def action_agree(self) -> None:
        """Ask once more, then let the job do what it has planned."""
        job = self.job
        if job is None or job.state != "asking" or self.ui.read_only:
            return
        question = self._shown_of(job, job.plan).question
        if question is None:
            self.app.notify("nothing to do", timeout=3)
            return
        lines: list[str | Text] = [Text(clean(line.text), style=STYLES[line.tone]) for line in question.lines]
        dialog = Confirmation(question.title, lines, command=self.ui.command_of(job.request), typed=question.typed)
        self.app.push_screen(dialog, lambda answer: self._agreed(job) if answer else None)

    def _agreed(self, job: RunningJob) -> None:
        if job.state == "asking":
            self.ui.agree(job)

    def action_stop(self) -> None:
        """Stop what runs."""
        if self.job is not None and not self.job.over:
            self.job.stop()
            self.jobs_changed()

    def action_reload(self) -> None:
        """Plan anew."""
        self.make_plan()

    def _over(self, job: RunningJob) -> None:
        """Tell how it ended, also to somebody who looks at another page."""
        if stands(self):
            self.jobs_changed()
        if self.app.screen is not self and job.problem is not None and job.state == "failed":
            self.app.notify(job.problem.message, title=job.title, severity="error", timeout=10)
        elif self.app.screen is not self and job.state == "done":
            self.app.notify("\n".join(line.text for line in self.outcome(job.result)[0]), title=job.title, timeout=10)


def _heading(title: str, job: RunningJob) -> Text:
    words = {
        "running": ("runs" if job.plan is not None else "plans", "cyan"),
        "asking": ("nothing to do", "green") if job.is_idle else ("waits for your word", "yellow"),
        "stopping": ("stops", "yellow"),
        "done": (f"done in {duration(job.seconds)}", "green"),
        "failed": ("failed", "bold red"),
        "stopped": ("stopped", "yellow"),
    }
    return Text.assemble((f"{clean(title)}   ", "bold"), words[job.state])


def row_cell(row: Row, column: Column, room: int) -> Cell:
    """A cell of a row, in the row's style."""
    return Text(clean(row.cells.get(column.key, "")), style=STYLES[row.tone])
