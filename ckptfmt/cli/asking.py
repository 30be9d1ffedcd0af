"""What destroys shows its plan first: `--apply` does it; on a terminal a person is asked, unless `--yes` is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., object])


def apply_options(function: Function) -> Function:
    """Give a verb `--apply` and `--yes`."""
    function = click.option("--yes", is_flag=True, help="Do not ask on a terminal.")(function)
    return click.option("--apply", is_flag=True, help="Do it; else the plan is shown and nothing is done.")(function)


def agreed(question: str, *, yes: bool) -> bool:
    """Tell whether to go on: asked on a terminal, else what `--apply` said is enough."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm(question, default=False, err=True)
