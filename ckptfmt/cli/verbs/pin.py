"""`ckptfmt pin`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb


@verb("pin", example="ckptfmt pin sweep/run_000\nckptfmt pin sweep/run_000 --off")
@click.argument("ref", type=REF)
@click.option("--off", is_flag=True, help="Protect it no longer.")
def command(session: Session, ref: str, off: bool) -> None:  # noqa: FBT001
    """Protect a checkpoint from being pruned."""
    with session.store() as store:
        changed = store.pin(ref, off=off)
    session.give(changed, lambda: [f"{changed.ref}@{changed.generation}: {'no longer pinned' if off else 'pinned'}"])
