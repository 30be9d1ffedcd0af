"""`ckptfmt tui`."""

from __future__ import annotations

import sys

import click

from ckptfmt.cli.output import print_lines
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.errors import InvalidInput

EXAMPLE = """\
ckptfmt tui
ckptfmt tui --read-only --store runs.ckptfmt
ckptfmt tui --web"""


@verb("tui", example=EXAMPLE)
@click.option("--read-only", is_flag=True, help="Nothing can be changed.")
@click.option("--web", is_flag=True, help="In a browser on this machine; nothing can be changed without --write.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="With --web: 8411, or a free one.")
@click.option("--write", is_flag=True, help="With --web: let it change the store and files.")
def command(
    session: Session,
    read_only: bool,  # noqa: FBT001
    web: bool,  # noqa: FBT001
    port: int | None,
    write: bool,  # noqa: FBT001
) -> int:
    """Open the terminal UI: browse, compare, merge, clean up.

    '?' shows its keys, Ctrl+P finds every action by name.

    With --web it prints an address for a browser. It listens to this machine alone, and the address holds a token that
    others cannot guess: who knows the address may do what you may. Closing the page ends the jobs that it started.
    """
    with session.store() as store:
        path = store.path
    if session.as_json:
        raise InvalidInput("the terminal UI prints no document: leave --json out", hint="ckptfmt ls --json")
    if not web and (write or port is not None):
        raise InvalidInput("--write and --port belong to --web", hint="ckptfmt tui --web")
    if write and read_only:
        raise InvalidInput("--write and --read-only contradict each other", hint="leave one of them out")
    if web:
        return _serve(path, write=write, port=port)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("the terminal UI needs a terminal", hint="ckptfmt ls, or ckptfmt tui --web")
    from ckptfmt_tui.app import run

    return run(path, read_only=read_only)


def _serve(path: str, *, write: bool, port: int | None) -> int:
    try:
        from ckptfmt_tui.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"textual_serve", "aiohttp"}:
            raise
        raise InvalidInput(
            f"--web needs {error.name}, which is not installed", hint="pip install 'ckptfmt[web]'"
        ) from error

    def ready(address: str) -> None:
        may = "may change the store and files" if write else "read-only: --write lets it change things"
        print_lines([address, f"for a browser on this machine; {may}. Ctrl-C ends it."])

    serve(path, read_only=not write, port=port, ready=ready)
    return 0
