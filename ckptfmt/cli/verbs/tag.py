"""`ckptfmt tag`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb


@verb("tag", example="ckptfmt tag sweep/run_000 best published\nckptfmt tag sweep/run_000 best --remove")
@click.argument("ref", type=REF)
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@click.option("--remove", is_flag=True, help="Take the labels off.")
def command(session: Session, ref: str, labels: tuple[str, ...], remove: bool) -> None:  # noqa: FBT001
    """Label a checkpoint."""
    with session.store() as store:
        changed = store.tag(ref, labels, remove=remove)
    done = "no longer labelled" if remove else "labelled"
    session.give(changed, lambda: [f"{changed.ref}@{changed.generation}: {done} {', '.join(labels)}"])
