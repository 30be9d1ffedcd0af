"""`ckptfmt fsck`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.errors import EXIT_CODES
from ckptfmt.wording import count

if TYPE_CHECKING:
    from ckptfmt.api.repairing import FsckProblem, FsckReport

EXAMPLE = """\
ckptfmt fsck
ckptfmt fsck --full
ckptfmt fsck --full --repair
ckptfmt fsck --full --repair --from /backup/runs.ckptfmt"""

_SHOWN = 20


@verb("fsck", example=EXAMPLE)
@click.option("--full", is_flag=True, help="Also read every stored byte, and compare its checksum.")
@click.option("--repair", is_flag=True, help="Repair first what can be known for sure; nothing is dropped.")
@click.option("--from", "places", multiple=True, type=click.Path(), metavar="DIR", help="Where lost files may lie.")
def command(
    session: Session,
    full: bool,  # noqa: FBT001
    repair: bool,  # noqa: FBT001
    places: tuple[str, ...],
) -> int:
    """Look at the store's structure, and name whom each damage harms.

    Looks at the store's own document, each shard's header against its name and length, manifests and base records,
    names and their history, lineages, what objects are stored against, claims, receipts and the files of referenced
    bases. With --full also at every stored byte. 'verify --all' goes one further and decodes all of it.

    Ends with 3 where content is damaged or gone, with 1 for other problems. Unfinished writes and files that are no
    part of a store are told as notes.

    --repair turns single flipped bits of documents and headers back, links back what is needed and lies in the trash,
    copies what is sound out of damaged shards, takes lost objects and documents in again from the directories they came
    from where the bytes are still the same, and gives a name back whose newest generation still tells what it stood
    for. With --from it also looks in a DIR that has the files, or is another store. All that is written is proven by
    its digest. Files that were replaced lie in 'damaged/' of the store. What is then left is told.
    """
    from ckptfmt.api import find_store
    from ckptfmt.api.repairing import fsck_path

    path = find_store(session.stated_store)
    with session.progress() as progress:
        report = fsck_path(path, full=full, repair=repair, places=places, progress=progress)
    session.give(report, lambda: lines(report))
    if report.damaged:
        return EXIT_CODES["damaged"]
    return 1 if report.problems else 0


def lines(report: FsckReport) -> list[Line]:
    """What is wrong and whom it harms, then what was looked at."""
    told: list[Line] = [Styled(f"repaired: {each.path}: {each.message}", "green") for each in report.repaired]
    for problem in report.problems:
        told += _problem(problem)
    notes = [f"note: {note.path}: {note.message}" for note in report.notes]
    told += notes[:_SHOWN]
    if len(notes) > _SHOWN:
        told.append(f"… and {count(len(notes) - _SHOWN, 'more note')}")
    looked = (
        f"{count(report.refs, 'name')}, {count(report.documents, 'document')}, {count(report.shards, 'shard')}, "
        f"{count(report.objects, 'stored object')}"
    )
    if not report.problems:
        return [*told, Styled(f"{looked}: no problems", "green")]
    harmed = {name for problem in report.problems for name in problem.harms}
    return [*told, f"{looked}: {count(len(report.problems), 'problem')}, {count(len(harmed), 'name')} harmed"]


def _problem(problem: FsckProblem) -> list[Line]:
    told: list[Line] = [Styled(f"{problem.kind}: {problem.path}", "red" if problem.level == "damage" else "yellow")]
    told.append(f"  {problem.message}")
    told += [f"  harms {name}" for name in problem.harms[:_SHOWN]]
    if len(problem.harms) > _SHOWN:
        told.append(f"  … and {len(problem.harms) - _SHOWN} more")
    return [*told, f"  hint: {problem.hint}"] if problem.hint else told
