"""Bars of block characters, in eighths of a column."""

from __future__ import annotations

from typing import Final

_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def bar(value: float, most: float, width: int) -> str:
    """A bar of `value` where one of `most` fills `width` columns; what is more than nothing shows something."""
    if most <= 0 or value <= 0 or width <= 0:
        return " " * max(width, 0)
    eighths = max(min(round(value / most * width * 8), width * 8), 1)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def split_bar(first: float, second: float, most: float, width: int) -> tuple[str, str]:
    """A bar of two parts, one after the other, as two texts; their lengths sum to at most `width`.

    The first part is drawn in eighths of a column. What is more than nothing shows something.
    """
    whole = first + second
    if most <= 0 or width <= 0 or whole <= 0:
        return "", ""
    columns = max(min(round(whole / most * width), width), 1)
    if first <= 0:
        return "", "░" * columns
    own = bar(first, most, columns).rstrip()
    if second > 0 and len(own) == columns > 1:
        own = own[:-1]
    return own, "░" * (columns - len(own))
