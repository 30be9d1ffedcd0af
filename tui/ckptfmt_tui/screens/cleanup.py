"""Cleaning up: what is redundant in people's directories, as a tree; what to take of it; the plan; the receipts."""

from __future__ import annotations

import os
from typing import ClassVar, Final, NamedTuple

from msgspec import structs
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.api.results_reclaim import ScanReport
from ckptfmt.problems import Problem
from ckptfmt.wording import clean, count, size
from ckptfmt_tui.browsing import refused
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.amounts import amount
from ckptfmt_tui.models.bars import split_bar
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.trees import KEEPS, KeepWeights, Line, Node, details, goes, lines, tree, why
from ckptfmt_tui.screens.cleanup_plan import CleanupPlanPage
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.receipts import ReceiptsPage
from ckptfmt_tui.widgets.dialogs import Field, Form
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.path_picker import PathPicker
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

COLUMNS: Final = (
    Column("name", "NAME", 30, 0, grows=True),
    Column("goes", "REDUNDANT", 9, 0, "right"),
    Column("bar", "GOES █ STAYS ░", 14, 2),
    Column("bytes", "SIZE", 9, 1, "right"),
    Column("why", "WHY", 30, 3, grows=True),
)
_KEEP_WORDS: Final[dict[KeepWeights, str]] = {
    "adapter": "adapters stay, and what a Trainer resumes from",
    "full": "full weights stay too: only exact copies go",
    "none": "no weights and no training state stay",
}
_MOST_DAYS: Final = 36_500
_NOTHING: Final = "no directory yet: d chooses one, and looks for what is redundant in it"


class _Found(NamedTuple):
    """What a look that ended well came to, kept for the case that the next one does not."""

    directories: tuple[str, ...]
    report: ScanReport
    runs: tuple[Node, ...]
    left: frozenset[str]
    job: RunningJob


