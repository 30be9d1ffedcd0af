"""Pieces of text that several pages are made of."""

from __future__ import annotations

from rich.text import Text

from ckptfmt.wording import clean


def fact(text: Text, name: str, told: str, *, width: int, style: str = "") -> None:
    """A line of a name, in so many columns, and what it is; nothing where there is nothing to tell."""
    if told:
        text.append(f"{name:<{width}}", style="dim")
        text.append(f"{clean(told)}\n", style=style)
