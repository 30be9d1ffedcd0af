"""The command line. One module a verb, in `verbs/`; a verb's module is loaded when that verb runs."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

from ckptfmt.errors import EXIT_CODES

__all__ = ["main"]


def main() -> NoReturn:
    """Run the words of this process's command line, and end it with the exit code they earned."""
    try:
        from ckptfmt.cli.signals import finished, interruptible

        interruptible()
        from ckptfmt.cli.app import run

        code = run(sys.argv[1:])
        finished()
        # What is alive now ends with the process: looking through it for garbage takes a tenth of a merge.
        gc.freeze()
    except KeyboardInterrupt:  # Before the boundary of `run` stood, or while it told of something else.
        sys.stderr.write("ckptfmt: error: interrupted; nothing half-published [interrupted]\n")
        code = EXIT_CODES["interrupted"]
    sys.exit(code)
