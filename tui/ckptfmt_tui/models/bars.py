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
    """A bar of two parts, one after the other, as two texts; their lengths sum to at most `width`."""
    if most <= 0 or width <= 0:
        return "", ""
    whole = max(min(round((first + second) / most * width), width), 1 if first + second > 0 else 0)
    part = min(round(first / (first + second) * whole), whole) if first + second > 0 else 0
    if first > 0 and part == 0 and whole > 1:
        part = 1
    return "█" * part, "░" * (whole - part)
