"""Merging: what onto what, whether the base is what it was, where to, and what came of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ckptfmt.api.recipes import RecipeReport
from ckptfmt.problems import Problem
from ckptfmt.wording import clean, duration, size
from ckptfmt_tui.browsing import free_bytes, refused
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.merging import (
    COLUMNS,
    DTYPES,
    FORM_WORDS,
    FORMS,
    PICK_COLUMNS,
    BaseState,
    Dtype,
    Form,
    Mergeable,
    mergeable,
    merged,
    recipe_rows,
)
from ckptfmt_tui.models.merging import verified as base_verified
from ckptfmt_tui.models.plans import Row, Said, problem_lines
from ckptfmt_tui.reading import Answer, Listing, list_refs
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.screens.plan import row_cell, text_of
from ckptfmt_tui.widgets.chooser import Chooser
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.path_picker import PathPicker
from ckptfmt_tui.widgets.standing import stands
from ckptfmt_tui.widgets.table import Cell, VirtualTable


@dataclass(frozen=True, slots=True)
class Target:
    """Where a merge would write: why that cannot be, and the bytes that are free there; None where there is none."""

    path: str
    fault: str | None
    free: int | None


class MergePage(Page):
    """The merge of one checkpoint."""

    PAGE = "merge"
    CSS: ClassVar[str] = """
    MergePage #heading { height: 1; padding: 0 1; background: $boost; text-wrap: nowrap; text-overflow: ellipsis; }
    MergePage #base { height: auto; max-height: 8; padding: 0 1; }
    MergePage #recipe { height: 1fr; min-height: 4; }
    MergePage #more { height: auto; max-height: 3; padding: 0 1; }
    MergePage #options { height: auto; padding: 0 1; border-top: solid $panel; }
    MergePage #outcome { height: auto; max-height: 8; padding: 0 1; background: $boost; display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.ref: str | None = None
        self.out = ""
        self._among: str | None = None
        self.dtype: Dtype = None
        self.form: Form = "hf"
        self.recipe: RecipeReport | None = None
        self.refusal: Problem | None = None
        self.check: RunningJob | None = None
        self.job: RunningJob | None = None
        self.target: Target | None = None
        self._refusals: dict[str, str] = {}
        self._refusals_of: dict[str, str] | None = None

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(id="heading")
        yield VirtualTable(COLUMNS, row_cell, empty="c chooses a checkpoint", id="recipe")
        with VerticalScroll(id="more", can_focus=False):
            yield Static(id="told")
        with VerticalScroll(id="base", can_focus=False):
            yield Static(id="state")
        yield Static(id="options")
        with VerticalScroll(id="outcome", can_focus=False):
            yield Static(id="words")

    def begin(self) -> None:
        """Take over what was chosen."""
        self.table.focus()
        self._take_over()
        self._draw()

    def on_screen_resume(self) -> None:
        """Take over what was chosen meanwhile."""
        self._take_over()

    @property
    def table(self) -> VirtualTable[Row]:
        """The recipe."""
        return self.query_one("#recipe", VirtualTable)

    @property
    def request(self) -> jobs.Merge:
        """What is merged with all that is chosen."""
        return jobs.Merge(self.ref or "REF", self.out or "OUT", format=self.form, dtype=self.dtype)

    def _take_over(self) -> None:
        chosen, self.ui.chosen = self.ui.chosen, None
        if chosen is not None and not self._runs:
            self._choose(chosen)

    @property
    def _runs(self) -> bool:
        return self.job is not None and not self.job.over

    def _choose(self, ref: object) -> None:
        if not isinstance(ref, str):
            return
        if ref != self.ref:
            last = ref.rpartition("/")[2].replace("@", "-")
            self.out = os.path.join(self._among or os.getcwd(), f"{last}-merged")
        self.ref = ref
        self.recipe, self.refusal, self.job = None, None, None
        self._stop_check()
        self._ask_target(begin=False)
        self._draw()
        self.ask(lambda store: store.recipe(ref), lambda answer: self._found(ref, answer))

    def store_changed(self) -> None:
        """Another process changed the store: look at the recipe again."""
        if self.ref is not None and not self._runs:
            ref = self.ref
            self.ask(lambda store: store.recipe(ref), lambda answer: self._found(ref, answer))

    def _found(self, ref: str, answer: Answer[RecipeReport]) -> None:
        if ref != self.ref:
            return
        before, self.recipe, self.refusal = self.recipe, answer.value, answer.problem
        if self.recipe is not None and (before is None or before.base_root != self.recipe.base_root):
            self._look_at_base(full=False)
        self._draw()

    def _look_at_base(self, *, full: bool) -> None:
        recipe = self.recipe
        if recipe is None or recipe.base_now is None or recipe.kept:
            return
        self._stop_check()
        request = jobs.VerifyBase(recipe.base_now, full=full)
        self.check = self.ui.start(request, f"look at base {recipe.base_now}", then=lambda job: self._checked())

    def _stop_check(self) -> None:
        if self.check is not None and not self.check.over:
            self.check.stop()
        self.check = None

    def _checked(self) -> None:
        if stands(self):
            self._draw()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        self._draw_state()
        self._draw_outcome()

    @property
    def base_state(self) -> BaseState:
        """How the base stands."""
        recipe, check = self.recipe, self.check
        if self.refusal is not None:
            return BaseState(stands=False, lines=problem_lines(self.refusal))
        if recipe is None:
            return BaseState(stands=False, lines=())
        if recipe.kept:
            said = f"base {recipe.base!r} lies in the store; each tensor is compared as it is read"
            return BaseState(stands=True, lines=(Said(said, "good"),))
        if recipe.base_now is None:
            said = f"base {recipe.base!r} has no name any more; each tensor is compared as it is read"
            return BaseState(stands=True, lines=(Said(said, "warn"),))
        if check is None:
            return BaseState(stands=False, lines=(Said("the base is not looked at yet", "dim"),))
        if check.state == "done":
            return base_verified(check.result)
        if check.state == "stopped":
            return BaseState(
                stands=True, lines=(Said("not compared beforehand; each tensor is compared as it is read", "warn"),)
            )
        if check.problem is not None:
            return BaseState(stands=False, lines=problem_lines(check.problem))
        return BaseState(stands=False, lines=(Said(f"comparing base {recipe.base_now!r} with its record …", "dim"),))

    def _draw(self) -> None:
        self.table.show_rows(
            recipe_rows(self.recipe) if self.recipe is not None else (),
            cursor=self.table.cursor,
            empty="c chooses a checkpoint"
            if self.ref is None
            else "it cannot be merged: see below"
            if self.refusal is not None
            else "reading …",
        )
        self.query_one("#heading", Static).update(self._heading())
        self.query_one("#options", Static).update(self._options())
        self._draw_state()
        self._draw_outcome()
        self.tell_command(self.ui.command_of(self.request))

    def _ask_target(self, *, begin: bool) -> None:
        self.target, path = None, self.out
        self.ask_disk(
            lambda: Target(path, refused(path, "new"), free_bytes(path)),
            lambda target: self._looked(target, begin=begin),
            group="target",
        )

    def _looked(self, target: Target, *, begin: bool) -> None:
        if not stands(self) or target.path != self.out:
            return
        self.target = target
        if begin and not self._runs:
            # While it was looked at, a comparison of the base may have begun, or another recipe have been found.
            fault = self._fault() or (f"{target.path}: {target.fault}" if target.fault is not None else None)
            if fault is None:
                self.job = self.ui.start(self.request, f"merge {self.ref}", then=self._over)
            else:
                self.app.notify(fault, severity="warning", timeout=8)
        self._draw()

    def _heading(self) -> Text:
        if self.ref is None:
            return Text("merge: base and adapters, along the lineage, into one model", style="dim")
        text = Text.assemble("merge ", (clean(self.ref), "bold"))
        if self.recipe is not None:
            text.append(f"   {len(self.recipe.steps)} onto {clean(self.recipe.base)}", style="dim")
            if self.recipe.trained_on:
                text.append(f"   trained on {clean(self.recipe.trained_on)}", style="yellow")
        return text

    def _draw_state(self) -> None:
        lines = list(self.base_state.lines)
        text = text_of(lines)
        if self.check is not None and not self.check.over and self.recipe is not None:
            text.append(f"\n{progress_words(self.check)}   x stops the comparison", style="cyan")
        self.query_one("#state", Static).update(text)
        self.query_one("#base").display = bool(lines)

    def _options(self) -> Text:
        is_done = self.job is not None and self.job.state == "done"
        target = self.target
        fault = target.fault if target is not None and not is_done else None
        text = Text()
        text.append("into    ", style="dim")
        text.append(clean(self.out) or "(o chooses)", style="bold" if fault is None else "bold red")
        if fault is not None:
            text.append(f"  {fault}: o chooses another", style="red")
        text.append("\ndtype   ", style="dim")
        text.append(self.dtype or "keep", style="bold")
        text.append("  what the base is cast to before" if self.dtype else "  that of the base", style="dim")
        text.append("\nformat  ", style="dim")
        text.append(self.form, style="bold")
        text.append(f"  {FORM_WORDS[self.form]}", style="dim")
        if self.recipe is not None and self.out:
            text.append("\nspace   ", style="dim")
            written = self.recipe.cast_bytes[self.dtype] if self.dtype else self.recipe.base_bytes
            text.append(f"about {size(written)} are written")
            if target is None:
                text.append(", looking at what is free …", style="dim")
            elif target.free is not None:
                tight = target.free < written
                text.append(f", {size(target.free)} are free", style="bold red" if tight else "")
        return text

    def _draw_outcome(self) -> None:
        job = self.job
        outcome = self.query_one("#outcome")
        outcome.display = job is not None
        if job is None:
            return
        text = Text()
        if not job.over:
            text.append("stopping, what it began is removed  " if job.state == "stopping" else "", style="yellow")
            text.append(progress_words(job) or "planning …")
            text.append(f"   {duration(job.seconds)} so far   x stops it", style="dim")
        elif job.state == "done":
            text = text_of(merged(job.result))
        elif job.state == "stopped":
            text = Text(f"Stopped: nothing appeared in {clean(self.out)}.", style="yellow")
        elif job.problem is not None:
            text = text_of(problem_lines(job.problem))
        self.query_one("#words", Static).update(text)

    @on(VirtualTable.Moved)
    def _tell_more(self) -> None:
        row = self.table.current
        self.query_one("#told", Static).update(
            Text("\n".join(clean(line) for line in row.more), style="dim") if row else ""
        )
        self.query_one("#more").display = row is not None

    def action_choose(self) -> None:
        """Choose a checkpoint."""
        if not self._runs:
            self.ask(list_refs, self._choosing)

    def _choosing(self, answer: Answer[Listing]) -> None:
        listing = self.value_of(answer)
        if listing is None:
            return
        rows = mergeable(listing.rows, self._refusals)
        names = [row.ref for row in rows]
        chooser = Chooser(
            "Merge which checkpoint?",
            PICK_COLUMNS,
            _pick_cell,
            rows,
            text=lambda row: f"{row.ref} {row.told}",
            cursor=names.index(self.ref) if self.ref in names else 0,
        )
        self.app.push_screen(chooser, lambda row: self._choose(row.ref) if isinstance(row, Mergeable) else None)
        if listing.manifests != self._refusals_of:
            # Every manifest is read for that, which may take a while: the list is there before.
            self.ask(lambda store: store.refusals(), lambda found: self._refused(chooser, listing, found))

    def _refused(self, chooser: Chooser[Mergeable], listing: Listing, answer: Answer[dict[str, str]]) -> None:
        if answer.value is None:
            return
        self._refusals, self._refusals_of = answer.value, listing.manifests
        if stands(chooser):
            chooser.show_choices(mergeable(listing.rows, self._refusals))

    def action_into(self) -> None:
        """Choose where to."""
        if not self._runs:
            self.app.push_screen(PathPicker("Merge into a new directory", self.out, "new"), self._into)

    def _into(self, path: object) -> None:
        if isinstance(path, str):
            # The next checkpoint's goes beside it.
            self.out, self._among, self.job = path, os.path.dirname(path), None
            self._ask_target(begin=False)
            self._draw()

    def action_dtype(self) -> None:
        """The next dtype."""
        if not self._runs:
            self.dtype, self.job = DTYPES[(DTYPES.index(self.dtype) + 1) % len(DTYPES)], None
            self._draw()

    def action_form(self) -> None:
        """The next format."""
        if not self._runs:
            self.form, self.job = FORMS[(FORMS.index(self.form) + 1) % len(FORMS)], None
            self._draw()

    def action_read_base(self) -> None:
        """Read the base's files and compare them."""
        if not self._runs:
            self._look_at_base(full=True)
            self._draw()

    def action_merge(self) -> None:
        """Merge, if nothing speaks against it."""
        if self._runs or self.ui.read_only:
            return
        fault = self._fault()
        if fault is not None:
            self.app.notify(fault, severity="warning", timeout=8)
            return
        self._ask_target(begin=True)
        self._draw()

    def _fault(self) -> str | None:
        """What speaks against beginning."""
        if self.ref is None:
            return "choose a checkpoint first: c"
        if self.recipe is None:
            return self.refusal.message if self.refusal is not None else "it is still read"
        if self.check is not None and not self.check.over:
            return "the base is being compared: wait, or stop that with x (a merge compares every tensor again)"
        state = self.base_state
        if not state.stands:
            return "\n".join(line.text for line in state.lines) or "the base is not known"
        return None

    def _over(self, job: RunningJob) -> None:
        if stands(self):
            self._ask_target(begin=False)
        if stands(self) and self.app.screen is self:
            self._draw()
        elif job.state == "done":
            self.app.notify(merged(job.result)[0].text, title=job.title, timeout=10)
        elif job.problem is not None and job.state == "failed":
            self.app.notify(job.problem.message, title=job.title, severity="error", timeout=10)

    def action_stop(self) -> None:
        """Stop the merge, or the comparison of the base."""
        for job in (self.job, self.check):
            if job is not None and not job.over:
                job.stop()
                break
        self.jobs_changed()

    def action_reload(self) -> None:
        """Look again."""
        self._refusals_of = None
        if self.ref is not None and not self._runs:
            self._choose(self.ref)


def _pick_cell(row: Mergeable, column: Column, room: int) -> Cell:
    if column.key == "ref":
        return Text(clean(row.ref), style="dim" if row.refusal else "bold")
    if row.refusal is not None:
        return Text(f"cannot: {clean(row.refusal)}", style="yellow")
    return Text(clean(row.told), style="dim")
