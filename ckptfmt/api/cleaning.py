"""The verb that takes originals away: plan, execute, undo, purge. The plan that was shown is what is executed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ckptfmt.api.results_reclaim import (
    CleanupPlanned,
    CleanupReport,
    PlannedBase,
    PlannedCleanup,
    PlannedFile,
    PurgeReport,
    ReceiptRow,
    RefusedFile,
    StayingFile,
    UndoReport,
)
from ckptfmt.api.scanning import look
from ckptfmt.api.shared import standing_refs
from ckptfmt.api.store import Store
from ckptfmt.errors import InvalidInput, NotFound
from ckptfmt.format.receipt import HOLDING, Receipt
from ckptfmt.format.shard import header_estimate
from ckptfmt.progress import SILENT, Progress
from ckptfmt.reclaim.executing import execute_cleanup, message_of
from ckptfmt.reclaim.planning import CleanupPlan, Refused, Step, freed, plan_cleanup
from ckptfmt.reclaim.proving import Prover, prove_fresh
from ckptfmt.reclaim.releasing import purge, undo
from ckptfmt.reclaim.rows import DEFAULT_KEEP, KEEPS, KeepWeights
from ckptfmt.reclaim.space import available, most_needed
from ckptfmt.reclaim.taking import referenced_bases, standing_like
from ckptfmt.store.receipts import Receipts
from ckptfmt.store.refs import pass_over

DEFAULT_HOLD_DAYS: Final = 7.0
DEFAULT_NAME: Final = "{dir}/{name}"
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan as it is executed, and as it is shown."""

    plan: CleanupPlan
    shown: CleanupPlanned

    @property
    def report(self) -> CleanupReport:
        """What a cleanup that does nothing yet gives back."""
        refused = _refused(self.plan.refused)
        return CleanupReport(self.shown, None, 0, 0, None, refused)


def plan(
    store: Store,
    directories: Sequence[str | os.PathLike[str]],
    *,
    keep_weights: KeepWeights = DEFAULT_KEEP,
    hold_days: float = DEFAULT_HOLD_DAYS,
    name: str = DEFAULT_NAME,
    base_stays_outside: bool = False,
    only: Sequence[str | os.PathLike[str]] | None = None,
    progress: Progress = SILENT,
) -> Planned:
    """Plan a cleanup of directories. Nothing is written.

    Args:
        store: takes the checkpoints in.
        directories: what to clean.
        keep_weights: what is to stay in the tree: `adapter` (adapters, and whatever a Trainer resumes from), `full`
            (full weights too: only exact copies go), `none` (no weights, no training state).
        hold_days: how long files are held before they may be deleted; 0: they are deleted at once.
        name: names of the checkpoints in the store; `{dir}` is the directory's name, `{name}` the path below it.
        base_stays_outside: let checkpoints depend on the files of bases outside of the store.
        only: take from these checkpoints alone, by their paths as `scan` shows them; None: from all.
        progress: told of the scan.

    Raises:
        InvalidInput: a word that is none of those allowed, or a directory that holds the store's own files.
        NotFound: one of the directories is not there.
    """
    if keep_weights not in KEEPS:
        raise InvalidInput(f"--keep-weights: {keep_weights!r} is none of {', '.join(KEEPS)}")
    if hold_days < 0:
        raise InvalidInput("--hold: days, at least 0")
    engine = store.engine
    findings = look([os.fspath(each) for each in directories], engine, progress)
    tops = findings.survey.tops
    picked = _picked(only, [each.shown for each in findings.survey.checkpoints]) if only is not None else None
    devices = {top: os.lstat(top).st_dev for top in tops}
    device = os.stat(store.path).st_dev
    made = plan_cleanup(
        findings,
        keep=keep_weights,
        hold_seconds=math.ceil(hold_days * _DAY_SECONDS),
        name=name,
        outside=base_stays_outside,
        bases=referenced_bases(engine, header_estimate),
        known=standing_like(engine),
        most_needed=most_needed,
        devices=devices,
        same_device=all(each == device for each in devices.values()),
        only=picked,
        stands=lambda ref: bool(engine.refs.numbers(ref)),
    )
    return Planned(made, _shown(made, available(store.path)))


