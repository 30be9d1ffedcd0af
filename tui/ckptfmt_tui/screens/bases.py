"""Bases: where they are, whether they are what was recorded, what is bound to them."""

from __future__ import annotations

import os
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.results import BaseVerified, RefChanged
from ckptfmt.problems import Problem
from ckptfmt.wording import clean, count, size
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.bases import COLUMNS, BaseRow, cells, rows_of
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.merging import verified
from ckptfmt_tui.models.plans import Said, problem_lines, some
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.plan import STYLES, text_of
from ckptfmt_tui.widgets.dialogs import Confirmation, Field, Form
from ckptfmt_tui.widgets.path_picker import PathPicker
from ckptfmt_tui.widgets.table import Cell, VirtualTable

_KEEPS = ("reference", "copy")
_Listed = tuple[tuple[BaseRow, ...], tuple[str, ...]]


class BasesPage(Page):
    """Every base, and what to do with the one under the cursor."""

    PAGE = "bases"
    CSS: ClassVar[str] = """
    BasesPage #damaged { height: auto; max-height: 3; padding: 0 1; color: $text-error; display: none; }
    BasesPage #more { height: auto; max-height: 9; min-height: 5; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._bases: tuple[BaseRow, ...] = ()
        self._looks: dict[str, RunningJob] = {}

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="damaged")
        yield VirtualTable(COLUMNS, self._cell, empty="reading …", id="bases")
        with VerticalScroll(id="more", can_focus=False):
            yield Static(id="told")

    def begin(self) -> None:
        """Read them."""
        self.table.focus()
        self.store_changed()

    @property
    def table(self) -> VirtualTable[BaseRow]:
        """The bases."""
        return self.query_one("#bases", VirtualTable)

    def store_changed(self) -> None:
        """Read them again."""
        self.ask(_bases, self._listed)

    def _listed(self, answer: Answer[_Listed]) -> None:
        if answer.value is None:
            if answer.problem is not None:
                self.ui.tell_problem(answer.problem)
                self.table.show_rows((), empty=answer.problem.message)
            return
        self._bases, damaged = answer.value
        told = self.query_one("#damaged", Static)
        told.display = bool(damaged)
        told.update(Text("\n".join(f"cannot be read: {clean(each)}" for each in damaged)))
        self._draw()

    def _draw(self) -> None:
        words = self.filter_words.lower()
        rows = [row for row in self._bases if words in " ".join(cells(row, "").values()).lower()]
        empty = "no bases: n records one" if not self._bases else "nothing fits the filter"
        self.table.show_rows(rows, cursor=self.table.cursor, empty=empty)

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        self.table.redraw()

    def _cell(self, row: BaseRow, column: Column, room: int) -> Cell:
        text = cells(row, self._looked(row.report.name))[column.key]
        style = {"state": STYLES[row.tone], "name": "bold"}.get(column.key, "")
        if column.key == "looked":
            style = "bold red" if text in ("DIFFERS", "failed") else "green"
        return Text(clean(text), style=style)

    def _looked(self, name: str) -> str:
        job = self._looks.get(name)
        if job is None:
            return ""
        if job.state == "done" and isinstance(job.result, BaseVerified):
            return ("unchanged" if job.result.how == "cached" else "read, the same") if job.result.ok else "DIFFERS"
        return job.state if job.over else "reading …"

    @on(VirtualTable.Moved)
    def _tell_more(self) -> None:
        row = self.table.current
        told = Text()
        if row is not None:
            job = self._looks.get(row.report.name)
            if job is not None and job.over:
                said: tuple[Said, ...] = ()
                if job.state == "done":
                    said = verified(job.result).lines
                elif job.problem is not None and job.state == "failed":
                    said = problem_lines(job.problem)
                told.append_text(text_of(said))
                told.append("\n" if said else "")
            told.append("\n".join(map(clean, row.details())))
            self.tell_command(self.ui.command_of(jobs.VerifyBase(row.report.name)))
        else:
            self.tell_command(commands.line(self.ui.store_path, ["base", "ls"]))
        self.query_one("#told", Static).update(told)

    def action_add(self) -> None:
        """Record a base: choose its directory first."""
        self.app.push_screen(PathPicker("Record a base from", f"{os.getcwd()}/"), self._add_from)

    def _add_from(self, path: object) -> None:
        if not isinstance(path, str):
            return
        form = Form(
            "Record a base",
            [
                Field("name", "Name", os.path.basename(path).lower(), hint="what it is called here"),
                Field("source", "From", path, hint="a directory, or a Hub repository in the local cache"),
                Field("keep", "Keep as", _KEEPS[0], choices=_KEEPS),
            ],
            command=lambda values: self.ui.command_of(_added(values)),
            check=lambda values: None if values["name"].strip() and values["source"].strip() else "name and source",
        )
        self.app.push_screen(form, self._add)

    def _add(self, values: object) -> None:
        if isinstance(values, dict):
            request = _added(values)
            self.ui.start(request, f"record base {request.name}", then=self._changed)

    def action_verify(self, full: bool) -> None:  # noqa: FBT001 - an action's argument stands in the table of keys
        """Compare a base's files with its record."""
        row = self.table.current
        if row is None:
            return
        name = row.report.name
        before = self._looks.get(name)
        if before is not None and not before.over:
            return
        title = f"read base {name}" if full else f"look at base {name}"
        self._looks[name] = self.ui.start(jobs.VerifyBase(name, full=full), title, then=self._verified)
        self._tell_more()

    def _verified(self, job: RunningJob) -> None:
        if self.is_attached:
            self.table.redraw()
            self._tell_more()

    def action_keep(self) -> None:
        """Copy a base into the store."""
        row = self.table.current
        if row is None:
            return
        if row.report.kept:
            self.app.notify("the store holds all of it already", timeout=4)
            return
        request = jobs.KeepBase(row.report.name)
        question = Confirmation(
            f"Copy base {row.report.name} into the store?",
            [
                f"Writes at most {size(row.report.bytes)}, encoded; its files stay where they are.",
                f"{count(len(row.needing), 'checkpoint')} then come back without them.",
            ],
            command=self.ui.command_of(request),
        )
        self.app.push_screen(question, lambda answer: self._keep(request) if answer else None)

    def _keep(self, request: jobs.KeepBase) -> None:
        self.ui.start(request, f"keep base {request.name}", then=self._changed)

    def _changed(self, job: RunningJob) -> None:
        if job.problem is not None and job.state == "failed":
            self.ui.tell_problem(job.problem)
        elif job.state == "done":
            self.app.notify(f"{job.title}: {size(job.result.bytes)}", timeout=6)
        if self.is_attached:
            self.store_changed()

    def action_drop(self) -> None:
        """Drop a base's name, once that is agreed to."""
        row = self.table.current
        if row is None:
            return
        name = row.report.name
        if row.bound:
            named = some(row.bound)
            message = f"base {name!r} is needed by {count(len(row.bound), 'checkpoint')} ({named})"
            self.ui.tell_problem(Problem("needed", message, f"ckptfmt rm {row.bound[0]}", 1))
            return
        lines = [
            "Frees nothing now; a gc then frees what only it needs.",
            "Its files outside of the store stay as they are." if row.report.path else "",
        ]
        question = Confirmation(
            f"Drop base {name}?",
            [line for line in lines if line],
            command=commands.line(self.ui.store_path, ["base", "rm", name]),
            typed=name,
        )
        self.app.push_screen(question, lambda answer: self._drop(name) if answer else None)

    def _drop(self, name: str) -> None:
        self.ask(lambda store: store.drop_base(name), self._dropped)

    def _dropped(self, answer: Answer[RefChanged]) -> None:
        if answer.problem is not None:
            self.ui.tell_problem(answer.problem)
        self.store_changed()

    def action_stop(self) -> None:
        """Stop what runs for this base."""
        row = self.table.current
        names = () if row is None else (row.report.name,)
        for job in self.ui.jobs:
            if not job.over and getattr(job.request, "name", None) in names:
                job.stop()


def _added(values: dict[str, str]) -> jobs.AddBase:
    return jobs.AddBase(values["name"].strip(), values["source"].strip(), copy=values["keep"] == "copy")


def _bases(store: Store) -> _Listed:
    damaged: list[str] = []
    reports = store.list_bases(damaged=lambda name, error: damaged.append(f"{name}: {error.message}"))
    refs = store.list_refs(damaged=lambda name, error: None)
    seen = [report.path for report in reports if report.path is not None and os.path.isdir(report.path)]
    return rows_of(reports, refs, seen), tuple(damaged)
