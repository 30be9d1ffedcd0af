"""The words of a filter: all of them stand in what is shown, small letters as capitals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def words_of(typed: str) -> tuple[str, ...]:
    """The words of what is typed, in small letters."""
    return tuple(typed.lower().split())


def fits(text: str, words: Sequence[str]) -> bool:
    """Whether every word stands in a text; none of them: all texts fit."""
    if not words:
        return True
    text = text.lower()
    return all(word in text for word in words)


def fitting(rows: Sequence[Row], typed: str, text: Callable[[Row], str]) -> Sequence[Row]:
    """The rows in whose text every word of what is typed stands; `rows` as they are where nothing is typed."""
    words = words_of(typed)
    return [row for row in rows if fits(text(row), words)] if words else rows
