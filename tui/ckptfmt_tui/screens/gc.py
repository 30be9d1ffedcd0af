"""Collecting: what nothing needs any more, why, what that frees now and later; and pruning, which drops names."""

from __future__ import annotations

from typing import Final

from ckptfmt.api.reclaiming import GcPlanned, GcReport
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.models import plans_store as told
from ckptfmt_tui.models.amounts import amount
from ckptfmt_tui.models.plans import Row, Said, Shown
from ckptfmt_tui.screens.plan import PlanPage
from ckptfmt_tui.screens.prune import prune
from ckptfmt_tui.widgets.dialogs import Field, Form

_MOST: Final = 1e6


class GcPage(PlanPage):
    """The plan of a gc, made when the page is first shown."""

    PAGE = "gc"
    COLUMNS = told.GC_COLUMNS
    STOPPED = (
        "Stopped. Nothing that is needed is lost: what lies in the trash is read from there, and the next gc goes on."
    )

    def __init__(self) -> None:
        super().__init__()
        self.grace_hours = 24.0
        self.history_days = 30.0

    def request(self) -> jobs.Gc:
        """See `PlanPage.request`."""
        return jobs.Gc(self.grace_hours, self.history_days, apply=not self.ui.read_only)

    def heading(self) -> str:
        """See `PlanPage.heading`."""
        return "gc: what nothing needs"

    def shown(self, plan: GcPlanned) -> Shown:
        """See `PlanPage.shown`."""
        # The ages that this plan was made with: those of the page may be newer.
        made = self.job.request if self.job is not None else None
        asked = made if isinstance(made, jobs.Gc) else self.request()
        shown = told.gc_plan(plan, asked.keep_history_days)
        ages = Said(
            f"grace {asked.grace_hours:g} hours   keep history {asked.keep_history_days:g} days   o: change", "dim"
        )
        return Shown(shown.rows, (*shown.lines, ages), shown.question, shown.empty)

    def outcome(self, result: GcReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """See `PlanPage.outcome`."""
        return told.gc_result(result)

    def action_ages(self) -> None:
        """Change the grace, and how long history is kept; then plan anew."""
        if self.is_executing:
            return
        form = Form(
            "What is young stays",
            [
                Field("grace", "Grace, hours", f"{self.grace_hours:g}", hint="what is younger stays"),
                Field("history", "History, days", f"{self.history_days:g}", hint="dropped and superseded ones stay"),
            ],
            command=lambda values: "ckptfmt gc …" if None in _ages(values) else self.ui.command_of(_asked(values)),
            check=lambda values: "numbers, at least 0" if None in _ages(values) else None,
        )
        self.app.push_screen(form, self._changed)

    def _changed(self, values: object) -> None:
        if isinstance(values, dict):
            grace, history = _ages(values)
            if grace is not None and history is not None and not self.is_executing:
                self.grace_hours, self.history_days = grace, history
                self.make_plan()

    def action_prune(self) -> None:
        """Drop names by policy."""
        prune(self.ui)


def _asked(values: dict[str, str]) -> jobs.Gc:
    grace, history = _ages(values)
    return jobs.Gc(grace or 0.0, history or 0.0)


def _ages(values: dict[str, str]) -> tuple[float | None, float | None]:
    return amount(values["grace"], _MOST), amount(values["history"], _MOST)
