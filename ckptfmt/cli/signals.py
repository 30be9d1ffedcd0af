"""Ctrl-C, SIGTERM and a terminal that closes: the first stops the work in order, the third stops the process."""

from __future__ import annotations

import os
import signal
from types import FrameType

from ckptfmt.errors import EXIT_CODES

_PATIENCE = 2
"""Signals that are answered while the work cleans up behind itself; the next one ends the process."""

_received = 0


def interruptible() -> None:
    """Make these signals raise `KeyboardInterrupt` once. What they interrupt removes what it has begun.

    Those that this process was started to ignore (by `nohup`, or behind a shell's back) stay ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def finished() -> None:
    """Ignore these signals: all was done and told, and what is left is the interpreter's own end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603
    _received += 1
    if _received == 1:
        raise KeyboardInterrupt
    if _received > _PATIENCE:
        os._exit(EXIT_CODES["interrupted"])
    os.write(2, b"ckptfmt: removing what was begun; once more to stop at once\n")
