"""The part of `Store` that keeps it sound and small."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptfmt.api.results import OptimizeReport, PrunePlan, PruneReport, VerifyReport
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.retention import Policy
from ckptfmt.store.store import Store as Engine

if TYPE_CHECKING:
    from ckptfmt.api.reclaiming import GcReport
    from ckptfmt.api.repairing import FsckReport
    from ckptfmt.store.gc_plan import GcPlan


class StoreUpkeep:
    """See `Store`."""

    _engine: Engine

    def verify(
        self, names: tuple[str, ...] = (), *, subset: tuple[int, int] | None = None, progress: Progress = SILENT
    ) -> VerifyReport:
        """Decode every object of some checkpoints, or of all, and compare digests."""
        from ckptfmt.api import checking

        return checking.verify(self._engine, names, subset, progress)

    def fsck(
        self,
        *,
        full: bool = False,
        repair: bool = False,
        places: Sequence[str | os.PathLike[str]] = (),
        progress: Progress = SILENT,
    ) -> FsckReport:
        """Look at the store's structure: what is damaged or missing, and whom it harms. Writes only with `repair`.

        Args:
            full: also read every stored byte, and what is needed of the files of referenced bases.
            repair: repair first what can be known for sure. Nothing is dropped; damaged files are set aside.
            places: directories, and other stores, in which to look for what is lost.
            progress: told of shards, or with `full` of bytes; may raise to stop.
        """
        from ckptfmt.api import repairing

        looked_in = [os.fspath(each) for each in places]
        return repairing.fsck(self._engine, full=full, repair=repair, places=looked_in, progress=progress)

    def optimize(
        self,
        names: Sequence[str] = (),
        *,
        recovery: bool = True,
        again: bool = False,
        device: str = "cpu",
        progress: Progress = SILENT,
    ) -> OptimizeReport:
        """Store the objects of some checkpoints, or of all, again where that makes them smaller.

        No manifest changes, and every file comes back as before. The copies that were there stay until `gc` runs.
        Stopped at any time, what was done is done, and the next call goes on from there.

        Args:
            names: checkpoints; none for all.
            recovery: find lost adapters again in what they were merged into; seconds to minutes a tensor.
            again: try also what was tried before.
            device: where to look for adapters, `cpu` or `cuda`.
            progress: told of decoded bytes; may raise to stop.
        """
        from ckptfmt.api import optimizing

        return optimizing.optimize(
            self._engine, names, recovery=recovery, again=again, device=device, progress=progress
        )

    def plan_gc(self, *, grace_hours: float = 24.0, keep_history_days: float = 30.0, apply: bool = False) -> GcPlan:
        """Look for what no ref reaches. Reads only, unless `apply`: then the storage's clock is asked, by a file.

        Args:
            grace_hours: what is younger stays; what is taken out stays in the trash as long.
            keep_history_days: how long what was superseded or dropped can be brought back.
            apply: whether the plan is to be executed.

        Raises:
            IncompleteStore, IntegrityError: something that is needed is missing or damaged.
        """
        from ckptfmt.api import reclaiming

        return reclaiming.make_plan(
            self._engine, grace_hours=grace_hours, keep_history_days=keep_history_days, apply=apply
        )

    def planned_gc(self, plan: GcPlan) -> GcReport:
        """A plan as it is shown: nothing was done yet."""
        from ckptfmt.api import reclaiming

        return reclaiming.GcReport(plan=reclaiming.told(plan), applied=False)

    def gc(self, plan: GcPlan | None = None, *, progress: Progress = SILENT) -> GcReport:
        """Take out what no ref reaches, and unlink what was taken out long enough ago.

        Args:
            plan: made by `plan_gc` with `apply`; None for one with the usual ages.
            progress: told of bytes that are moved or proven; may raise to stop: nothing that is needed is lost then.

        Raises:
            IncompleteStore, IntegrityError: something that is needed is missing or damaged; nothing was unlinked.
            Conflict: others were quicker, again and again.
        """
        from ckptfmt.api import reclaiming

        return reclaiming.run_plan(self._engine, plan or self.plan_gc(apply=True), progress)

    def plan_prune(self, patterns: Sequence[str] = (), *, keep: Policy) -> PrunePlan:
        """Which of the checkpoints that fit any of `patterns` (none: all) a policy drops, and why it keeps the others.

        Pinned refs, and what those that are kept were trained from, are kept in any case; bases are never dropped.

        Raises:
            InvalidInput: the policy has no rule, or names a metric that no checkpoint has.
            IntegrityError: a ref or a manifest cannot be read.
        """
        from ckptfmt.api import pruning

        return pruning.plan_prune(self._engine, patterns, keep)

    def prune(self, plan: PrunePlan, *, progress: Progress = SILENT) -> PruneReport:
        """Drop what a plan says, and nothing else. Frees no bytes; `rollback` brings each one back."""
        from ckptfmt.api import pruning

        return pruning.prune(self._engine, plan, progress)
