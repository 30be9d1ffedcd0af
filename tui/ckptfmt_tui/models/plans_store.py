"""Plans of gc and prune, and what became of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ckptfmt.api.reclaiming import GcItem, GcPlanned, GcReport
from ckptfmt.api.results import PlannedRef, PrunePlan, PruneReport
from ckptfmt.wording import count, duration, size
from ckptfmt_tui.models.columns import Column
from ckptfmt_tui.models.plans import Question, Row, Said, Shown

GC_COLUMNS: Final = (
    Column("what", "FILE", 30, 0, grows=True),
    Column("bytes", "BYTES", 10, 0, "right"),
    Column("why", "WHY", 28, 1, grows=True),
)


def gc_plan(plan: GcPlanned, keep_history_days: float) -> Shown:
    """What nothing needs, by reason with its sum; the trash; what is freed now and later."""
    rows: list[Row] = []
    items = (*plan.take_out, *plan.unfinished)
    for reason in dict.fromkeys(item.reason for item in items):
        of_it = sorted((item for item in items if item.reason == reason), key=lambda item: (-item.bytes, item.path))
        rows.append(Row({"what": reason, "bytes": _sum(of_it), "why": count(len(of_it), "file")}, "bold"))
        rows += [Row({"what": f"  {item.path}", "bytes": size(item.bytes)}, "", (item.path, reason)) for item in of_it]
    if plan.trash:
        total = size(sum(held.bytes for held in plan.trash))
        rows.append(Row({"what": "in the trash", "bytes": total, "why": count(len(plan.trash), "run")}, "bold"))
    for held in plan.trash:
        age = duration(held.age_seconds)
        why = f"{age} old: due, frees {size(held.freed_bytes)}" if held.due else f"{age} old: its grace is not over"
        rows.append(Row({"what": f"  {held.path}", "bytes": size(held.bytes), "why": why}, "" if held.due else "dim"))
    works = bool(plan.take_out or plan.unfinished or plan.freed_bytes)
    return Shown(
        tuple(rows),
        tuple(_gc_lines(plan, keep_history_days)),
        _gc_question(plan) if works else None,
        "nothing in the store is unneeded",
    )


def _gc_lines(plan: GcPlanned, keep_history_days: float) -> Iterable[Said]:
    yield Said(
        f"frees {size(plan.freed_bytes)} now ({plan.freed_bytes:,} bytes), {size(plan.later_bytes)} later",
        "good" if plan.freed_bytes or plan.later_bytes else "bold",
    )
    if plan.written:
        yield Said(
            f"writes {size(plan.written_bytes)} anew ({count(plan.written, 'shard')}): what is left of mostly dead ones"
        )
    if plan.young_bytes:
        yield Said(f"{size(plan.young_bytes)} that nothing needs are younger than the grace and stay", "dim")
    if plan.beside_bytes:
        yield Said(f"{size(plan.beside_bytes)} that nothing needs stay in shards of which most is needed", "dim")
    stays = f"{count(plan.manifests, 'manifest')}, {count(plan.bases, 'base')} and {count(plan.objects, 'object')} stay"
    if keep_history_days:
        stays += f"; so does what was dropped or superseded in the last {keep_history_days:g} days"
    yield Said(stays, "dim")


def _gc_question(plan: GcPlanned) -> Question:
    lines = [
        Said(f"Frees {size(plan.freed_bytes)} now ({plan.freed_bytes:,} bytes).", "bold"),
        Said(
            f"Takes {size(plan.later_bytes)} out into the store's trash, which a gc after the grace deletes."
            if plan.later_bytes
            else "Nothing waits in the trash afterwards."
        ),
        Said(
            f"{count(plan.manifests, 'manifest')}, {count(plan.bases, 'base')} and {count(plan.objects, 'object')} "
            "stay; before the last other copy of one goes, the one that stays is decoded and compared."
        ),
    ]
    return Question("Delete what nothing needs?", tuple(lines), "collect")


def gc_result(report: GcReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
    """What a gc did."""
    lines = [
        Said(
            f"Freed {size(report.freed_bytes)} ({report.freed_bytes:,} bytes): {count(report.unlinked, 'file')}.",
            "good",
        )
    ]
    if report.written_bytes:
        lines.append(Said(f"Wrote {size(report.written_bytes)} anew."))
    if report.taken_out_bytes and report.plan.later_bytes:
        lines.append(Said(f"{size(report.taken_out_bytes)} lie in the trash until a gc after the grace."))
    if report.brought_back:
        lines.append(Said(f"{count(report.brought_back, 'file')} brought back: somebody needs them again.", "warn"))
    lines += [Said(f"Damaged, so that another copy was kept: {each}", "bad") for each in report.problems]
    return tuple(lines), ()


PRUNE_COLUMNS: Final = (
    Column("does", "", 4, 0),
    Column("ref", "NAME", 28, 0, grows=True),
    Column("step", "STEP", 7, 3, "right"),
    Column("stage", "STAGE", 5, 4, "right"),
    Column("own", "OWN", 9, 2, "right"),
    Column("why", "WHY", 24, 1, grows=True),
)


def prune_plan(plan: PrunePlan) -> Shown:
    """Run by run, what is kept and why, and what goes."""
    rows: list[Row] = []
    members: dict[str, list[PlannedRef]] = {run: [] for run in plan.orders}
    for each in (*plan.dropped, *plan.kept):
        members.setdefault(each.run, []).append(each)
    for run, refs in members.items():
        kept = sum(bool(each.reasons) for each in refs)
        head = f"{kept} of {len(refs)} kept, ordered by {plan.orders[run]}"
        rows.append(Row({"does": "", "ref": run or "(no run)", "why": head}, "bold"))
        rows += [_ref_row(each, each.ref.removeprefix(f"{run}/")) for each in refs]
    own = sum(each.exclusive_bytes for each in plan.dropped)
    lines = (
        Said(f"drops {count(len(plan.dropped), 'name')}, keeps {len(plan.kept)}", "warn" if plan.dropped else "good"),
        Said(f"frees nothing by itself; a gc then frees at least {size(own)}, which only they need", "dim"),
    )
    if not plan.dropped:
        return Shown(tuple(rows), lines[:1], None, "no checkpoint fits")
    question = Question(
        f"Drop {count(len(plan.dropped), 'name')}?",
        (
            Said(f"Frees nothing now. A gc then frees at least {size(own)} ({own:,} bytes), which only they need."),
            Said(f"{count(len(plan.kept), 'name')} stay, and so do all bases."),
            Said("'rollback REF@N' brings each one back until a gc has gone over it."),
        ),
    )
    return Shown(tuple(rows), lines, question)


def _ref_row(each: PlannedRef, name: str) -> Row:
    """A checkpoint below its run, so that its own part of the name is what there is room for."""
    return Row(
        {
            "does": "keep" if each.reasons else "drop",
            "ref": f"  {name}",
            "step": "" if each.step is None else f"{each.step:,}",
            "stage": "" if each.stage is None else str(each.stage),
            "own": size(each.exclusive_bytes),
            "why": ", ".join(each.reasons),
        },
        "dim" if each.reasons else "",
        (f"{each.ref}@{each.generation}", *each.reasons),
    )


def prune_result(report: PruneReport) -> tuple[tuple[Said, ...], tuple[Row, ...]]:
    """What a prune did."""
    lines = [Said(f"Dropped {count(len(report.dropped), 'name')}, kept {len(report.kept)}.", "good")]
    if report.dropped:
        first = report.dropped[0]
        lines.append(Said(f"'rollback {first.ref}@{first.generation}' brings one back.", "dim"))
        lines.append(Said("A gc frees the bytes once its history is over, 30 days if it is not told otherwise.", "dim"))
    if report.failed:
        lines.append(Said(f"{count(len(report.failed), 'name')} moved on meanwhile and stay.", "warn"))
    rows = tuple(
        Row({"does": "keep", "ref": f"  {each.ref}", "why": each.message}, "warn", (each.ref, each.message))
        for each in report.failed
    )
    return tuple(lines), rows


def _sum(items: Sequence[GcItem]) -> str:
    return size(sum(item.bytes for item in items))
