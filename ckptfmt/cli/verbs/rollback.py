"""`ckptfmt rollback`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import short


@verb("rollback", example="ckptfmt rollback runs/exp1/stage-2@3\nckptfmt rollback runs/exp1/stage-2")
@click.argument("generation", type=REF, metavar="REF[@N]")
def command(session: Session, generation: str) -> None:
    """Return a name to an earlier generation.

    What that generation named becomes the newest one; 'ckptfmt log REF' lists them. Nothing in between is lost.
    Without @N it is the last one that named something else than the ref names now.
    """
    with session.store() as store:
        changed = store.rollback(generation)
    told = (
        f"{changed.ref}@{changed.generation} is {short(changed.manifest or '')} again, "
        f"as {changed.ref}@{changed.returned_to} was"
    )
    session.give(changed, lambda: [told])
