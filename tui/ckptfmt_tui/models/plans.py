"""Plans as they are shown, and what became of them: rows of a table, a few lines, a question. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ckptfmt.problems import Problem

Tone = Literal["", "good", "warn", "bad", "dim", "bold"]


@dataclass(frozen=True, slots=True)
class Said:
    """A line for people."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a plan.

    Attributes:
        cells: what stands under each column, by its key.
        tone: of the whole row.
        more: further lines about it, shown below the table.
    """

    cells: dict[str, str]
    tone: Tone = ""
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before a plan is executed; `typed` has to be typed where something is deleted."""

    title: str
    lines: tuple[Said, ...]
    typed: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A plan as it is shown.

    Attributes:
        rows: of its table.
        lines: above it.
        question: asked before it is executed; None where there is nothing to do.
    """

    rows: tuple[Row, ...]
    lines: tuple[Said, ...]
    question: Question | None
    empty: str = field(default="nothing to do")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def stay(number: int) -> str:
    """The verb that goes with a number of things."""
    return "stays" if number == 1 else "stay"


def problem_lines(problem: Problem) -> tuple[Said, ...]:
    """An error in the words of the command line."""
    first, *more = problem.lines()
    return (Said(first, "bad"), *(Said(line, "warn") for line in more))
