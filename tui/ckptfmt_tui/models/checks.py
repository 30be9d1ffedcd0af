"""What verify and fsck found, as rows: what is damaged, whom it harms, what to try. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.api.repairing import FsckProblem, FsckReport
from ckptfmt.api.results import VerifyReport
from ckptfmt.wording import count, short, size
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Row, Said, Tone, some

COLUMNS: Final = (
    Column("level", "", 7, 0),
    Column("what", "WHAT", 26, 0, grows=True),
    Column("problem", "PROBLEM", 26, 1, grows=True),
    Column("harms", "HARMS", 22, 2, grows=True),
)
REPAIR: Final = ("fsck", "--full", "--repair")
_BASES: Final = "bases/"
_TONES: Final[dict[str, Tone]] = {"damage": "bad", "problem": "warn", "note": "dim"}


@dataclass(frozen=True, slots=True)
class Found:
    """What a look came to; `repair` are the words of the command line that repairs, none where nothing is to be."""

    lines: tuple[Said, ...]
    rows: tuple[Row, ...] = ()
    repair: tuple[str, ...] = field(default=())


def unreadable(damaged: Sequence[tuple[str, str]]) -> tuple[Row, ...]:
    """Names that cannot be read."""
    return tuple(
        Row({"level": "damage", "what": name, "problem": why, "harms": name}, "bad", (name, why, *_hint(REPAIR)))
        for name, why in damaged
    )


def _hint(words: Sequence[str]) -> tuple[str, ...]:
    return (f"hint: ckptfmt {' '.join(words)}",)


def verified(report: VerifyReport) -> Found:
    """What was decoded and compared."""
    looked = f"{count(report.objects, 'object')}, {size(report.bytes)} decoded"
    if not report.damaged:
        return Found((Said(f"{looked}: all sound", "good"),))
    harmed = {name for damage in report.damaged for name in damage.checkpoints}
    bases = sum(name.startswith(_BASES) for name in harmed)
    who = count(len(harmed) - bases, "checkpoint") + (f" and {count(bases, 'base')}" if bases else "")
    rows = tuple(
        Row(
            {
                "level": "damage",
                "what": f"object {short(each.object)}",
                "problem": each.problem,
                "harms": ", ".join(each.checkpoints) or "nobody",
            },
            "bad",
            (
                f"object {each.object}",
                each.problem,
                f"harms {', '.join(each.checkpoints)}" if each.checkpoints else "harms no checkpoint",
                *_hint(REPAIR),
            ),
        )
        for each in report.damaged
    )
    return Found((Said(f"{looked}: {len(report.damaged)} damaged, {who} harmed", "bad"),), rows, REPAIR)


def checked(report: FsckReport) -> Found:
    """What is wrong with the structure of a store."""
    looked = (
        f"{count(report.refs, 'name')}, {count(report.documents, 'document')}, {count(report.shards, 'shard')}, "
        f"{count(report.objects, 'stored object')}"
    )
    rows = tuple(map(_row, (*report.problems, *report.notes)))
    if not report.problems:
        notes = f" ({count(len(report.notes), 'note')})" if report.notes else ""
        return Found((Said(f"{looked}: no problems{notes}", "good"),), rows)
    harmed = sorted({name for problem in report.problems for name in problem.harms})
    lines = [Said(f"{looked}: {count(len(report.problems), 'problem')}", "bad")]
    if harmed:
        lines.append(Said(f"harmed: {some(harmed, 8)}", "warn"))
    return Found(tuple(lines), rows, REPAIR)


def _row(each: FsckProblem) -> Row:
    return Row(
        {
            "level": each.level,
            "what": f"{each.kind}: {each.path}",
            "problem": each.message,
            "harms": ", ".join(each.harms) or "nobody",
        },
        _TONES[each.level],
        (
            f"{each.kind}: {each.path}",
            each.message,
            f"harms {', '.join(each.harms)}" if each.harms else "harms nobody",
            *((f"hint: {each.hint}",) if each.hint else ()),
        ),
    )
