"""Taking checkpoints in: a path, what lies there and under which names, options, progress, the result."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final, cast

from ckptfmt.api import Store
from ckptfmt.api.results import ImportPlan, ImportReport
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.models import plans_import as told
from ckptfmt_tui.models.plans import Row, Said, Shown
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens.plan import PlanPage
from ckptfmt_tui.widgets.dialogs import Field, Form
from ckptfmt_tui.widgets.path_picker import PathPicker

if TYPE_CHECKING:
    from ckptfmt_tui.ui import Ui

_NO_BASE: Final = "(none stated)"
_EFFORTS: Final = ("fast", "balanced", "max")
_HOWS: Final = ("(not said)", "continue", "stack", "resume", "parent-only")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")


def take_in(ui: Ui) -> None:
    """Ask for a path, then show what would be taken in."""

    def chosen(path: object) -> None:
        if isinstance(path, str):
            ui.push_screen(ImportPage(jobs.Import(path, default_name(path))))

    ui.push_screen(PathPicker("Take in what lies at", f"{os.getcwd()}/", "any"), chosen)


def default_name(path: str) -> str:
    """A name for what lies at a path; `{name}` stands for the path below it."""
    directory = os.path.dirname(path) if os.path.isfile(path) else path
    own = _NOT_IN_NAMES.sub("-", os.path.basename(directory)).strip("-.") or "taken-in"
    return f"{own}/{{name}}"


class ImportPage(PlanPage):
    """What an import takes in.

    Args:
        asked: the path, and the options to begin with.
    """

    PAGE = "import"
    TAB = "store"
    COLUMNS = told.IMPORT_COLUMNS
    PLAN_STAYS = False
    STOPPED = "Stopped. What was taken in whole is there; of what was not, there is nothing."

    def __init__(self, asked: jobs.Import) -> None:
        super().__init__()
        self._asked = asked

    def request(self) -> jobs.Import:
        """See `PlanPage.request`."""
        return self._asked

    def heading(self) -> str:
        """See `PlanPage.heading`."""
        return f"import {self._asked.path}"

    def shown(self, plan: ImportPlan) -> Shown:
        """See `PlanPage.shown`."""
        shown = told.import_plan(plan)
        # What this plan was made with: what is asked for may be newer.
        made = self.job.request if self.job is not None else None
        asked = made if isinstance(made, jobs.Import) else self._asked
        options = [
            f"base {asked.base}" if asked.base else "no base stated",
            f"parent {asked.parent}" if asked.parent else "",
            f"stage {asked.stage}" if asked.stage is not None else "",
            f"goes on: {asked.how}" if asked.how else "",
            f"effort {asked.effort}",
        ]
        change = "   e: change" if self.job is not None and self.job.state == "asking" else ""
        said = Said(f"names {asked.name}   " + "   ".join(each for each in options if each) + change, "dim")
        return Shown(shown.rows, (*shown.lines, said), shown.question, shown.empty)

    def outcome(self, result: ImportReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """See `PlanPage.outcome`."""
        return told.import_result(result)

    def action_options(self) -> None:
        """Change names, base, parent, stage and effort; then plan anew."""
        if self.job is None or self.job.over or self.job.state == "asking":
            self.ask(_base_names, self._ask_options)

    def _ask_options(self, answer: Answer[tuple[str, ...]]) -> None:
        asked = self._asked
        names = answer.value or ()
        form = Form(
            f"Take in {os.path.basename(asked.path) or asked.path}",
            [
                Field("name", "Name", asked.name, hint="{name} stands for the path below"),
                Field("base", "Base", asked.base or _NO_BASE, choices=(_NO_BASE, *names)),
                Field("effort", "Effort", asked.effort, choices=_EFFORTS),
                Field("parent", "Parent", asked.parent or "", hint="the checkpoint it was trained from"),
                Field("how", "Goes on", asked.how or _HOWS[0], choices=_HOWS),
                Field("stage", "Stage", "" if asked.stage is None else str(asked.stage), hint="what its name says"),
            ],
            command=lambda values: self.ui.command_of(self._made(values)),
            check=_fault,
        )
        self.app.push_screen(form, self._changed)

    def _made(self, values: dict[str, str]) -> jobs.Import:
        stage = values["stage"].strip()
        return jobs.Import(
            self._asked.path,
            values["name"].strip(),
            base=None if values["base"] == _NO_BASE else values["base"],
            parent=values["parent"].strip() or None,
            stage=int(stage) if stage.isdecimal() else None,
            how=cast("Any", None if values["how"] == _HOWS[0] else values["how"]),
            effort=cast("Any", values["effort"]),
        )

    def _changed(self, values: object) -> None:
        if isinstance(values, dict) and not self.is_executing:
            self._asked = self._made(values)
            self.make_plan()


def _fault(values: dict[str, str]) -> str | None:
    if not values["name"].strip():
        return "say under which name"
    stage = values["stage"].strip()
    return "a stage is a number" if stage and not stage.isdecimal() else None


def _base_names(store: Store) -> tuple[str, ...]:
    return tuple(base.name for base in store.list_bases(damaged=lambda name, error: None))
