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


SILENT = Silent()
