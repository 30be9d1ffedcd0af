"""`ckptfmt rename`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb


@verb("rename", example="ckptfmt rename sweep/run_000 sweep/best")
@click.argument("old", type=REF)
@click.argument("new")
def command(session: Session, old: str, new: str) -> None:
    """Give a checkpoint another name."""
    with session.store() as store:
        changed = store.rename(old, new)
    session.give(changed, lambda: [f"{old} is now {changed.ref}"])
