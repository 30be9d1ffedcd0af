"""`ckptfmt bind`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import BASE, REF, verb


@verb("bind", example="ckptfmt bind runs/exp1/stage-2 --base llama-3.1-8b")
@click.argument("ref", type=REF)
@click.option("--base", required=True, type=BASE, metavar="NAME", help="The base it was made from.")
def command(session: Session, ref: str, base: str) -> None:
    """State the base of a checkpoint that has none."""
    with session.store() as store:
        bound = store.bind(ref, base)
    told = f"{bound.ref}@{bound.generation}: base {bound.base!r}, {bound.binding} ({bound.evidence})"
    session.give(bound, lambda: [told])
