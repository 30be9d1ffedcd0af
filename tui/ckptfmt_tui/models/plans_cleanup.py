"""Plans of cleanups and purges, and what became of them. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from ckptfmt.api.results_reclaim import CleanupPlanned, CleanupReport, PurgeReport, ReceiptRow, RefusedFile
from ckptfmt.wording import count, size
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Question, Row, Said, Shown, some, stay
from ckptfmt_tui.models.trees import below

CLEANUP_COLUMNS: Final = (
    Column("what", "FILE", 26, 0, grows=True),
    Column("does", "", 5, 0),
    Column("bytes", "BYTES", 9, 1, "right"),
    Column("why", "WHY", 24, 2, grows=True),
    Column("ref", "TAKEN IN AS", 22, 3),
)


def cleanup_plan(plan: CleanupPlanned, refused: Sequence[RefusedFile]) -> Shown:
    """What goes and what stays, checkpoint by checkpoint; what it frees, what it needs."""
    rows: list[Row] = []
    for each in sorted(plan.checkpoints, key=lambda each: not each.files):
        rows.append(
            Row(
                {
                    "what": below(each.path, plan.directories),
                    "does": "" if each.files else "in",
                    "bytes": size(each.freed_bytes) if each.files else "",
                    "why": _resumes_words(each.resumes) if each.files else "taken in only: others take less then",
                    "ref": each.ref,
                },
                "bold",
                (
                    each.path,
                    f"{'is in the store already as' if each.known else 'is taken into the store as'} {each.ref}; "
                    f"at most {size(each.most_bytes)} there",
                    f"frees {each.freed_bytes:,} bytes by itself" if each.files else "takes nothing from it",
                    *((f"bound to base {each.base!r}",) if each.base else ()),
                    *((each.note,) if each.note else ()),
                ),
            )
        )
        for file in each.files:
            shared = f"; {size(file.shared_bytes)} shared as reflinks stay" if file.shared_bytes else ""
            rows.append(
                Row(
                    {
                        "what": f"  {os.path.relpath(file.path, _directory_of(each.path, file.path))}",
                        "does": "goes",
                        "bytes": size(file.bytes),
                        "why": file.reason + shared,
                        "ref": "",
                    },
                    "",
                    (file.path, file.reason + shared),
                )
            )
    if plan.staying or refused:
        rows.append(Row({"what": "what stays"}, "bold"))
    rows += [_stays(each.path, size(each.bytes), each.reason, plan.directories) for each in plan.staying]
    rows += [_stays(each.path, "", each.reason, plan.directories) for each in refused]
    return Shown(
        tuple(rows), tuple(_cleanup_lines(plan, refused)), _cleanup_question(plan), "nothing to clean: see what stays"
    )


def _stays(path: str, amount: str, reason: str, tops: Sequence[str]) -> Row:
    cells = {"what": f"  {below(path, tops)}", "does": "stays", "bytes": amount, "why": reason, "ref": ""}
    return Row(cells, "dim", (path, f"stays: {reason}"))


def _directory_of(checkpoint: str, file: str) -> str:
    """The directory of a checkpoint: a checkpoint of one file is called by its path without the suffix."""
    return checkpoint if file.startswith(f"{checkpoint}/") else os.path.dirname(file)


def _resumes_words(resumes: bool | None) -> str:  # noqa: FBT001 - one of three answers
    return {None: "", True: "still resumes", False: "does not resume afterwards"}[resumes]


def _cleanup_lines(plan: CleanupPlanned, refused: Sequence[RefusedFile]) -> Iterable[Said]:
    going = [each for each in plan.checkpoints if each.files]
    if not going:
        yield Said("Nothing goes.", "bold")
    else:
        when = f"held for {duration_days(plan.hold_seconds)}, until a purge" if plan.hold_seconds else "deleted at once"
        yield Said(
            f"takes {count(plan.files, 'file')} of {count(len(going), 'checkpoint')}: frees {size(plan.freed_bytes)} "
            f"({plan.freed_bytes:,} bytes), {when}",
            "good",
        )
        fits = plan.needed_bytes <= plan.available_bytes
        yield Said(
            f"the store may need {size(plan.needed_bytes)}, {size(plan.available_bytes)} are free"
            + ("" if fits else ": this is refused; a hold of 0, or fewer checkpoints, need less"),
            "dim" if fits else "bad",
        )
    for base in plan.bases:
        yield Said(f"copied in if a checkpoint needs it: base {base.name!r}, at most {size(base.most_bytes)}", "dim")
    lost = [each for each in going if each.resumes is False]
    if lost:
        yield Said(f"{count(len(lost), 'checkpoint')} will not resume in a Trainer afterwards", "warn")
    if plan.base_stays_outside:
        yield Said("bases stay outside: without their files these checkpoints are lost", "warn")
    if plan.staying:
        yield Said(
            f"{count(len(plan.staying), 'redundant file')} {stay(len(plan.staying))}, "
            f"{size(sum(each.bytes for each in plan.staying))}: "
            "see the end of the list",
            "dim",
        )
    if refused:
        yield Said(f"{count(len(refused), 'path')} cannot go: see the end of the list", "warn")


def _cleanup_question(plan: CleanupPlanned) -> Question | None:
    going = [each for each in plan.checkpoints if each.files]
    if not going or plan.needed_bytes > plan.available_bytes:
        return None
    held = plan.hold_seconds > 0
    lines = [
        Said(f"Frees {size(plan.freed_bytes)} ({plan.freed_bytes:,} bytes): {count(plan.files, 'file')}.", "bold"),
        Said("Each checkpoint is first taken into the store, rebuilt from there and compared to the byte."),
        Said(
            f"Its files are then moved to .ckptfmt-hold/ and stay there {duration_days(plan.hold_seconds)}: "
            "undo puts them back, purge frees them."
            if held
            else "Its files are then deleted at once: only the store has them. 'restore' gives them back.",
            "" if held else "warn",
        ),
        Said(
            "All else stays where it is"
            + (f", {count(len(plan.staying), 'redundant file')} among it." if plan.staying else ".")
        ),
    ]
    lost = [each for each in going if each.resumes is False]
    if lost:
        lines.append(Said(f"These do not resume afterwards: {some([each.path for each in lost])}", "warn"))
    return Question(f"Clean up {count(len(going), 'checkpoint')}?", tuple(lines), "clean up" if held else "delete")


def cleanup_result(report: CleanupReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
    """What a cleanup did, and the paths that stayed."""
    lines = []
    if report.receipt is None:
        lines.append(Said("Nothing was cleaned.", "warn"))
    elif report.hold_until is not None:
        lines.append(
            Said(f"{size(report.held_bytes)} ({report.held_bytes:,} bytes) are held until {report.hold_until}.", "good")
        )
        lines.append(Said(f"Receipt {report.receipt}: see the receipts to undo or to purge.", ""))
    else:
        lines.append(Said(f"Freed {size(report.freed_bytes)} ({report.freed_bytes:,} bytes).", "good"))
        lines.append(Said(f"Receipt {report.receipt}.", ""))
    if report.receipt is not None:
        lines.append(Said(f"The store takes {size(report.grown_bytes)} more.", "dim"))
    if report.refused:
        lines.append(Said(f"{count(len(report.refused), 'path')} stayed: doubt keeps a file.", "warn"))
    return tuple(lines), tuple(_stays(each.path, "", each.reason, ()) for each in report.refused)


PURGE_COLUMNS: Final = (
    Column("receipt", "RECEIPT", 29, 0),
    Column("held", "FREES", 9, 0, "right"),
    Column("files", "FILES", 6, 1, "right"),
    Column("until", "HELD UNTIL", 20, 2),
    Column("of", "OF", 20, 3, grows=True),
)


def receipt_cells(row: ReceiptRow) -> dict[str, str]:
    """A receipt under the columns of receipts and purges."""
    return {
        "receipt": row.receipt,
        "state": row.state,
        "held": size(row.held_bytes) if row.held_bytes else "",
        "freed": size(row.freed_bytes) if row.freed_bytes else "",
        "files": f"{row.files:,}" if row.files else "",
        "until": row.hold_until or "",
        "of": ", ".join(row.directories) + (f" (needs base {', '.join(row.outside)})" if row.outside else ""),
    }


def purge_plan(report: PurgeReport) -> Shown:
    """What a purge deletes."""
    due = report.plan or ()
    total, files = sum(row.held_bytes for row in due), sum(row.files for row in due)
    rows = [Row(receipt_cells(row), "", (", ".join(row.directories), f"taken in as {some(row.refs)}")) for row in due]
    rows += [Row({"receipt": each, "of": "its hold is not over: it stays"}, "dim") for each in report.waiting]
    if not due:
        why = "Nothing is due." + (f" {count(len(report.waiting), 'hold')} not over yet." if report.waiting else "")
        return Shown(tuple(rows), (Said(why, "bold"),), None, "no receipt holds anything")
    lines = (
        Said(f"Deletes {count(files, 'held file')}: frees {size(total)} ({total:,} bytes)", "good"),
        Said("each is rebuilt from the store and compared once more before it goes", "dim"),
    )
    question = Question(
        f"Delete what is held under {count(len(due), 'receipt')}?",
        (
            Said(f"Frees {size(total)} ({total:,} bytes): {count(files, 'file')}.", "bold"),
            Said("They cannot be put back in place then; 'restore' gives them back from the store."),
        ),
        "delete",
    )
    return Shown(tuple(rows), lines, question)


def purge_result(report: PurgeReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
    """What a purge did."""
    lines = [Said(f"Freed {size(report.freed_bytes)} ({report.freed_bytes:,} bytes).", "good")]
    if report.refused:
        lines.append(Said(f"{count(len(report.refused), 'path')} stayed: doubt keeps a file.", "warn"))
    rows = tuple(
        Row({"receipt": each.path, "of": f"stays: {each.reason}"}, "warn", (each.path, each.reason))
        for each in report.refused
    )
    return tuple(lines), rows


def duration_days(seconds: float) -> str:
    """A hold as people say it: `7 days`, `1.5 days`."""
    days = seconds / 86_400
    return "1 day" if days == 1 else f"{days:.3g} days"
