"""What all verbs share: an example in their help, `--store`, `--json`, and a session."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.table import VERBS
from ckptfmt.errors import CkptfmtError, InvalidInput

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Verb(click.Command):
    """A command whose help ends with examples.

    Attributes:
        example: command lines that could be typed as they stand, one a line.
    """

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_example(self.example, formatter)


class VerbGroup(click.Group):
    """A group of verbs, with examples, that names the nearest verbs when it is given an unknown one."""

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_example(self.example, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs of the group, in the order of their definition."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that the first of `args` names.

        Raises:
            InvalidInput: there is no such verb.
        """
        word = args[0]
        if not ctx.resilient_parsing and not word.startswith("-") and self.get_command(ctx, word) is None:
            from difflib import get_close_matches

            near = get_close_matches(word, self.list_commands(ctx), n=2, cutoff=0.6)
            meant = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            hint = f"{ctx.command_path} {near[0]} --help" if near else f"{ctx.command_path} --help"
            raise InvalidInput(f"no verb {word!r}{meant}", hint=hint)
        return super().resolve_command(ctx, args)


def write_example(example: str, formatter: click.HelpFormatter) -> None:
    """Write examples as they are, unwrapped."""
    lines = example.splitlines()
    with formatter.section("Examples" if len(lines) > 1 else "Example"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def verb(
    name: str, *, example: str, group: click.Group | None = None, store: bool = True
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a verb of a function that is given a `Session` and what was parsed, and returns an exit code or None.

    Its docstring is the help; its first sentence is the verb's line in the table.

    Args:
        name: of the verb.
        example: command lines for its help.
        group: the group it belongs to; None for the program itself.
        store: whether it works on a store, and so takes `--store`.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def call(*, as_json: bool, stated_store: str | None = None, **parsed: Any) -> int:
            return function(Session(stated_store, as_json=as_json), **parsed) or 0

        summary = VERBS[name].summary if group is None else None
        command = click.command(name, cls=Verb, example=example, short_help=summary)(call)
        command.params += [_store_option(), _json_option()] if store else [_json_option()]
        if group is not None:
            group.add_command(command)
        return command

    return decorate


def _store_option() -> click.Option:
    return click.Option(
        ["--store", "stated_store"],
        metavar="PATH",
        type=click.Path(),
        help="The store. [default: CKPTFMT_STORE, else the nearest .ckptfmt directory upward]",
    )


def _json_option() -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document on stdout.")


class RefName(click.ParamType[str]):
    """A checkpoint as users name it; completes refs of the store."""

    name = "ref"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Refs that begin with `incomplete`; none where there is no store to ask."""
        return _completed(ctx, lambda session: session.refs(incomplete))


class BaseName(click.ParamType[str]):
    """A base of the store; completes their names."""

    name = "base"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Bases whose names begin with `incomplete`; none where there is no store to ask."""
        return _completed(ctx, lambda session: [name for name in session.bases() if name.startswith(incomplete)])


REF = RefName()
BASE = BaseName()


def _completed(ctx: click.Context, names: Callable[[Session], list[str]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    stated = ctx.params.get("stated_store")
    try:
        found = names(Session(stated and os.path.expanduser(stated), as_json=False))
    except (CkptfmtError, OSError):  # A shell that waits for words has no use for an error.
        return []
    return [CompletionItem(name) for name in found]
