"""Bases: where they are, whether they are what was recorded, what is bound to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.api import Store
from ckptfmt.api.results import BaseVerified, RefChanged
from ckptfmt.wording import clean, count, size
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models import base_rows as told
from ckptfmt_tui.models.base_rows import BaseRow
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Said, Tone, problem_lines
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.plan import STYLES, text_of
from ckptfmt_tui.widgets.dialogs import Confirmation, Field, Form
from ckptfmt_tui.widgets.path_picker import PathPicker
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

_KEEPS: Final = ("reference", "copy")


@dataclass(frozen=True, slots=True)
class _Bases:
    """The bases that stand, and those that cannot be read."""

    rows: tuple[BaseRow, ...]
    damaged: tuple[tuple[str, str], ...]


class BasesPage(Page):
    """Every base, and what to do with the one under the cursor."""

    PAGE = "bases"
    CSS: ClassVar[str] = """
    BasesPage #damaged { height: auto; max-height: 3; padding: 0 1; color: $text-error; display: none; }
    BasesPage VirtualTable { height: 1fr; }
    BasesPage #more { height: 1fr; padding: 0 1; border-top: solid $panel; }
    BasesPage #more:focus { border-top: solid $primary; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._bases: tuple[BaseRow, ...] = ()
        self._looks: dict[str, RunningJob] = {}
        self._looked_at: dict[str, str] = {}
        self._shown: str | None = None

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="damaged")
        yield VirtualTable(told.COLUMNS, self._cell, empty="reading …", id="bases")
        with VerticalScroll(id="more"):
            yield Static(id="told")

    def begin(self) -> None:
        """Read them."""
        self.table.focus()
        self.store_changed()

    @property
    def table(self) -> VirtualTable[BaseRow]:
        """The bases."""
        return self.query_one("#bases", VirtualTable)

    def leave(self) -> None:
        """See `Page.leave`; from the details, back to the list."""
        if self.query_one("#more").has_focus:
            self.table.focus()
        else:
            super().leave()

    def store_changed(self) -> None:
        """Read them again."""
        self.ask(_bases, self._listed)

    def _listed(self, answer: Answer[_Bases]) -> None:
        if answer.value is None:
            if answer.problem is not None:
                self.ui.tell_problem(answer.problem)
                self.table.show_rows((), empty=answer.problem.message)
            return
        self._bases = answer.value.rows
        # What a look came to holds for what it looked at: not for another base that is called the same by now.
        records = self._records()
        self._looks = {name: job for name, job in self._looks.items() if records.get(name) == self._looked_at[name]}
        shown = self.query_one("#damaged", Static)
        shown.display = bool(answer.value.damaged)
        lines = [f"cannot be read: {name}: {why}" for name, why in answer.value.damaged]
        if lines:
            lines[-1] += "; see the page Verify"
        shown.update(Text("\n".join(map(clean, lines))))
        self._draw()

    def _records(self) -> dict[str, str]:
        return {row.name: row.report.record for row in self._bases}

    def _draw(self) -> None:
        current = self.table.current
        rows = told.fitting(self._bases, self.filter_words)
        names = [row.name for row in rows]
        cursor = names.index(current.name) if current is not None and current.name in names else self.table.cursor
        empty = "nothing fits the filter" if self._bases else "no bases: n records one"
        self.table.show_rows(rows, cursor=cursor, empty=empty)

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        self.table.redraw()

    def _cell(self, row: BaseRow, column: Column, room: int) -> Cell:
        text, tone = self._looked(row.name)
        if column.key == "looked":
            return Text(text, style=STYLES[tone])
        style = {"there": STYLES[row.tone], "name": "bold"}.get(column.key, "")
        return Text(clean(row.cells(text)[column.key]), style=style)

    def _looked(self, name: str) -> tuple[str, Tone]:
        """What the last look at a base came to, and its tone."""
        job = self._looks.get(name)
        if job is None:
            return "", ""
        if job.state == "done" and isinstance(job.result, BaseVerified):
            return told.looked(job.result)
        if job.state == "failed":
            return "failed", "bad"
        return ("stopped", "warn") if job.state == "stopped" else ("reading …", "dim")

    @on(VirtualTable.Moved)
    def _tell(self) -> None:
        row = self.table.current
        if row is None:
            self.query_one("#told", Static).update("")
            self.tell_command(commands.line(self.ui.store_path, "base ls"))
            return
        self.query_one("#told", Static).update(text_of((*self._outcome(row.name), *row.details())))
        self.tell_command(self.ui.command_of(jobs.VerifyBase(row.name)))
        if row.name != self._shown:
            self._shown = row.name
            self.query_one("#more", VerticalScroll).scroll_home(animate=False)

    def _outcome(self, name: str) -> tuple[Said, ...]:
        job = self._looks.get(name)
        if job is not None and job.state == "done":
            return told.verified_lines(job.result)
        if job is not None and job.problem is not None and job.state == "failed":
            return problem_lines(job.problem)
        return ()

    @on(VirtualTable.Picked)
    def _to_details(self) -> None:
        self.query_one("#more").focus()

    def action_add(self) -> None:
        """Record a base."""
        if not self.ui.read_only:
            self._add_form("", "", _KEEPS[0])

    def _add_form(self, name: str, source: str, keep: str) -> None:
        form = Form(
            "Record a base",
            [
                Field("name", "Name", name, hint="what it is called in this store"),
                Field("source", "From", source, hint="a directory or a Hub repository; empty: choose a directory"),
                Field("keep", "Keep as", keep, choices=_KEEPS),
            ],
            command=lambda values: self.ui.command_of(_added(values)),
            check=lambda values: None if values["name"].strip() or not values["source"].strip() else "give it a name",
        )
        self.app.push_screen(form, self._add)

    def _add(self, values: object) -> None:
        if not isinstance(values, dict):
            return
        if not values["source"].strip():
            picker = PathPicker("Record a base from", f"{os.getcwd()}/")
            self.app.push_screen(picker, lambda path: self._add_from(values, path))
            return
        request = _added(values)
        self.ui.start(request, f"record base {request.name}", then=self._added)

    def _add_from(self, values: dict[str, str], path: object) -> None:
        if isinstance(path, str):
            self._add_form(values["name"].strip() or os.path.basename(path).lower(), path, values["keep"])

    def _added(self, job: RunningJob) -> None:
        self._told_of(job, lambda: f"{count(job.result.tensors, 'tensor')}, {size(job.result.bytes)}")

    def action_verify(self, full: bool) -> None:  # noqa: FBT001 - an action's argument stands in the table of keys
        """Compare a base's files with its record."""
        row = self.table.current
        if row is not None:
            self._verify(jobs.VerifyBase(row.name, full=full))

    def action_place(self) -> None:
        """Say where its files are now, and compare them."""
        row = self.table.current
        if row is None or self.ui.read_only:
            return
        begin = f"{os.path.dirname(row.look.places[0].path)}/" if row.look.places else ""
        start = begin if os.path.isdir(begin) else f"{os.getcwd()}/"
        name = row.name
        self.app.push_screen(PathPicker(f"Where are the files of {name}?", start), lambda path: self._place(name, path))

    def _place(self, name: str, path: object) -> None:
        if isinstance(path, str):
            self._verify(jobs.VerifyBase(name, path=path))

    def _verify(self, request: jobs.VerifyBase) -> None:
        before = self._looks.get(request.name)
        if before is not None and not before.over:
            self.app.notify("it is being read already: x stops that", severity="warning", timeout=5)
            return
        title = f"read base {request.name}" if request.full else f"verify base {request.name}"
        self._looked_at[request.name] = self._records().get(request.name, "")
        self._looks[request.name] = self.ui.start(request, title, then=self._verified)
        self._tell()
        self.tell_command(self.ui.command_of(request))

    def _verified(self, job: RunningJob) -> None:
        if job.state == "failed" and job.problem is not None:
            self.ui.tell_problem(job.problem)
        elif job.state == "done":
            first = told.verified_lines(job.result)[0]
            self.app.notify(clean(first.text), severity="information" if job.result.ok else "error", timeout=8)
        if stands(self):
            self.store_changed()

    def action_keep(self) -> None:
        """Copy a base into the store."""
        row = self.table.current
        if row is None or self.ui.read_only:
            return
        if row.report.kept:
            self.app.notify("the store holds all of it already", timeout=5)
            return
        request = jobs.KeepBase(row.name)
        question = Confirmation(
            f"Copy base {row.name} into the store?",
            [
                f"Reads {size(row.report.bytes)} and writes at most as much; its files stay where they are.",
                f"Then no file outside of the store is needed for {count(len(row.needing), 'checkpoint')}.",
            ],
            command=self.ui.command_of(request),
        )
        self.app.push_screen(question, lambda answer: self._keep(request) if answer else None)

    def _keep(self, request: jobs.KeepBase) -> None:
        self.ui.start(request, f"copy in base {request.name}", then=self._kept)

    def _kept(self, job: RunningJob) -> None:
        self._told_of(
            job, lambda: f"{size(job.result.bytes)} copied in" if job.result.bytes else "the store had all of it"
        )

    def _told_of(self, job: RunningJob, words: Callable[[], str]) -> None:
        if job.state == "failed" and job.problem is not None:
            self.ui.tell_problem(job.problem)
        elif job.state == "done":
            self.app.notify(words(), title=job.title, timeout=6)
        if stands(self):
            self.store_changed()

    def action_drop(self) -> None:
        """Drop a base's name, once that is agreed to."""
        row = self.table.current
        if row is None or self.ui.read_only:
            return
        name = row.name
        lines = [
            "Frees nothing now; a gc then frees what only it needs.",
            "Its files outside of the store stay as they are.",
        ]
        if row.bound:
            lines.append(f"{count(len(row.bound), 'checkpoint')} bound to it: refused, unless it has another name.")
        question = Confirmation(
            f"Drop base {name}?", lines, command=commands.line(self.ui.store_path, "base rm", [name])
        )
        self.app.push_screen(question, lambda answer: self._drop(name) if answer else None)

    def _drop(self, name: str) -> None:
        self.ask(lambda store: store.drop_base(name), self._dropped)

    def _dropped(self, answer: Answer[RefChanged]) -> None:
        self.value_of(answer)
        self.store_changed()

    def action_stop(self) -> None:
        """Stop what runs for the base under the cursor."""
        row = self.table.current
        for job in self.ui.jobs:
            if row is not None and not job.over and _base_of(job.request) == row.name:
                job.stop()


def _base_of(request: jobs.Job) -> str | None:
    """The base that a job is about."""
    return request.name if isinstance(request, jobs.AddBase | jobs.VerifyBase | jobs.KeepBase) else None


def _added(values: dict[str, str]) -> jobs.AddBase:
    source = values["source"].strip()
    if source.startswith("~"):
        source = os.path.expanduser(source)
    return jobs.AddBase(values["name"].strip() or "NAME", source or "PATH_OR_REPO", copy=values["keep"] == "copy")


def _bases(store: Store) -> _Bases:
    damaged: list[tuple[str, str]] = []
    looks = store.look_at_bases(damaged=lambda name, error: damaged.append((name, error.message)))
    refs = store.list_refs(damaged=lambda name, error: None)
    return _Bases(told.rows_of(looks, refs), tuple(damaged))
