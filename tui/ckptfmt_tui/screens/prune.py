"""Pruning: a policy, which names it drops and why it keeps the others, and dropping them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ckptfmt.api.results import PrunePlan, PruneReport
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.models import plans_store as told
from ckptfmt_tui.models.plans import Row, Said, Shown
from ckptfmt_tui.screens.plan import PlanPage
from ckptfmt_tui.widgets.dialogs import Field, Form

if TYPE_CHECKING:
    from ckptfmt_tui.ui import Ui


def prune(ui: Ui) -> None:
    """Ask for a policy, then show what it drops."""
    form = Form(
        "What to keep of each run; what no rule keeps is dropped",
        [
            Field("patterns", "Of", hint="all; or sweep/*  runs/exp1"),
            Field("last", "Keep last", "3", hint="so many of the newest"),
            Field("every", "Keep every", hint="those whose step this divides"),
            Field("best", "Keep best", hint="eval_loss:min  accuracy:max:3"),
            Field("stages", "Keep stages", hint="1  6"),
            Field("tags", "Keep labels", hint="paper  best"),
        ],
        command=lambda values: ui.command_of(_made(values)) if _fault(values) is None else "ckptfmt prune …",
        check=_fault,
    )
    ui.push_screen(form, lambda values: _go(ui, values))


def _go(ui: Ui, values: object) -> None:
    if isinstance(values, dict):
        ui.push_screen(PrunePage(_made(values)))


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:  # A quote that is still open.
        return tuple(text.split())


def _made(values: dict[str, str]) -> jobs.Prune:
    return jobs.Prune(
        patterns=_words(values["patterns"]),
        last=int(values["last"]) if values["last"].strip() else None,
        every=int(values["every"]) if values["every"].strip() else None,
        best=_words(values["best"]),
        stages=tuple(map(int, _words(values["stages"]))),
        tags=_words(values["tags"]),
    )


def _fault(values: dict[str, str]) -> str | None:
    for key, label in (("last", "keep last"), ("every", "keep every")):
        text = values[key].strip()
        if text and not (text.isdecimal() and int(text) > 0):
            return f"{label}: a number, at least 1"
    if not all(word.isdecimal() for word in _words(values["stages"])):
        return "keep stages: numbers"
    if not any(values[key].strip() for key in ("last", "every", "best", "stages", "tags")):
        return "say what to keep: without any rule everything would go"
    return None


class PrunePage(PlanPage):
    """Which names a policy drops.

    Args:
        asked: the policy.
    """

    TAB = "gc"
    COLUMNS = told.PRUNE_COLUMNS
    STOPPED = "Stopped. What was dropped until then is dropped; 'rollback' brings it back."

    def __init__(self, asked: jobs.Prune) -> None:
        super().__init__()
        self._asked = asked

    def request(self) -> jobs.Prune:
        """See `PlanPage.request`."""
        return self._asked

    def heading(self) -> str:
        """See `PlanPage.heading`."""
        return "prune " + (" ".join(self._asked.patterns) or "all runs")

    def shown(self, plan: PrunePlan) -> Shown:
        """See `PlanPage.shown`."""
        shown = told.prune_plan(plan)
        return Shown(shown.rows, (*shown.lines, Said(plan.policy, "dim")), shown.question, shown.empty)

    def outcome(self, result: PruneReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """See `PlanPage.outcome`."""
        return told.prune_result(result)
