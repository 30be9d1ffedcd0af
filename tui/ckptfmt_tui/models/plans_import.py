"""Plans of imports, and what became of them. Pure."""

from __future__ import annotations

import os
from typing import Final

from ckptfmt.api.results import ImportPlan, ImportReport
from ckptfmt.wording import count, ratio, size
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Question, Row, Said, Shown

IMPORT_COLUMNS: Final = (
    Column("path", "PATH", 22, 1, grows=True),
    Column("ref", "NAME", 24, 0, grows=True),
    Column("layout", "LAYOUT", 14, 2),
    Column("stage", "STAGE", 5, 4, "right"),
    Column("parent", "PARENT", 20, 3),
)
_MOST_LEFT: Final = 200


def import_plan(plan: ImportPlan) -> Shown:
    """Which checkpoints, under which names; what is left where it is."""
    rows = [
        Row(
            {
                "path": os.path.relpath(each.path, plan.path)
                if each.path != plan.path
                else os.path.basename(each.path),
                "ref": each.ref,
                "layout": each.layout,
                "stage": "" if each.stage is None else str(each.stage),
                "parent": each.parent or "",
            },
            "",
            (each.path, f"as {each.ref}" + (f", trained on {each.parent}" if each.parent else "")),
        )
        for each in plan.checkpoints
    ]
    if plan.left:
        rows.append(
            Row({"path": "not taken", "ref": f"{count(len(plan.left), 'path')}, part of no checkpoint"}, "bold")
        )
        rows += [Row({"path": f"  {path}"}, "dim", (path,)) for path in plan.left[:_MOST_LEFT]]
    lines = (Said(f"takes in {count(len(plan.checkpoints), 'checkpoint')} from {plan.path}", "good"),)
    question = Question(
        f"Take in {count(len(plan.checkpoints), 'checkpoint')}?",
        (Said("The files stay where they are; every one comes back from the store to the byte."),),
    )
    return Shown(tuple(rows), lines, question if plan.checkpoints else None, "no checkpoint here")


def import_result(report: ImportReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
    """What an import came to: the total, then checkpoint by checkpoint."""
    times = ratio(report.logical_bytes, report.new_bytes)
    lines = [
        Said(
            f"{count(len(report.checkpoints), 'checkpoint')}: {size(report.logical_bytes)} became "
            f"{size(report.new_bytes)} of new bytes" + (f", {times} smaller" if times else ""),
            "good",
        )
    ]
    if report.failed:
        lines.append(Said(f"{len(report.failed)} failed; the others are in", "bad"))
    rows: list[Row] = []
    needed = {each.needs_base.name for each in report.checkpoints if each.needs_base}
    lines += [Said(f"needs the files of base {name!r}: 'base keep' copies them in", "warn") for name in sorted(needed)]
    lines += [Said(note, "warn") for note in report.notes]
    for each in report.checkpoints:
        told = [f"{each.ref}: {size(each.logical_bytes)} in {size(each.new_bytes)}, {count(each.files, 'file')}"]
        if each.base:
            told.append(f"base {each.base} ({each.binding})")
        if each.copy_of is not None:
            told.append(f"an exact copy of base {each.copy_of!r}: every tensor is the same")
        elif each.found is not None:
            told.append(f"stored against {each.found.name}, which nobody named: {each.found.why}")
        if each.forecast is not None:
            seen = each.forecast
            told.append(
                f"{count(seen.tensors, 'tensor')} look merged with a lost adapter of rank {seen.rank}: "
                f"'optimize' would save about {size(seen.saved_bytes)}"
            )
        told += [f"kept whole: {file.path}: {file.reason}" for file in each.opaque]
        told += [f"note: {text}" for text in each.notes]
        cells = {
            "path": f"{size(each.logical_bytes)} → {size(each.new_bytes)}",
            "ref": each.ref,
            "layout": each.layout,
            "parent": f"base {each.base}" if each.base else "",
        }
        rows.append(Row(cells, "", tuple(told)))
        rows += [Row({"path": "", "ref": f"  {line}"}, "dim", (line,)) for line in told[1:]]
    for part in report.failed:
        more = (part.message, *((f"hint: {part.hint}",) if part.hint else ()))
        rows.append(Row({"path": part.path, "ref": part.ref, "layout": part.message}, "bad", more))
    return tuple(lines), tuple(rows)