def _picked(only: Sequence[str | os.PathLike[str]], shown: Sequence[str]) -> frozenset[str]:
    """The checkpoints that were picked, as a scan shows them.

    Raises:
        NotFound: a path at which the scan saw no checkpoint.
    """
    known = {os.path.realpath(path): path for path in shown}
    picked = set()
    for each in only:
        path = os.path.abspath(os.fspath(each))
        if path not in shown and os.path.realpath(path) not in known:
            raise NotFound(f"--only {os.fspath(each)}: no checkpoint in the directories", hint="ckptfmt scan DIR")
        picked.add(path if path in shown else known[os.path.realpath(path)])
    return frozenset(picked)


def _shown(plan: CleanupPlan, free: int) -> CleanupPlanned:
    return CleanupPlanned(
        directories=plan.tops,
        keep_weights=plan.keep,
        hold_seconds=plan.hold_seconds,
        base_stays_outside=plan.outside,
        checkpoints=tuple(_shown_step(step) for step in plan.steps),
        bases=tuple(PlannedBase(base.name, base.most_bytes) for base in plan.bases),
        files=sum(len(step.going) for step in plan.steps),
        needed_bytes=plan.needed_bytes if plan.hold_seconds else plan.needed_at_once,
        available_bytes=free,
        freed_bytes=plan.freed_bytes,
        staying=tuple(StayingFile(each.path, each.bytes, each.reason) for each in plan.staying),
    )


def _shown_step(step: Step) -> PlannedCleanup:
    before, after = step.resumes
    return PlannedCleanup(
        path=step.seen.shown,
        ref=step.known[0][0] if step.known else step.ref,
        files=tuple(PlannedFile(f"{step.seen.top}/{e.file.path}", e.file.size, e.reason, e.shared) for e in step.going),
        most_bytes=step.most_bytes,
        resumes=after if before else None,
        freed_bytes=freed([step]),
        known=bool(step.known),
        note=step.note,
        base=step.base[0] if step.base is not None and not step.known else None,
    )


def execute(
    store: Store, planned: Planned, *, prover: Prover = prove_fresh, progress: Progress = SILENT
) -> CleanupReport:
    """Clean up as planned.

    Args:
        store: the store that it was planned for.
        planned: from `plan`.
        prover: rebuilds and compares; by default in a fresh process.
        progress: told of bytes read; may raise to stop: what was done is done and stands in the receipt.

    Raises:
        StorageError: there is not space enough (`disk-full`); nothing was written.
    """
    done = execute_cleanup(store.engine, planned.plan, prover, progress)
    held = done.receipt is not None and planned.plan.hold_seconds > 0
    until = datetime.now(UTC) + timedelta(seconds=planned.plan.hold_seconds)
    return CleanupReport(
        plan=None,
        receipt=done.receipt,
        held_bytes=done.held_bytes if held else 0,
        freed_bytes=done.freed_bytes,
        hold_until=_time(until) if held else None,
        refused=_refused(done.refused),
        grown_bytes=done.grown_bytes,
        refs=tuple(done.taken),
    )


def undo_cleanup(store: Store, receipt: str) -> UndoReport:
    """Put back everything that a receipt holds.

    Args:
        store: where the receipt is.
        receipt: its id, or the beginning of it.

    Raises:
        NotFound, InvalidInput: there is no such receipt, or there are several.
        Conflict: what it took is deleted already; `restore` gives it back.
    """
    receipts = Receipts(store.engine.storage)
    found = receipts.resolve(receipt)
    released = undo(store.engine, found)
    gone = [
        RefusedFile(f"{part.top}/{part.root}".rstrip("/"), f"it is deleted already: ckptfmt restore {part.ref} DIR")
        for part in receipts.parts(found)
        if part.state == "purged"
    ]
    named = tuple(
        item.name
        for item in standing_refs(store.engine, pass_over)
        if item.message == message_of(found) and item.verb == "import"
    )
    return UndoReport(found, released.returned, (*gone, *_refused(released.refused)), named)


