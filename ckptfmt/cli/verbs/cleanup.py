"""`ckptfmt cleanup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ckptfmt.cli.asking import agreed
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import verb
from ckptfmt.errors import InvalidInput
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api import Store
    from ckptfmt.api.results_reclaim import (
        CleanupPlanned,
        CleanupReport,
        PurgeReport,
        ReceiptRow,
        RefusedFile,
        UndoReport,
    )
    from ckptfmt.reclaim.rows import KeepWeights

_REFUSED_EXIT: Final = 1

EXAMPLE: Final = """\
ckptfmt cleanup ./results
ckptfmt cleanup ./results --apply
ckptfmt cleanup --undo 20261128-015003-1f2e3d4c5b6a
ckptfmt cleanup --purge --apply"""


@verb("cleanup", example=EXAMPLE)
@click.argument("directories", nargs=-1, metavar="[DIR]...", type=click.Path())
@click.option("--apply", is_flag=True, help="Do it. Without this the plan is shown and nothing is written.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@click.option("--hold", type=click.FloatRange(min=0), default=7, show_default=True, metavar="DAYS", help="0: no hold.")
@click.option(
    "--keep-weights",
    type=click.Choice(["adapter", "full", "none"]),
    default="adapter",
    show_default=True,
    help="What stays in the tree.",
)
@click.option("--name", default="{dir}/{name}", show_default=True, metavar="REF", help="Names in the store.")
@click.option("--base-stays-outside", is_flag=True, help="Do not copy in bases that checkpoints depend on.")
@click.option(
    "--only", multiple=True, type=click.Path(), metavar="PATH", help="Take from this checkpoint alone; repeatable."
)
@click.option("--undo", metavar="RECEIPT", help="Put back everything that a receipt holds.")
@click.option("--purge", is_flag=True, help="Delete what is held and whose hold is over; of a RECEIPT, at once.")
@click.option("--receipts", is_flag=True, help="List the receipts.")
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    directories: tuple[str, ...],
    apply: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    hold: float,
    keep_weights: KeepWeights,
    name: str,
    base_stays_outside: bool,  # noqa: FBT001
    only: tuple[str, ...],
    undo: str | None,
    purge: bool,  # noqa: FBT001
    receipts: bool,  # noqa: FBT001
) -> int:
    """Take redundant files in, prove that they come back, then delete them.

    Without --apply the plan is shown: what goes and why, what it frees, and the most space that the store may need;
    if that is not free, nothing is begun. Then one checkpoint at a time: it is taken into the store, a fresh process
    rebuilds it from there and compares it with the originals, byte for byte, a receipt is written, and the files are
    moved to DIR/.ckptfmt-hold/<receipt>/. After the hold, 'cleanup --purge --apply' compares once more and deletes. Any
    doubt keeps a file and is reported. --undo puts everything back during the hold, 'ckptfmt restore' at any time.

    --keep-weights adapter leaves adapters and whatever a Trainer resumes from; full leaves full weights too, so that
    only exact copies of what stays go; none leaves neither weights nor training state: such a directory does not
    resume.

    A base that is only referenced is copied in if a checkpoint depends on it. With --base-stays-outside it is not, and
    the receipt says so: without the base's files such a checkpoint is lost.
    """
    asked = [bool(undo), purge, receipts, bool(directories) and not purge]
    if sum(asked) != 1 or len(directories) > (1 if purge else len(directories)):
        raise InvalidInput(
            "give directories to clean, or one of --undo RECEIPT, --purge [RECEIPT], --receipts",
            hint="ckptfmt cleanup DIR  (shows the plan)",
        )
    with session.store() as store:
        if receipts:
            return _list(session, store)
        if undo:
            return _undo(session, store, undo)
        if purge:
            return _purge(session, store, directories[0] if directories else None, apply=apply, yes=yes)
        return _clean(
            session,
            store,
            directories,
            apply=apply,
            yes=yes,
            keep=keep_weights,
            hold=hold,
            name=name,
            outside=base_stays_outside,
            only=only,
        )


def _clean(
    session: Session,
    store: Store,
    directories: tuple[str, ...],
    *,
    apply: bool,
    yes: bool,
    keep: KeepWeights,
    hold: float,
    name: str,
    outside: bool,
    only: tuple[str, ...],
) -> int:
    from ckptfmt.api import cleaning

    with session.progress() as progress:
        planned = cleaning.plan(
            store,
            directories,
            keep_weights=keep,
            hold_days=hold,
            name=name,
            base_stays_outside=outside,
            only=only or None,
            progress=progress,
        )
    if not apply:
        report = planned.report
        session.give(report, lambda: plan_lines(planned.shown))
        session.note(*refused_lines(report.refused))
        if planned.shown.files:
            session.note("nothing was written; --apply does it")
        return _REFUSED_EXIT if report.refused else 0
    if planned.shown.files:
        session.note(*plan_lines(planned.shown), "")
        if not agreed(f"Clean up {count(planned.shown.files, 'file')}?", yes=yes or session.as_json):
            return 0
    with session.progress() as progress:
        report = cleaning.execute(store, planned, progress=progress)
    session.give(report, lambda: report_lines(report))
    session.note(*refused_lines(report.refused))
    return _REFUSED_EXIT if report.refused else 0


def _undo(session: Session, store: Store, receipt: str) -> int:
    from ckptfmt.api import cleaning

    report: UndoReport = cleaning.undo_cleanup(store, receipt)
    told = f"{count(report.files, 'file')} back in place ({report.receipt})"
    if not report.files and not report.refused:
        told = f"receipt {report.receipt} holds nothing any more"
    session.give(report, lambda: [told])
    session.note(*refused_lines(report.refused, "not put back"))
    if report.refs:
        one = len(report.refs) == 1
        session.note(
            f"{count(len(report.refs), 'name')} of the cleanup {'stands' if one else 'stand'} in the store still; "
            f"'ckptfmt rm {' '.join(report.refs)}' drops {'it' if one else 'them'}, 'ckptfmt gc' then frees the bytes"
        )
    return _REFUSED_EXIT if report.refused else 0


def _purge(session: Session, store: Store, receipt: str | None, *, apply: bool, yes: bool) -> int:
    from ckptfmt.api import cleaning

    planned = cleaning.plan_purge(store, receipt)
    if not apply:
        session.give(planned.report, lambda: purge_lines(planned.report))
        return 0
    if planned.due:
        session.note(*purge_lines(planned.report))
        if not agreed("Delete these files?", yes=yes or session.as_json):
            return 0
    report = cleaning.execute_purge(store, planned)
    session.give(report, lambda: [Styled(f"freed {size(report.freed_bytes)}", "green")])
    session.note(*refused_lines(report.refused))
    return _REFUSED_EXIT if report.refused else 0


def _list(session: Session, store: Store) -> int:
    from ckptfmt.api import cleaning

    rows = cleaning.list_receipts(store)
    session.give(rows, lambda: receipt_lines(rows) or ["no receipts"])
    return 0


def plan_lines(plan: CleanupPlanned) -> list[Line]:
    """What would go, what is only taken in, the space that it needs and what it frees."""
    going = [each for each in plan.checkpoints if each.files]
    if not going:
        return ["nothing to clean"]
    rows = [(file.path, size(file.bytes), each.ref, file.reason) for each in going for file in each.files]
    lines = table(("PATH", "BYTES", "TAKEN IN AS", "WHY"), rows, right=("BYTES",))
    lines += [
        f"taken in only, so that the others take less: {e.path} as {e.ref}" for e in plan.checkpoints if not e.files
    ]
    lines += [f"bound to base {e.base!r}: {e.ref}" for e in plan.checkpoints if e.base is not None]
    lines += [f"copied in if need be: base {base.name!r}, at most {size(base.most_bytes)}" for base in plan.bases]
    lines += [Styled(f"does not resume afterwards: {e.path}", "yellow") for e in going if e.resumes is False]
    lines += [Styled(f"{e.path}: {e.note}", "yellow") for e in going if e.note]
    if plan.base_stays_outside:
        lines.append(Styled("bases stay outside: without their files these checkpoints are lost", "yellow"))
    fits = plan.needed_bytes <= plan.available_bytes
    lines.append(
        Styled(
            f"the store may need {size(plan.needed_bytes)}, {size(plan.available_bytes)} are free"
            + ("" if fits else ": this is refused; --hold 0, or fewer directories at a time, need less"),
            "dim" if fits else "red",
        )
    )
    lines.append(
        Styled(
            f"{count(plan.files, 'file')} of {count(len(going), 'checkpoint')}: frees {size(plan.freed_bytes)}", "green"
        )
    )
    return lines


def report_lines(report: CleanupReport) -> list[Line]:
    """What was done."""
    if report.receipt is None:
        return ["nothing was cleaned"]
    lines: list[Line] = [f"receipt {report.receipt}"]
    if report.hold_until is not None:
        lines.append(
            f"{size(report.held_bytes)} held until {report.hold_until}; 'ckptfmt cleanup --purge --apply' then"
        )
        lines.append(f"'ckptfmt cleanup --undo {report.receipt}' puts everything back")
    else:
        lines.append(Styled(f"freed {size(report.freed_bytes)}", "green"))
    return [*lines, f"the store takes {size(report.grown_bytes)} more"]


def refused_lines(refused: tuple[RefusedFile, ...], word: str = "kept") -> list[Line]:
    """What stays as it is, and why."""
    return [Styled(f"{word}: {each.path}: {each.reason}", "yellow") for each in refused]


def receipt_lines(rows: tuple[ReceiptRow, ...]) -> list[Line]:
    """A table of receipts."""
    cells = [
        (
            row.receipt,
            row.state,
            row.hold_until or "",
            size(row.held_bytes) if row.held_bytes else "",
            size(row.freed_bytes) if row.freed_bytes else "",
            ", ".join(row.directories) + (f" (needs base {', '.join(row.outside)})" if row.outside else ""),
        )
        for row in rows
    ]
    return table(("RECEIPT", "STATE", "HELD UNTIL", "HELD", "FREED", "OF"), cells, right=("HELD", "FREED"))


def purge_lines(report: PurgeReport) -> list[Line]:
    """What would be deleted."""
    lines = receipt_lines(report.plan or ()) or ["nothing to delete"]
    return [*lines, *[f"not over yet: {each}" for each in report.waiting]]
