"""`ckptfmt scan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import verb
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api.results_reclaim import RedundantFile, ScanReport


@verb("scan", example="ckptfmt scan ./results\nckptfmt scan ./results ./old-runs --json")
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=click.Path())
def command(session: Session, directories: tuple[str, ...]) -> None:
    """Find what is redundant in directories of checkpoints.

    Nothing is written, and no link is followed. Each redundant file is listed with the reason and with how that is
    known: by names, by the headers of weight files, by samples of their tensors, because all bytes are identical, or
    by links. 'ckptfmt cleanup' relies on none of these: it deletes only what it rebuilt from the store and compared.

    KEEP says the most that 'cleanup --keep-weights' may keep for the file to go: full (an exact copy stays), adapter
    (the default: full weights that the store rebuilds), none (training state, too; of what is not redundant, none takes
    all weights besides). '-' is only told: frozen weights inside a file, hard links, partial saves.

    With a store, its bases are known: what was made from them is found without a copy of them beside it.
    """
    from ckptfmt.api.scanning import scan

    with session.found_store() as store, session.progress() as progress:
        report = scan(directories, store=store, progress=progress)
    session.give(report, lambda: lines(report))
    session.note(*unread_lines(report))


def lines(report: ScanReport) -> list[Line]:
    """The redundant files, and what cleaning would free."""
    told = rows_of(report.redundant)
    free = report.reclaimable_bytes
    total = f"{count(len(report.checkpoints), 'checkpoint')}, {count(report.files, 'file')} in {report.seconds:.1f} s: "
    if not report.redundant:
        return [f"{total}nothing is redundant"]
    told.append(Styled(f"{total}cleanup would free {size(free)}", "green" if free else "bold"))
    most = report.reclaimable["none"]
    if most > free:
        told.append(
            f"with --keep-weights none, {size(most)}: no weights stay; full, {size(report.reclaimable['full'])}"
        )
    return told


def rows_of(redundant: tuple[RedundantFile, ...]) -> list[Line]:
    """A table of redundant files."""
    rows = [(each.path, size(each.bytes), each.goes_with or "-", each.proof, each.reason) for each in redundant]
    return table(("PATH", "BYTES", "KEEP", "KNOWN BY", "WHY"), rows, right=("BYTES",))


def unread_lines(report: ScanReport) -> list[Line]:
    """What was passed over."""
    lines: list[Line] = [f"not looked at: {each.path}: {each.reason}" for each in report.unread]
    unjudged = [each for each in report.checkpoints if each.problem is not None]
    lines += [f"cannot be cleaned: {each.path}: {each.reason}" for each in report.locked]
    return lines + [f"cannot be read, and stays: {each.path}: {each.problem}" for each in unjudged]
