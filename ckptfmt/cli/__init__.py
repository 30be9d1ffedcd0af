"""The command line. One module a verb, in `verbs/`; a verb's module is loaded when that verb runs."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the words of this process's command line, and end it with the exit code they earned."""
    from ckptfmt.cli.app import run
    from ckptfmt.cli.signals import interruptible

    interruptible()
    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
