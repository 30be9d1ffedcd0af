"""Numbers that people type."""

from __future__ import annotations


def amount(typed: str, below: float) -> float | None:
    """A number that is not negative, and less than a bound; None for anything else."""
    try:
        number = float(typed)
    except ValueError:
        return None
    return number if 0 <= number < below else None
