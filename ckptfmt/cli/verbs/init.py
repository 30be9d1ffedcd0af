"""`ckptfmt init`."""

from __future__ import annotations

import os

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.errors import InvalidInput

DEFAULT = ".ckptfmt"


@verb("init", example="ckptfmt init\nckptfmt init /data/runs.ckptfmt")
@click.argument("path", required=False, type=click.Path())
def command(session: Session, path: str | None) -> None:
    """Make a store.

    PATH must not exist or be empty. Without it the store is what --store or CKPTFMT_STORE names, else .ckptfmt in
    this directory, where every verb run below this directory finds it.
    """
    from ckptfmt.api import Store

    if path and session.stated_store:
        raise InvalidInput("PATH and --store both name the store: give one", hint="ckptfmt init --help")
    with Store.init(path or session.stated_store or os.environ.get("CKPTFMT_STORE") or DEFAULT) as store:
        made = str(store.path)
    session.give({"store": made}, lambda: [f"made a store in {made}"])
    session.note("next: ckptfmt import PATH --name REF")
