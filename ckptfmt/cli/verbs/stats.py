"""`ckptfmt stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptfmt.cli.damage import Damage
from ckptfmt.cli.describe import encoding_table, shrunk
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import facts, table
from ckptfmt.cli.verb import verb
from ckptfmt.wording import size

if TYPE_CHECKING:
    from ckptfmt.api.results import Stats


@verb("stats", example="ckptfmt stats")
def command(session: Session) -> int:
    """Logical against stored bytes, by encoding and by run.

    STORED of a run is the sum over its checkpoints: what they share is counted in each. The plans are what other ways
    of keeping the same stages would take.
    """
    damage = Damage()
    with session.store() as store:
        stats = store.stats(damaged=damage)
    session.give(stats, lambda: lines(stats))
    return damage.report()


def lines(stats: Stats) -> list[Line]:
    """The store as a whole."""
    told = facts(
        [
            ("checkpoints", f"{stats.checkpoints:,}"),
            ("bases", f"{stats.bases:,}"),
            ("logical -> stored", shrunk(stats.logical_bytes, stats.stored_bytes)),
            ("shards on disk", size(stats.shard_bytes)),
        ]
    )
    if stats.by_encoding:
        told += ["", *encoding_table(stats.by_encoding)]
    if stats.by_run:
        header = ("RUN", "CHECKPOINTS", "LOGICAL", "STORED", "EXCLUSIVE")
        rows = [
            (name, f"{run.checkpoints:,}", size(run.logical_bytes), size(run.stored_bytes), size(run.exclusive_bytes))
            for name, run in stats.by_run.items()
        ]
        told += ["", *table(header, rows, right=header[1:])]
    if stats.plans:
        told += ["", Styled("What these checkpoints would take, kept as", "bold")]
        told += table(("PLAN", "BYTES"), [(plan.name, size(plan.bytes)) for plan in stats.plans], right=("BYTES",))
    return told
