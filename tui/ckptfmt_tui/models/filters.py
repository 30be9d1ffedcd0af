"""The words of a filter: all of them stand in what is shown, small letters as capitals."""

from __future__ import annotations

from collections.abc import Sequence


def words_of(typed: str) -> tuple[str, ...]:
    """The words of what is typed, in small letters."""
    return tuple(typed.lower().split())


def fits(text: str, words: Sequence[str]) -> bool:
    """Whether every word stands in a text; none of them: all texts fit."""
    if not words:
        return True
    text = text.lower()
    return all(word in text for word in words)
