"""`ckptfmt restore`."""

from __future__ import annotations

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import count, size


@verb("restore", example="ckptfmt restore runs/exp1/stage-2 ./stage-2")
@click.argument("ref", type=REF)
@click.argument("directory", type=click.Path())
def command(session: Session, ref: str, directory: str) -> None:
    """Give the imported files back, to the byte.

    DIRECTORY must not exist or be empty. It appears whole, after the SHA-256 of every file was compared with the one
    taken when it was imported; if one differs, nothing appears.
    """
    with session.store() as store, session.progress() as progress:
        report = store.restore(ref, directory, progress=progress)
    told = f"{count(report.files, 'file')}, {size(report.bytes)}, every SHA-256 the same: {report.path}"
    session.give(report, lambda: [told])
