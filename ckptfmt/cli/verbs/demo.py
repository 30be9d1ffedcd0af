"""`ckptfmt demo`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptfmt.cli import output
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.errors import EXIT_CODES


@verb("demo", store=False, example="ckptfmt demo\nckptfmt demo /tmp/ckptfmt-demo")
@click.argument("directory", required=False, type=click.Path())
def command(session: Session, directory: str | None) -> int:
    """Make a small model and bloated checkpoints of it, and take them in.

    Offline, in under a minute. DIRECTORY (default ckptfmt-demo) must not exist or be empty; what is made stays there.
    """
    from ckptfmt.demo.run import DEFAULT_DIRECTORY, run_demo
    from ckptfmt.demo.table import render

    report = run_demo(Path(directory or DEFAULT_DIRECTORY), say=session.note)
    if session.as_json:
        session.give(report, lambda: [])
    else:
        output.print_drawing(render(report))
    return 0 if report.ok else EXIT_CODES["digest-mismatch"]
