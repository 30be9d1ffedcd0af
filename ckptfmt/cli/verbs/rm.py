"""`ckptfmt rm`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb


@verb("rm", example="ckptfmt rm runs/exp1/stage-2")
@click.argument("ref", type=REF)
def command(session: Session, ref: str) -> None:
    """Drop a name; its history stays.

    No bytes are freed, and 'ckptfmt rollback' brings the name back.
    """
    with session.store() as store:
        changed = store.drop(ref)
    session.give(changed, lambda: [f"dropped {changed.ref}"])
    if changed.generation > 1:
        session.note(f"'ckptfmt rollback {changed.ref}@{changed.generation - 1}' undoes it")
