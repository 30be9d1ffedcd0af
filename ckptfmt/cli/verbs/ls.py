"""`ckptfmt ls`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ckptfmt.cli.damage import Damage
from ckptfmt.cli.describe import base_of, legend
from ckptfmt.cli.output import Line, width_of
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import count, metrics, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptfmt.api.results import RefRow

HEADER = ("REF", "LAYOUT", "STAGE", "STEP", "BASE", "LOGICAL", "STORED", "EXCLUSIVE", "LABELS", "METRICS")
_NUMBERS = ("STAGE", "STEP", "LOGICAL", "STORED", "EXCLUSIVE")


@verb("ls", example="ckptfmt ls\nckptfmt ls 'sweep/*' --json")
@click.argument("pattern", required=False, type=REF)
def command(session: Session, pattern: str | None) -> int:
    """List checkpoints: layout, stage, base, sizes, metrics.

    PATTERN is a ref with * and ?, or the beginning of some, as in sweep/. LOGICAL is what the files take when they
    are restored, STORED what their objects, and those that they are stored against, take in the store, EXCLUSIVE what
    only this checkpoint needs. A * behind a base: the checkpoint cannot be restored without that base's own files.
    """
    damage = Damage()
    with session.store() as store:
        rows = store.list_refs(pattern, damaged=damage)
    session.give(rows, lambda: row_lines(rows, width_of(sys.stdout)))
    if rows:
        session.note(f"{count(len(rows), 'checkpoint')}, {size(sum(row.logical_bytes for row in rows))} logical")
    else:
        session.note("no checkpoints" if pattern is None else f"no checkpoints like {pattern!r}")
    session.note(*legend(row.needs_base for row in rows))
    return damage.report()


def row_lines(rows: Sequence[RefRow], width: int | None) -> list[Line]:
    """A table with one row a ref."""
    cells = [
        (
            row.ref,
            row.layout,
            "" if row.stage is None else str(row.stage),
            "" if row.step is None else str(row.step),
            base_of(row),
            size(row.logical_bytes),
            size(row.stored_bytes),
            size(row.exclusive_bytes),
            ", ".join(["pinned", *row.labels] if row.pinned else row.labels),
            metrics(row.metrics),
        )
        for row in rows
    ]
    return table(HEADER, cells, right=_NUMBERS, width=width)
