"""The command `ckptfmt`: verbs found by name, and the run of one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import click

from ckptfmt.cli.errors import guarded
from ckptfmt.cli.output import soften
from ckptfmt.cli.table import VERBS
from ckptfmt.cli.verb import VerbGroup

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM: Final = "ckptfmt"
COMPLETION_VARIABLE: Final = "_CKPTFMT_COMPLETE"
"""Set by the completion scripts: which shell asks, and for what."""


class Program(VerbGroup):
    """The group of all verbs: lists them from the table, and loads the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb; None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command = import_module(f"ckptfmt.cli.verbs.{VERBS[cmd_name].module}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, section by section, loading none of them."""
        for section in dict.fromkeys(entry.section for entry in VERBS.values()):
            rows = [(name, entry.summary) for name, entry in VERBS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs that begin with `incomplete`, loading none of them; options where it begins with '-'."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        found = ((name, entry) for name, entry in VERBS.items() if name.startswith(incomplete))
        return [CompletionItem(name, help=entry.summary) for name, entry in found]


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value and not ctx.resilient_parsing:
        from ckptfmt.cli.verbs.version import own_version

        click.echo(f"{PROGRAM} {own_version()}")
        ctx.exit()


@click.group(
    PROGRAM,
    cls=Program,
    example="ckptfmt init\nckptfmt import ./results/run_000 --name sweep/run_000",
    invoke_without_command=True,
    subcommand_metavar="VERB [ARGUMENTS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """Keep fine-tuned checkpoints small, and give every file back to the byte.

    The store is --store PATH after the verb, else CKPTFMT_STORE, else the nearest .ckptfmt directory upward.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run a command line without the program's name.

    Returns:
        The exit code: 0, or that of the error, which was reported.
    """
    soften(sys.stdout, sys.stderr)
    as_json = "--json" in takewhile(lambda word: word != "--", arguments)
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        return guarded(lambda: _complete(instruction), as_json=False)
    return guarded(lambda: _invoke(arguments), as_json=as_json)


def _invoke(arguments: Sequence[str]) -> int:
    with program.make_context(PROGRAM, list(arguments)) as context:
        code = program.invoke(context)
    return code if isinstance(code, int) else 0


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(program, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
