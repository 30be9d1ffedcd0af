"""`ckptfmt completion`."""

from __future__ import annotations

from typing import Final

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb

_INSTALL: Final = {
    "bash": "echo 'eval \"$(ckptfmt completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(ckptfmt completion zsh)\"' >> ~/.zshrc",
    "fish": "ckptfmt completion fish > ~/.config/fish/completions/ckptfmt.fish",
}

EXAMPLE = """\
ckptfmt completion bash
ckptfmt completion fish"""


@verb("completion", store=False, example=EXAMPLE)
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
def command(session: Session, shell: str) -> None:
    """Print the completion script for a shell.

    It completes verbs, options, and the names of checkpoints and bases of the store.
    """
    from click.shell_completion import get_completion_class

    from ckptfmt.cli.app import COMPLETION_VARIABLE, PROGRAM, program

    kind = get_completion_class(shell)
    if kind is None:
        raise click.BadParameter(f"no completion for {shell!r}", param_hint="SHELL")
    script = kind(program, {}, PROGRAM, COMPLETION_VARIABLE).source_template % {
        "complete_func": f"_{PROGRAM}_completion",
        "complete_var": COMPLETION_VARIABLE,
        "prog_name": PROGRAM,
    }
    session.give({"shell": shell, "script": script}, lambda: list(script.rstrip("\n").split("\n")))
    session.note(f"to have it in every shell: {_INSTALL[shell]}")
