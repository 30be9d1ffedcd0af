"""`ckptfmt tui`."""

from __future__ import annotations

import sys

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.errors import InvalidInput

EXAMPLE = """\
ckptfmt tui
ckptfmt tui --read-only --store runs.ckptfmt"""


@verb("tui", example=EXAMPLE)
@click.option("--read-only", is_flag=True, help="Nothing can be changed.")
def command(session: Session, read_only: bool) -> int:  # noqa: FBT001
    """Open the terminal UI: browse, compare, merge, clean up.

    '?' shows its keys, Ctrl+P finds every action by name.
    """
    with session.store() as store:
        path = store.path
    if session.as_json:
        raise InvalidInput("the terminal UI prints no document: leave --json out", hint="ckptfmt ls --json")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("the terminal UI needs a terminal", hint="ckptfmt ls")
    from ckptfmt_tui.app import run

    return run(path, read_only=read_only)
