"""The progress protocol: long work reports bytes, front ends decide what that looks like."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of work as it is done. May raise to cancel: the caller publishes nothing then."""

    def begin(self, label: str, total_bytes: int | None) -> None:
        """Start a step called `label`; `total_bytes` is None where it is not known."""
        ...

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` more of the step are done. Called from worker threads too."""
        ...

    def end(self) -> None:
        """The step is over."""
        ...


class Silent:
    """Progress that goes nowhere."""

    def begin(self, label: str, total_bytes: int | None) -> None:
        """Ignore a step's start."""

    def advance(self, done_bytes: int) -> None:
        """Ignore done bytes."""

    def end(self) -> None:
        """Ignore a step's end."""


class Numbered:
    """Progress of one of many: its steps say which one it is.

    Args:
        progress: told of everything.
        number: of the one that is worked on, from 1.
        many: how many there are.
    """

    def __init__(self, progress: Progress, number: int, many: int) -> None:
        self._progress = progress
        self._place = f" ({number:,} of {many:,})" if many > 1 else ""

    def begin(self, label: str, total_bytes: int | None) -> None:
        """See `Progress.begin`."""
        self._progress.begin(f"{label}{self._place}", total_bytes)

    def advance(self, done_bytes: int) -> None:
        """See `Progress.advance`."""
        self._progress.advance(done_bytes)

    def end(self) -> None:
        """See `Progress.end`."""
        self._progress.end()


SILENT = Silent()
