"""The table of jobs: which verb of the api each request runs, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ckptfmt.api import Store
from ckptfmt.api.reclaiming import GcPlanned, GcReport
from ckptfmt.api.repairing import FsckReport
from ckptfmt.api.results import (
    BaseKept,
    BaseReport,
    BaseVerified,
    ImportPlan,
    ImportReport,
    MergeReport,
    PrunePlan,
    PruneReport,
    RestoreReport,
    VerifyReport,
)
from ckptfmt.api.results_diff import DiffReport
from ckptfmt.api.results_reclaim import CleanupReport, PurgeReport, ScanReport, UndoReport
from ckptfmt.api.results_tensor import TensorLook
from ckptfmt.progress import Progress
from ckptfmt_tui.jobs import requests as ask

Agree = Callable[[object], None]
"""Shows a plan and waits until it is agreed to; raises `KeyboardInterrupt` where it is not."""


class JobVerb(NamedTuple):
    """How a request runs.

    Attributes:
        run: given the store, the request, progress and `Agree`.
        result: type of what it gives back.
        plan: type of what it shows before; None for a verb that asks nothing.
        writes: whether it changes the store or files.
    """

    run: Callable[[Store, Any, Progress, Agree], object]
    result: type
    plan: type | None = None
    writes: bool = True


def _import(store: Store, job: ask.Import, progress: Progress, agree: Agree) -> ImportReport:
    return store.import_path(
        job.path,
        name=job.name,
        planned=agree,
        how=job.how,
        base=job.base,
        parent=job.parent,
        stage=job.stage,
        effort=job.effort,
        progress=progress,
    )


def _restore(store: Store, job: ask.Restore, progress: Progress, _agree: Agree) -> RestoreReport:
    return store.restore(job.ref, job.target, progress=progress)


def _merge(store: Store, job: ask.Merge, progress: Progress, _agree: Agree) -> MergeReport:
    return store.merge(job.ref, job.out, format=job.format, dtype=job.dtype, progress=progress)


def _verify(store: Store, job: ask.Verify, progress: Progress, _agree: Agree) -> VerifyReport:
    return store.verify(job.refs, progress=progress)


def _diff(store: Store, job: ask.Diff, progress: Progress, _agree: Agree) -> DiffReport:
    return store.diff(job.first, job.second, progress=progress)


def _scan(store: Store, job: ask.Scan, progress: Progress, _agree: Agree) -> ScanReport:
    from ckptfmt.api.scanning import scan  # noqa: PLC0415 - a job loads what it needs

    return scan(job.directories, store=store, progress=progress)


def _cleanup(store: Store, job: ask.Cleanup, progress: Progress, agree: Agree) -> CleanupReport:
    from ckptfmt.api import cleaning  # noqa: PLC0415 - a job loads what it needs

    planned = cleaning.plan(
        store,
        job.directories,
        keep_weights=job.keep_weights,
        hold_days=job.hold_days,
        only=job.only,
        progress=progress,
    )
    if not job.apply:
        return planned.report
    agree(planned.report)
    return cleaning.execute(store, planned, progress=progress)


def _undo(store: Store, job: ask.Undo, _progress: Progress, _agree: Agree) -> UndoReport:
    from ckptfmt.api import cleaning  # noqa: PLC0415 - a job loads what it needs

    return cleaning.undo_cleanup(store, job.receipt)


def _purge(store: Store, job: ask.Purge, progress: Progress, agree: Agree) -> PurgeReport:
    from ckptfmt.api import cleaning  # noqa: PLC0415 - a job loads what it needs

    planned = cleaning.plan_purge(store, job.receipt)
    agree(planned.report)
    return cleaning.execute_purge(store, planned, progress=progress)


def _gc(store: Store, job: ask.Gc, progress: Progress, agree: Agree) -> GcReport:
    plan = store.plan_gc(grace_hours=job.grace_hours, keep_history_days=job.keep_history_days, apply=job.apply)
    if not job.apply:
        return store.planned_gc(plan)
    agree(store.planned_gc(plan).plan)
    return store.gc(plan, progress=progress)


def _prune(store: Store, job: ask.Prune, progress: Progress, agree: Agree) -> PruneReport:
    from ckptfmt.api.pruning import policy_of  # noqa: PLC0415 - a job loads what it needs

    policy = policy_of(last=job.last, every=job.every, best=job.best, stages=job.stages, tags=job.tags)
    plan = store.plan_prune(job.patterns, keep=policy)
    agree(plan)
    return store.prune(plan, progress=progress)


def _fsck(store: Store, job: ask.Fsck, progress: Progress, _agree: Agree) -> FsckReport:
    return store.fsck(full=job.full, progress=progress)


def _add_base(store: Store, job: ask.AddBase, progress: Progress, _agree: Agree) -> BaseReport:
    return store.add_base(job.name, job.source, keep="copy" if job.copy else "reference", progress=progress)


def _verify_base(store: Store, job: ask.VerifyBase, progress: Progress, _agree: Agree) -> BaseVerified:
    return store.verify_base(job.name, path=job.path, full=job.full, progress=progress)


def _keep_base(store: Store, job: ask.KeepBase, progress: Progress, _agree: Agree) -> BaseKept:
    return store.keep_base(job.name, progress=progress)


def _look_at(store: Store, job: ask.LookAt, progress: Progress, _agree: Agree) -> TensorLook:
    return store.look_at(job.ref, job.tensor, progress=progress)


JOBS: Final[dict[type, JobVerb]] = {
    ask.Import: JobVerb(_import, ImportReport, plan=ImportPlan),
    ask.Restore: JobVerb(_restore, RestoreReport),
    ask.Merge: JobVerb(_merge, MergeReport),
    ask.Verify: JobVerb(_verify, VerifyReport, writes=False),
    ask.Diff: JobVerb(_diff, DiffReport, writes=False),
    ask.Scan: JobVerb(_scan, ScanReport, writes=False),
    ask.Cleanup: JobVerb(_cleanup, CleanupReport, plan=CleanupReport),
    ask.Undo: JobVerb(_undo, UndoReport),
    ask.Purge: JobVerb(_purge, PurgeReport, plan=PurgeReport),
    ask.Gc: JobVerb(_gc, GcReport, plan=GcPlanned),
    ask.Prune: JobVerb(_prune, PruneReport, plan=PrunePlan),
    ask.Fsck: JobVerb(_fsck, FsckReport, writes=False),
    ask.AddBase: JobVerb(_add_base, BaseReport),
    ask.VerifyBase: JobVerb(_verify_base, BaseVerified, writes=False),
    ask.KeepBase: JobVerb(_keep_base, BaseKept),
    ask.LookAt: JobVerb(_look_at, TensorLook, writes=False),
}
"""Every request that runs as a job."""


def writes(job: ask.Job) -> bool:
    """Whether a job changes the store or files; one that was asked to plan only does not."""
    if isinstance(job, ask.VerifyBase) and job.path is not None:
        return True  # Where its files were found is recorded.
    return JOBS[type(job)].writes and getattr(job, "apply", True)