@dataclass(frozen=True, slots=True)
class PlannedPurge:
    """A purge as it is executed, and as it is shown."""

    due: tuple[Receipt, ...]
    report: PurgeReport


def plan_purge(store: Store, receipt: str | None = None) -> PlannedPurge:
    """Look which held files may be deleted: those whose hold is over; of one receipt, whether it is over or not.

    Args:
        store: where the receipts are.
        receipt: the id of one, or its beginning; None for all.

    Raises:
        NotFound, InvalidInput: there is no such receipt, or there are several.
    """
    receipts = Receipts(store.engine.storage)
    wanted = [receipts.resolve(receipt)] if receipt is not None else receipts.ids()
    due: list[Receipt] = []
    waiting: list[str] = []
    now_ns = store.engine.storage.now_ns() if receipt is None and wanted else 0
    for each in wanted:
        for part in receipts.parts(each):
            if part.state not in HOLDING:
                continue
            if receipt is not None or part.state == "purging" or _is_over(receipts, part, now_ns):
                due.append(part)
            elif each not in waiting:
                waiting.append(each)
    ids = tuple(dict.fromkeys(part.receipt for part in due))
    rows = tuple(_row(receipts, each) for each in ids)
    return PlannedPurge(tuple(due), PurgeReport(rows, 0, ids, tuple(waiting), ()))


def execute_purge(
    store: Store, planned: PlannedPurge, *, prover: Prover = prove_fresh, progress: Progress = SILENT
) -> PurgeReport:
    """Delete what a plan says. Everything is rebuilt and compared once more before it is deleted.

    Args:
        store: the store that it was planned for.
        planned: from `plan_purge`.
        prover: rebuilds and compares.
        progress: told of each part once it is deleted; may raise to stop: what was deleted stands in its receipt.
    """
    freed_bytes = 0
    refused: list[Refused] = []
    progress.begin("purge", sum(file.size for part in planned.due for file in part.files))
    receipts = Receipts(store.engine.storage)
    for part in planned.due:
        # Somebody else may have purged or undone it since it was planned.
        for now in receipts.parts(part.receipt):
            if now.part == part.part and now.state in HOLDING:
                released = purge(store.engine, now, prover)
                freed_bytes += released.freed_bytes
                refused += released.refused
        progress.advance(sum(file.size for file in part.files))
    progress.end()
    shown = planned.report
    return PurgeReport(None, freed_bytes, shown.receipts, shown.waiting, _refused(refused))


def _is_over(receipts: Receipts, part: Receipt, now_ns: int) -> bool:
    """Whether a hold is over by the storage's own clock; what came from the future is young."""
    since = receipts.held_since_ns(part.receipt, part.part)
    return since is not None and now_ns - since >= part.hold_seconds * 10**9


def list_receipts(store: Store) -> tuple[ReceiptRow, ...]:
    """Every receipt, the oldest first."""
    receipts = Receipts(store.engine.storage)
    return tuple(_row(receipts, each) for each in receipts.ids())


def _row(receipts: Receipts, receipt: str) -> ReceiptRow:
    entries = receipts.entries(receipt)
    parts = list({entry.part: entry for entry in entries}.values())
    states = {"stopped" if part.state in ("moving", "purging") else part.state for part in parts}
    held = [part for part in parts if part.state in HOLDING]
    files = {(file.device, file.inode): file.allocated for part in held for file in part.files}
    since = [datetime.fromisoformat(part.time) + timedelta(seconds=part.hold_seconds) for part in held]
    return ReceiptRow(
        receipt=receipt,
        state=states.pop() if len(states) == 1 else "mixed",
        created=entries[0].time,
        hold_until=_time(max(since)) if since else None,
        held_bytes=sum(files.values()),
        freed_bytes=sum(part.freed_bytes or 0 for part in parts),
        files=sum(len(part.files) for part in held),
        directories=tuple(dict.fromkeys(part.top for part in parts)),
        refs=tuple(part.ref for part in parts),
        outside=tuple(dict.fromkeys(name for part in parts for name in part.outside)),
    )


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _refused(refused: Iterable[Refused]) -> tuple[RefusedFile, ...]:
    return tuple(RefusedFile(each.path, each.reason) for each in refused)
