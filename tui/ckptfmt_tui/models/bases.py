"""Bases as rows: where they are, how they stand, what is bound to them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ckptfmt.api.results import BaseReport, RefRow
from ckptfmt.wording import count, short, size
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Tone, some

COLUMNS: Final = (
    Column("name", "NAME", 18, 0, grows=True),
    Column("state", "STATE", 14, 0),
    Column("size", "SIZE", 9, 1, "right"),
    Column("bound", "BOUND", 5, 1, "right"),
    Column("looked", "LOOKED AT", 18, 2),
    Column("tensors", "TENSORS", 7, 5, "right"),
    Column("root", "ROOT", 12, 4),
    Column("from", "FROM", 24, 3, grows=True),
)


@dataclass(frozen=True, slots=True)
class BaseRow:
    """A base, the checkpoints that are bound to it, those that need its files, and whether its files are in sight."""

    report: BaseReport
    bound: tuple[str, ...]
    needing: tuple[str, ...]
    in_sight: bool

    @property
    def state(self) -> str:
        """Where its bytes are."""
        if self.report.kept:
            return "in the store"
        return "referenced" if self.in_sight else "files are gone"

    @property
    def tone(self) -> Tone:
        """How that is to be seen."""
        if self.report.kept:
            return "good"
        return "" if self.in_sight else "bad"

    def details(self) -> tuple[str, ...]:
        """All there is to say."""
        report = self.report
        repo = f"{report.repo} at {report.revision}" if report.repo and report.revision else report.repo or ""
        held = "the store holds all of it" if report.kept else f"its files lie in {report.path or 'no known place'}"
        lines = [
            f"{count(report.files, 'file')}, {count(report.tensors, 'tensor')}, {size(report.bytes)}; {held}",
            f"root {report.root}",
        ]
        if repo:
            lines.append(f"from {repo}")
        bound = some(self.bound, 6) if self.bound else "no checkpoint"
        lines.append(f"bound to it: {bound}")
        if self.needing:
            lines.append(f"without its files these are lost: {some(self.needing, 6)}; 'base keep' copies them in")
        return tuple(lines)


def rows_of(reports: Sequence[BaseReport], refs: Sequence[RefRow], in_sight: Sequence[str]) -> tuple[BaseRow, ...]:
    """Bases with what is bound to them; `in_sight` are the paths that are there."""
    return tuple(
        BaseRow(
            report,
            tuple(row.ref for row in refs if row.base == report.name),
            tuple(row.ref for row in refs if row.needs_base and row.needs_base.record == report.record),
            report.path in in_sight,
        )
        for report in reports
    )


def cells(row: BaseRow, looked: str) -> dict[str, str]:
    """A base under the columns."""
    report = row.report
    return {
        "name": report.name,
        "state": row.state,
        "size": size(report.bytes),
        "bound": str(len(row.bound)),
        "looked": looked,
        "tensors": f"{report.tensors:,}",
        "root": short(report.root),
        "from": report.repo or report.path or "",
    }