class CleanupPage(Page):
    """What a scan found; what a cleanup of it takes."""

    PAGE = "cleanup"
    CSS: ClassVar[str] = """
    CleanupPage #directories { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    CleanupPage #totals {
        height: auto; max-height: 3; padding: 0 1; background: $boost; text-wrap: nowrap; text-overflow: ellipsis;
    }
    CleanupPage #more { height: auto; max-height: 5; min-height: 3; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.directories: tuple[str, ...] = ()
        self.keep: KeepWeights = "adapter"
        self.hold_days = 7.0
        self.report: ScanReport | None = None
        self.job: RunningJob | None = None
        self._runs: tuple[Node, ...] = ()
        self._folded: frozenset[str] = frozenset()
        self._left: frozenset[str] = frozenset()
        self._most = 1
        self._faults: dict[str, str] = {}
        self._last: _Found | None = None

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="directories")
        yield Static(id="totals")
        yield VirtualTable(COLUMNS, self._cell, empty=_NOTHING, id="tree")
        with VerticalScroll(id="more", can_focus=False):
            yield Static(id="told")

    def begin(self) -> None:
        """Wait for a directory."""
        self.table.focus()
        self._draw()

    @property
    def table(self) -> VirtualTable[Line]:
        """The tree."""
        return self.query_one("#tree", VirtualTable)

    @property
    def plan_request(self) -> jobs.Cleanup:
        """What is planned with all that is chosen."""
        paths = [path for node in self._runs for path in node.checkpoints()]
        only = tuple(path for path in paths if path not in self._left)
        return jobs.Cleanup(
            self.directories,
            keep_weights=self.keep,
            hold_days=self.hold_days,
            only=None if len(only) == len(paths) else only,
            apply=not self.ui.read_only,
        )

    def scan(self) -> None:
        """Look through the directories."""
        if self.job is not None and not self.job.over:
            self.job.stop()
        if self.report is not None and self.job is not None:
            found = self.job.request.directories if isinstance(self.job.request, jobs.Scan) else ()
            self._last = _Found(found, self.report, self._runs, self._left, self.job)
        title = "scan " + ", ".join(map(os.path.basename, self.directories))
        self.job = self.ui.start(jobs.Scan(self.directories), title, then=self._scanned)
        self.report, self._runs, self._left = None, (), frozenset()
        self._draw()

    def _scanned(self, job: RunningJob) -> None:
        if job is not self.job or not stands(self):
            return
        if job.problem is not None and job.state == "failed":
            self._look_for_faults(self.directories, job.problem)
        if job.state == "done":
            self.report, self._last = job.result, None
            self._runs = tree(job.result, self.directories)
            self._folded = frozenset(
                child.path for node in self._runs for child in node.children if len(self._runs) > 1
            )
        self._draw()

    def _look_for_faults(self, directories: tuple[str, ...], problem: Problem) -> None:
        """Find out which of them cannot be looked into."""
        self.ask_disk(
            lambda: {path: fault for path in directories if (fault := refused(path, "directory")) is not None},
            lambda faults: self._found_faults(directories, faults, problem),
            group="faults",
        )

    def _found_faults(self, directories: tuple[str, ...], faults: dict[str, str], problem: Problem) -> None:
        if not stands(self) or directories != self.directories:
            return
        self.ui.tell_problem(problem)
        self._faults = {**self._faults, **faults}
        # Where nothing speaks against any of them, what was found before is what is left.
        before = self._last
        left = tuple(each for each in directories if each not in faults)
        if before is not None and (not faults or before.directories == left):
            self.directories, self.report, self._runs, self._left, self.job = before
            self._draw()
        elif faults and left:
            self.directories = left
            self.scan()
        else:
            self.directories = ()
            self._draw()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        if self.job is not None and not self.job.over:
            self.query_one("#totals", Static).update(Text(f"looking …  {progress_words(self.job)}", style="cyan"))
        elif self.report is not None:
            self.query_one("#totals", Static).update(self._totals())

    def _draw(self) -> None:
        current = self.table.current
        made = lines(self._runs, self._folded, self.filter_words)
        self._most = max((node.bytes for node in self._runs), default=1)
        path = current.node.path if current else None
        cursor = next((at for at, line in enumerate(made) if line.node.path == path), 0)
        if self.job is not None and not self.job.over:
            empty = "looking …"
        elif self.report is None:
            empty = _NOTHING
        else:
            empty = "nothing fits the filter" if self._runs else "no checkpoint there"
        self.table.show_rows(made, cursor=cursor, empty=empty)
        self._tell()

    def _tell(self) -> None:
        text = Text(clean(", ".join(self.directories)), style="bold")
        for path, fault in self._faults.items():
            text.append(f"{'   ' if text else ''}{clean(path)}: {fault}", style="red")
        welcome = Text("Find what is redundant, and free it; nothing goes that does not come back.", style="dim")
        self.query_one("#directories", Static).update(text or welcome)
        self.query_one("#totals", Static).update(self._totals())
        # A cleanup of nothing has no command line: without --only it would take everything.
        takes = self.directories and self.plan_request.only != ()
        self.tell_command(self.ui.command_of(self.plan_request if takes else jobs.Scan(self.directories or ("DIR",))))

    def _totals(self) -> Text:
        text = Text()
        if self.report is not None:
            report = self.report
            text.append(f"{count(len(report.checkpoints), 'checkpoint')}, {count(report.files, 'file')}: ")
            text.append(f"cleaning all frees {size(report.reclaimable[self.keep])}", style="bold green")
            others = [f"{keep} {size(report.reclaimable[keep])}" for keep in KEEPS if keep != self.keep]
            text.append(f"  ({', '.join(others)})", style="dim")
            if report.unread:
                text.append(f"  {count(len(report.unread), 'path')} not looked at", style="yellow")
            text.append("\n")
            if self._is_old:
                text.append("cleaned, undone or purged since: F5 looks again   ", style="bold yellow")
        text.append("keep weights ", style="dim")
        text.append(self.keep, style="bold")
        text.append("  hold ", style="dim")
        text.append(f"{self.hold_days:g} days" if self.hold_days else "none: deleted at once", style="bold")
        if self._left:
            text.append(f"  {count(len(self._left), 'checkpoint')} left out", style="yellow")
        text.append(f"  {_KEEP_WORDS[self.keep]}", style="dim")
        return text

    @property
    def _is_old(self) -> bool:
        """Whether files were moved since the look: by a cleanup, an undo or a purge of this application."""
        since = self.ui.jobs[self.job.number :] if self.job is not None else []
        return any(
            job.over
            and (
                (isinstance(job.request, jobs.Cleanup | jobs.Purge) and job.was_agreed)
                or (isinstance(job.request, jobs.Undo) and job.state != "failed")
            )
            for job in since
        )

    def on_screen_resume(self) -> None:
        """What lay above may have moved files."""
        if self.query("#totals"):
            self._tell()

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def _cell(self, line: Line, column: Column, room: int) -> Cell:
        node = line.node
        going = 0 if line.owner in self._left else self._going(node)
        if column.key == "name":
            return self._name_of(line)
        if column.key == "goes":
            return Text(size(going), style="green") if going else ""
        if column.key == "bytes":
            return size(node.bytes)
        if column.key == "bar":
            gone, stays = split_bar(going, max(node.bytes - going, 0), self._most, room)
            return Text.assemble((gone, "green"), (stays, "dim"))
        style = "dim" if node.file is not None and not goes(node.file, self.keep) else ""
        return Text(clean(why(node)), style=style)

    def _going(self, node: Node) -> int:
        if node.kind != "run":
            return node.going(self.keep)
        return sum(child.going(self.keep) for child in node.children if child.path not in self._left)

    def _name_of(self, line: Line) -> Text:
        node = line.node
        text = Text("  " * line.depth)
        text.append("    · " if node.kind == "file" else {None: "  ", True: "▾ ", False: "▸ "}[line.open], style="dim")
        if node.kind != "file":
            paths = node.checkpoints()
            taken = sum(path not in self._left for path in paths)
            mark = "[ ]" if not taken else "[x]" if taken == len(paths) else "[-]"
            if node.going("none") > 0:
                text.append(f"{mark} ", style="green" if taken else "dim")
        text.append(clean(node.name), style={"run": "bold", "checkpoint": "", "file": "dim"}[node.kind])
        return text

    @on(VirtualTable.Moved)
    def _moved(self) -> None:
        line = self.table.current
        told = Text("\n".join(map(clean, details(line.node)))) if line else ""
        self.query_one("#told", Static).update(told)

    @on(VirtualTable.Picked)
    def _picked(self) -> None:
        self.action_fold()

    def action_fold(self) -> None:
        """Fold or unfold a run or a checkpoint."""
        line = self.table.current
        if line is not None and line.open is not None:
            self._folded = self._folded ^ {line.node.path}
            self._draw()

    def action_directory(self) -> None:
        """Choose one more directory, and look through all of them."""
        start = f"{os.path.dirname(self.directories[-1])}/" if self.directories else f"{os.getcwd()}/"
        self.app.push_screen(PathPicker("Find what is redundant in", start), self._chosen)

    def _chosen(self, path: object) -> None:
        if isinstance(path, str):
            self.directories = tuple(dict.fromkeys((*self.directories, path)))
            self._faults.pop(path, None)
            self.scan()

    def action_forget(self) -> None:
        """Forget the directories."""
        self.action_stop()
        self.directories, self.report, self._runs, self._left, self.job = (), None, (), frozenset(), None
        self._faults, self._last = {}, None
        self._draw()

    def action_reload(self) -> None:
        """Look again."""
        if self.directories:
            self.scan()

    def action_stop(self) -> None:
        """Stop looking."""
        if self.job is not None and not self.job.over:
            self.job.stop()

    def action_take(self) -> None:
        """Take from a checkpoint or leave it; from all of a run or from none."""
        line = self.table.current
        if line is None:
            return
        paths = frozenset(line.node.checkpoints() or ((line.owner,) if line.owner else ()))
        self._left = self._left | paths if paths - self._left else self._left - paths
        self._draw()

    def action_take_all(self) -> None:
        """Take from all, or from none."""
        paths = frozenset(path for node in self._runs for path in node.checkpoints())
        self._left = frozenset() if self._left else paths
        self._draw()

    def action_weights(self) -> None:
        """The next choice of what stays in the tree."""
        order: tuple[KeepWeights, ...] = ("adapter", "none", "full")
        self.keep = order[(order.index(self.keep) + 1) % len(order)]
        self._draw()

    def action_hold(self) -> None:
        """Say how long files are held."""
        form = Form(
            "Hold files before they may be purged",
            [Field("days", "Days", f"{self.hold_days:g}", hint="0: delete at once, after a second look")],
            command=lambda values: self.ui.command_of(
                structs.replace(self.plan_request, hold_days=amount(values["days"], _MOST_DAYS) or 0.0)
            ),
            check=lambda values: None if amount(values["days"], _MOST_DAYS) is not None else "a number, at least 0",
        )
        self.app.push_screen(form, self._held)

    def _held(self, values: object) -> None:
        days = amount(values["days"], _MOST_DAYS) if isinstance(values, dict) else None
        if days is not None:
            self.hold_days = days
            self._draw()

    def action_plan(self) -> None:
        """Plan what is chosen."""
        if not self.directories:
            self.action_directory()
        elif self.report is not None and self.plan_request.only == ():
            self.app.notify("nothing is taken: space takes a checkpoint", severity="warning")
        elif self.report is not None:
            self.app.push_screen(CleanupPlanPage(self.plan_request))

    def action_receipts(self) -> None:
        """Show what earlier cleanups hold."""
        self.app.push_screen(ReceiptsPage())
