"""The verb that looks for what is redundant. It writes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

from ckptfmt.api.results_reclaim import RedundantFile, ScannedCheckpoint, ScanReport, Unread
from ckptfmt.api.store import Store
from ckptfmt.progress import SILENT, Progress
from ckptfmt.reclaim.evidence import FileEvidence
from ckptfmt.reclaim.finding import survey
from ckptfmt.reclaim.known import known_bases
from ckptfmt.reclaim.models import resumes
from ckptfmt.reclaim.redundancy import Findings, find_redundant
from ckptfmt.reclaim.rows import DEFAULT_KEEP, KEEPS
from ckptfmt.store.store import Store as Engine


def scan(
    directories: Sequence[str | os.PathLike[str]],
    *,
    store: Store | None = None,
    now_ns: int | None = None,
    progress: Progress = SILENT,
) -> ScanReport:
    """Find every checkpoint below `directories`, and what is redundant in them.

    Args:
        directories: where to look; no link is followed.
        store: its bases are known then.
        now_ns: the time, in ns since the epoch: what is younger than an hour may still be written.
        progress: told of each directory.

    Raises:
        NotFound, InvalidInput: one of the directories is not there, or is none.
    """
    begun = time.monotonic()
    engine = store.engine if store is not None else None
    findings = look([os.fspath(each) for each in directories], engine, progress, now_ns)
    return ScanReport(
        checkpoints=tuple(
            ScannedCheckpoint(
                path=each.shown,
                layout=each.layout,
                files=len(each.files),
                bytes=sum(file.size for file in each.files),
                resumes=resumes(each),
                problem=each.problem,
            )
            for each in findings.survey.checkpoints
        ),
        redundant=tuple(
            RedundantFile(
                row.path,
                row.bytes,
                row.reason,
                row.proof,
                row.kind,
                row.goes,
                findings.survey.checkpoints[row.checkpoint].shown if row.checkpoint is not None else None,
            )
            for row in findings.rows
        ),
        reclaimable_bytes=findings.reclaimable(DEFAULT_KEEP),
        reclaimable={keep: findings.reclaimable(keep) for keep in KEEPS},
        files=len(findings.survey.files),
        unread=tuple(Unread(path, reason) for path, reason in findings.survey.problems),
        seconds=round(time.monotonic() - begun, 3),
        locked=tuple(_locked(findings)),
    )


def _locked(findings: Findings) -> Iterator[Unread]:
    for index, files in findings.wanted(DEFAULT_KEEP).items():
        seen, obstacle = findings.survey.checkpoints[index], findings.obstacle(index, files)
        if obstacle is not None and seen.problem is None:
            yield Unread(seen.shown, obstacle)


def look(directories: Sequence[str], engine: Engine | None, progress: Progress, now_ns: int | None = None) -> Findings:
    """What a scan finds, as the floors below know it."""
    seen = survey(directories, now_ns=time.time_ns() if now_ns is None else now_ns, progress=progress)
    return find_redundant(seen, FileEvidence(), known_bases(engine) if engine is not None else ())
