"""The demonstration's cleanup: redundant originals are taken away, put back, and a dropped checkpoint is freed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ckptfmt.api import cleaning
from ckptfmt.demo.compare import size_bytes
from ckptfmt.demo.report import DemoCleanup
from ckptfmt.demo.state import Demo
from ckptfmt.demo.table import size


def clean_up(demo: Demo) -> None:
    """Clean the checkpoints up, look what is left, and undo it; then drop one name and free what only it needed."""
    people = demo.people.root
    before, before_bytes = _digests(people), size_bytes(people)
    planned = cleaning.plan(demo.opened, [people])
    report = cleaning.execute(demo.opened, planned)
    left = size_bytes(people) - report.held_bytes
    demo.say(f"  {planned.shown.files} files, {size(report.held_bytes)}: rebuilt from the store, compared, and held")
    undone = report.receipt is not None and not cleaning.undo_cleanup(demo.opened, report.receipt).refused
    same = undone and _digests(people) == before
    demo.say(f"  ckptfmt cleanup --undo: {'all of it is back' if same else 'NOT all of it is back'}")
    for ref in report.refs:
        demo.opened.drop(ref)
    freed = demo.opened.gc(demo.opened.plan_gc(grace_hours=0, keep_history_days=0, apply=True)).freed_bytes
    sound = not demo.opened.verify().damaged
    demo.say(f"  ckptfmt gc: {size(freed)} freed, {'all that is named is sound' if sound else 'NOT all is sound'}")
    demo.cleanup = DemoCleanup(
        files=planned.shown.files,
        before_bytes=before_bytes,
        left_bytes=left,
        held_bytes=report.held_bytes,
        planned_bytes=planned.shown.freed_bytes,
        refused=len(report.refused),
        undone=same,
        gc_freed_bytes=freed,
        sound=sound,
    )


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
