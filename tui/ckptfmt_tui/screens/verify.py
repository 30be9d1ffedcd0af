"""Verifying: decode and compare what is stored, look at the store's structure, and see whom damage harms.

Nothing is repaired here: the command line that repairs is shown, to be copied.
"""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.api.results import RefRow
from ckptfmt.wording import clean, count, size
from ckptfmt_tui import commands
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models import findings as told
from ckptfmt_tui.models import runs
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.findings import Checked, Finding
from ckptfmt_tui.models.plans import Said, problem_lines
from ckptfmt_tui.reading import Answer, Listing, list_refs
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.plan import STYLES, text_of
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable

_WELCOME: Final = "a decodes what is stored and compares digests; f looks at the structure alone, F at both."
_NOTHING: Final = "nothing was looked at yet; c picks checkpoints"
_STATES: Final = {"sound": "green", "damaged": "bold red"}


class VerifyPage(Page):
    """What the last look found; or the checkpoints, to pick some from."""

    PAGE = "verify"
    CSS: ClassVar[str] = """
    VerifyPage #state { height: auto; max-height: 5; padding: 0 1; background: $boost; }
    VerifyPage VirtualTable { height: 3fr; }
    VerifyPage #more { height: 2fr; padding: 0 1; border-top: solid $panel; }
    VerifyPage #more:focus { border-top: solid $primary; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.job: RunningJob | None = None
        self.listing = Listing((), ())
        self._manifests: dict[str, str] | None = None
        self.picked: frozenset[str] = frozenset()
        self.states: dict[str, str] = {}
        self._checked: Checked | None = None
        self._looked_at: dict[str, str] | None = None
        self._is_picking = False
        self._texts: tuple[str, ...] = ()

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="state")
        yield VirtualTable(told.FOUND_COLUMNS, _found_cell, empty=_NOTHING, id="found")
        yield VirtualTable(told.CHECKPOINT_COLUMNS, self._checkpoint_cell, empty="reading the store …", id="refs")
        with VerticalScroll(id="more"):
            yield Static(id="told")

    def begin(self) -> None:
        """Read which checkpoints there are, and which names cannot be read."""
        self._show_view()
        self.store_changed()

    def on_screen_resume(self) -> None:
        """A job may have ended while another page was shown."""
        if self.query("#state"):
            self._draw()

    @property
    def table(self) -> VirtualTable[Finding]:
        """What was found."""
        return self.query_one("#found", VirtualTable)

    @property
    def checkpoints(self) -> VirtualTable[RefRow]:
        """The checkpoints."""
        return self.query_one("#refs", VirtualTable)

    def focus_list(self) -> None:
        """See `Page.focus_list`."""
        (self.checkpoints if self._is_picking else self.table).focus()

    def leave(self) -> None:
        """See `Page.leave`; from the details, and from the checkpoints, back to what was found."""
        if self.query_one("#more").has_focus:
            self.focus_list()
        elif self._is_picking:
            self.action_view()
        else:
            super().leave()

    def store_changed(self) -> None:
        """See `Page.store_changed`."""
        self.ask(list_refs, self._listed)

    def _listed(self, answer: Answer[Listing]) -> None:
        listing = self.value_of(answer)
        if listing is None:
            return
        before, now = self._manifests or {}, listing.manifests
        self.listing, self._manifests = listing, now
        self._texts = tuple(map(runs.text_of, listing.rows))
        self.picked &= now.keys()
        self.states = {ref: state for ref, state in self.states.items() if before.get(ref) == now.get(ref)}
        self._draw()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Names that cannot be read, and what the last look found."""
        found = self._checked.findings if self._checked is not None else ()
        known = {name for finding in found for name in finding.harms}
        unread = [each for each in told.unreadable(self.listing.damaged, self.listing.rows) if each.what not in known]
        return (*unread, *found)

    def _lines(self) -> tuple[Said, ...]:
        job = self.job
        if job is not None and not job.over:
            words = "stopping …" if job.state == "stopping" else progress_words(job) or "beginning …"
            return Said(f"{job.title}: x stops it", "bold"), Said(words)
        if job is not None and job.state == "stopped":
            return (Said(f"{job.title}: stopped before its end; that much tells nothing", "warn"),)
        if job is not None and job.problem is not None:
            first, *hints = problem_lines(job.problem)
            return (Said(f"{job.title}: {first.text}", first.tone), *hints)
        lines = [Said(_WELCOME, "dim")]
        if job is not None and self._checked is not None:
            first, *more = self._checked.lines
            lines = [Said(f"{job.title}: {first.text}", first.tone), *more]
            if self._is_old(job):
                lines.append(Said("Since then checkpoints came, went, or changed.", "warn"))
        if self.listing.damaged:
            lines.append(Said(f"{count(len(self.listing.damaged), 'name')} cannot be read", "bad"))
        return tuple(lines)

    def _is_old(self, job: RunningJob) -> bool:
        """Whether what was looked at is another by now, as far as it is known what that was."""
        if self._looked_at is None:
            return False
        now = self._manifests or {}
        refs = job.request.refs if isinstance(job.request, jobs.Verify) else ()
        return any(self._looked_at.get(ref) != now.get(ref) for ref in refs or {**self._looked_at, **now})

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        if self.job is not None and not self.job.over:
            self.query_one("#state", Static).update(text_of(self._lines()))

    def _draw(self) -> None:
        self.query_one("#state", Static).update(text_of(self._lines()))
        words = self.filter_words
        found = told.fitting(self.findings, words)
        nothing = self._checked.empty if self._checked is not None else _NOTHING
        self.table.show_rows(
            found, cursor=self.table.cursor, empty="nothing fits the filter" if self.findings else nothing
        )
        rows = runs.fitting(self.listing.rows, self._texts, words)
        empty = "nothing fits the filter" if self.listing.rows else "no checkpoints that can be read"
        self.checkpoints.show_rows(rows, cursor=self.checkpoints.cursor, empty=empty)

    def _show_view(self) -> None:
        self.table.display = not self._is_picking
        self.checkpoints.display = self._is_picking
        self.focus_list()
        self._draw()

    def filtered(self, words: str) -> None:
        """See `Page.filtered`."""
        self._draw()

    def _checkpoint_cell(self, row: RefRow, column: Column, room: int) -> Cell:
        if column.key == "name":
            is_picked = row.ref in self.picked
            mark = ("[x] ", "green") if is_picked else ("[ ] ", "dim")
            return Text.assemble(mark, clean(row.ref))
        if column.key == "state":
            state = self.states.get(row.ref, "")
            return Text(state, style=_STATES.get(state, ""))
        return size(row.logical_bytes) if column.key == "logical" else row.base or ""

    @on(VirtualTable.Moved)
    def _moved(self) -> None:
        if self._is_picking:
            refs = self._wanted()
            self.query_one("#told", Static).update(Text(_picked_words(refs, self.picked)))
            self.tell_command(self.ui.command_of(jobs.Verify(refs or ("REF",))))
            return
        finding = self.table.current
        self.query_one("#told", Static).update(text_of(finding.details()) if finding else "")
        if finding is None:
            self.tell_command(self.ui.command_of(self.job.request if self.job is not None else jobs.Verify()))
        else:
            words = told.command_of_hint(finding.hint) or told.REPAIR
            self.tell_command(commands.line(self.ui.store_path, words[0], (), words[1:]))

    @on(VirtualTable.Picked, "#found")
    def _to_details(self) -> None:
        self.query_one("#more").focus()

    @on(VirtualTable.Picked, "#refs")
    def _picked(self) -> None:
        self.action_pick()

    def action_pick(self) -> None:
        """Pick the checkpoint under the cursor, or no longer."""
        row = self.checkpoints.current
        if not self._is_picking:
            self.action_view()
        elif row is not None:
            self.picked ^= {row.ref}
            self.checkpoints.redraw()
            self._moved()

    def action_view(self) -> None:
        """Change between what was found and the checkpoints."""
        self._is_picking = not self._is_picking
        self._show_view()

    def _wanted(self) -> tuple[str, ...]:
        """Checkpoints that `s` verifies: the picked ones, else those that fit the filter, else that at the cursor."""
        if self.picked:
            return tuple(row.ref for row in self.listing.rows if row.ref in self.picked)
        if self.filter_words.strip():
            return tuple(row.ref for row in self.checkpoints.rows)
        row = self.checkpoints.current
        return (row.ref,) if row is not None else ()

    def _start(self, request: jobs.Job, title: str) -> None:
        if self.job is not None and not self.job.over:
            self.app.notify("one look at a time: x stops the one that runs", severity="warning", timeout=5)
            return
        self._checked = None
        self._is_picking = False
        self._looked_at = self._manifests
        self.job = self.ui.start(request, title, then=self._over)
        self._show_view()
        self.tell_command(self.ui.command_of(request))

    def _over(self, job: RunningJob) -> None:
        if job is not self.job or not stands(self):
            return
        if job.state == "done":
            if isinstance(job.request, jobs.Fsck):
                self._checked = told.checked(job.result, job.seconds)
            else:
                refs = job.request.refs if isinstance(job.request, jobs.Verify) else ()
                now = self._manifests or {}
                # What was taken in meanwhile, or names something else by now, nobody has decoded.
                looked = self._looked_at or {}
                names = [ref for ref in refs or now if now.get(ref) == looked.get(ref, "")]
                self.states = told.states_after(self.states, names, job.result)
                self._checked = told.verified(job.result, job.seconds, refs=len(refs))
        self._draw()
        if self.app.screen is not self and job.state != "stopped":
            line = self._lines()[0] if self._checked is None else self._checked.lines[0]
            is_bad = line.tone == "bad"
            self.app.notify(
                clean(line.text), title=job.title, severity="error" if is_bad else "information", timeout=10
            )

    def action_verify(self) -> None:
        """Decode everything."""
        self._start(jobs.Verify(), "verify everything")

    def action_some(self) -> None:
        """Decode the picked checkpoints; first show them, where nothing was chosen yet."""
        if not self._is_picking and not self.picked and not self.filter_words.strip():
            self.action_view()
            return
        refs = self._wanted()
        if refs:
            self._start(jobs.Verify(refs), f"verify {refs[0]}" if len(refs) == 1 else f"verify {len(refs)} checkpoints")
        else:
            self.app.notify("no checkpoint that can be read fits", severity="warning", timeout=5)

    def action_fsck(self, full: bool) -> None:  # noqa: FBT001 - an action's argument stands in the table of keys
        """Look at the structure."""
        self._start(jobs.Fsck(full=full), "fsck --full" if full else "fsck")

    def action_stop(self) -> None:
        """Stop the look."""
        if self.job is not None and not self.job.over:
            self.job.stop()
            self.jobs_changed()


def _picked_words(refs: tuple[str, ...], picked: frozenset[str]) -> str:
    how = "picked" if picked else "under the cursor" if len(refs) == 1 else "fitting the filter"
    shown = "\n".join(clean(ref) for ref in refs[:50])
    return f"s verifies {count(len(refs), 'checkpoint')} ({how}):\n{shown}" if refs else ""


def _found_cell(finding: Finding, column: Column, room: int) -> Cell:
    return Text(clean(finding.cells()[column.key]), style=STYLES[finding.tone])
