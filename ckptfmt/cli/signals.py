"""Ctrl-C and SIGTERM: the first stops the work in order, the third stops the process."""

from __future__ import annotations

import os
import signal
from types import FrameType

from ckptfmt.errors import EXIT_CODES

_PATIENCE = 2
"""Signals that are answered while the work cleans up behind itself; the next one ends the process."""

_received = 0


def interruptible() -> None:
    """Make SIGTERM and SIGINT raise `KeyboardInterrupt` once. What they interrupt removes what it has begun."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603
    _received += 1
    if _received == 1:
        raise KeyboardInterrupt
    if _received > _PATIENCE:
        os._exit(EXIT_CODES["interrupted"])
    os.write(2, b"ckptfmt: removing what was begun; once more to stop at once\n")
