"""`ckptfmt gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.asking import agreed, apply_options
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import verb
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api.reclaiming import GcItem, GcPlanned, GcReport

EXAMPLE = """\
ckptfmt gc
ckptfmt gc --apply
ckptfmt gc --grace 0 --keep-history 0 --apply"""

_SHOWN = 20


@verb("gc", example=EXAMPLE)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="What is younger stays; what is taken out stays in the trash as long.",
)
@click.option(
    "--keep-history",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="How long what a ref stood for before can be brought back with 'rollback'.",
)
@apply_options
def command(
    session: Session,
    grace: float,
    keep_history: float,
    apply: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
) -> int:
    """Delete what no ref reaches; frees bytes.

    What refs name, what was dropped or superseded less than --keep-history ago, their lineage and bases, and what other
    processes are writing stays. Of objects that are stored twice the smaller copy stays, and shards that are mostly
    dead are written anew.

    Nothing is deleted at once: a first run moves files to the store's trash, a run after the grace looks again and
    deletes them. With --grace 0 one run does both. Before the last other copy of an object goes, the one that stays is
    decoded and compared.

    Without --apply the plan is shown.
    """
    with session.store() as store:
        plan = store.plan_gc(grace_hours=grace, keep_history_days=keep_history, apply=apply)
        if not apply:
            report = store.planned_gc(plan)
            session.give(report, lambda: plan_lines(report.plan))
            if report.plan.take_out or report.plan.freed_bytes:
                session.note("nothing was deleted: --apply does it")
            elif keep_history:
                session.note(f"what was dropped or superseded in the last {keep_history:g} days stays: --keep-history")
            return 0
        shown = store.planned_gc(plan).plan
        session.note(*plan_lines(shown))
        if not agreed("Go on?", yes=yes or session.as_json or not (shown.take_out or shown.freed_bytes)):
            session.note("nothing was deleted")
            session.give(store.planned_gc(plan), list)
            return 0
        with session.progress() as progress:
            report = store.gc(plan, progress=progress)
    session.give(report, lambda: report_lines(report))
    return 0


def plan_lines(plan: GcPlanned) -> list[Line]:
    """What goes and why, what it frees now and later, and what stays."""
    lines: list[Line] = []
    for reason in dict.fromkeys(item.reason for item in (*plan.take_out, *plan.unfinished)):
        items = [item for item in (*plan.take_out, *plan.unfinished) if item.reason == reason]
        lines += [Styled(f"{reason}: {count(len(items), 'file')}, {_sum(items)}", "bold"), *_rows(items)]
    if plan.written:
        lines.append(f"written for what is left of them: {count(plan.written, 'shard')}, {size(plan.written_bytes)}")
    for held in plan.trash:
        state = f"due, frees {size(held.freed_bytes)}" if held.due else f"{held.age_seconds / 3600:.1f} h old, stays"
        lines.append(f"{held.path}: {size(held.bytes)}, {state}")
    frees = f"frees {size(plan.freed_bytes)} now"
    if plan.written_bytes:
        frees += f", after writing {size(plan.written_bytes)}"
    if plan.later_bytes:
        frees += f", and takes out {size(plan.later_bytes)}, which a gc after the grace deletes"
    if plan.young_bytes:
        frees += f"; {size(plan.young_bytes)} are younger than the grace"
    stay = f"{count(plan.manifests, 'manifest')}, {count(plan.bases, 'base')} and {count(plan.objects, 'object')} stay"
    if plan.beside_bytes:
        stay += f", and {size(plan.beside_bytes)} that nothing needs, in shards of which most is needed"
    return [*lines, Styled(frees, "yellow" if plan.take_out or plan.freed_bytes else "green"), stay]


def report_lines(report: GcReport) -> list[Line]:
    """What was done."""
    lines: list[Line] = [Styled(f"damaged, so that another copy was kept: {each}", "red") for each in report.problems]
    told = f"freed {size(report.freed_bytes)} ({count(report.unlinked, 'file')})"
    if report.written_bytes:
        told += f", wrote {size(report.written_bytes)}"
    waiting = report.taken_out_bytes if report.plan.later_bytes else 0
    if waiting:
        told += f"; {size(waiting)} lie in the trash until a gc after the grace"
    if report.brought_back:
        told += f"; {count(report.brought_back, 'file')} brought back"
    return [*lines, told]


def _sum(items: list[GcItem]) -> str:
    return size(sum(item.bytes for item in items))


def _rows(items: list[GcItem]) -> list[Line]:
    largest = sorted(items, key=lambda item: (-item.bytes, item.path))
    rows = [(item.path, size(item.bytes)) for item in largest[:_SHOWN]]
    more = [f"  … and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [*table(("FILE", "SIZE"), rows, right=("SIZE",), indent="  "), *more]
