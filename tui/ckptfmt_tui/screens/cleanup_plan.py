"""The plan of a cleanup, and of a purge of what cleanups hold."""

from __future__ import annotations

import os
from typing import Any

from ckptfmt.api.results_reclaim import CleanupReport, PurgeReport
from ckptfmt_tui.jobs import requests as jobs
from ckptfmt_tui.models import plans_cleanup as told
from ckptfmt_tui.models.plans import Row, Said, Shown
from ckptfmt_tui.screens.plan import PlanPage


class CleanupPlanPage(PlanPage):
    """Exactly what goes, what stays, what that frees and needs.

    Args:
        asked: what is planned.
    """

    TAB = "cleanup"
    COLUMNS = told.CLEANUP_COLUMNS
    STOPPED = "Stopped. What is cleaned stands in a receipt, everything else is where it was."

    def __init__(self, asked: jobs.Cleanup) -> None:
        super().__init__()
        self._asked = asked

    def request(self) -> jobs.Cleanup:
        """See `PlanPage.request`."""
        return self._asked

    def heading(self) -> str:
        """See `PlanPage.heading`."""
        return "clean up " + ", ".join(os.path.basename(each) or each for each in self._asked.directories)

    def shown(self, plan: CleanupReport) -> Shown:
        """See `PlanPage.shown`."""
        if plan.plan is None:
            return Shown((), (), None)
        return told.cleanup_plan(plan.plan, plan.refused)

    def outcome(self, result: CleanupReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """See `PlanPage.outcome`."""
        return told.cleanup_result(result)

    def dry_plan(self, result: Any) -> Any:
        """See `PlanPage.dry_plan`."""
        return result


class PurgePage(PlanPage):
    """What a purge deletes.

    Args:
        receipt: of which receipt; None: all whose hold is over.
    """

    TAB = "cleanup"
    COLUMNS = told.PURGE_COLUMNS
    STOPPED = "Stopped. What is deleted stands in its receipt, everything else is still held."

    def __init__(self, receipt: str | None) -> None:
        super().__init__()
        self._receipt = receipt

    def request(self) -> jobs.Purge:
        """See `PlanPage.request`."""
        return jobs.Purge(self._receipt)

    def heading(self) -> str:
        """See `PlanPage.heading`."""
        return f"purge {self._receipt}" if self._receipt else "purge what is due"

    def shown(self, plan: PurgeReport) -> Shown:
        """See `PlanPage.shown`."""
        return told.purge_plan(plan)

    def outcome(self, result: PurgeReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
        """See `PlanPage.outcome`."""
        return told.purge_result(result)
