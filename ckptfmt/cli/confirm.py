"""Asking before something is destroyed: only where a person sits at a terminal."""

from __future__ import annotations

import sys

import click


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether to go on: `--apply` alone is enough where there is no terminal, else the person is asked unless `yes`."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm(question, default=False, err=True)
