"""`ckptfmt prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.asking import agreed, apply_options
from ckptfmt.cli.errors import print_problem
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import REF, verb
from ckptfmt.cli.verbs.import_ import problem_of_part
from ckptfmt.errors import InvalidInput
from ckptfmt.store.retention import Best, Policy, best_of
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api.results import PlannedRef, PrunePlan

EXAMPLE = """\
ckptfmt prune 'sweep/*' --keep-last 3
ckptfmt prune runs/exp1 --keep-every 1000 --keep-best eval_loss:min --apply
ckptfmt prune --keep-best accuracy:max:5 --keep-stage 6 --keep-tag paper"""


class BestOf(click.ParamType[Best]):
    """`METRIC:min`, `METRIC:max`, and either with `:N`."""

    name = "metric"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Best:
        """Parse `eval_loss:min:3`."""
        if isinstance(value, Best):
            return value
        try:
            return best_of(str(value))
        except InvalidInput as error:
            self.fail(error.message, param, ctx)


@verb("prune", example=EXAMPLE)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", type=REF)
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the N newest of each run.")
@click.option(
    "--keep-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep those whose step (stage, number) N divides.",
)
@click.option(
    "--keep-best",
    type=BestOf(),
    multiple=True,
    metavar="METRIC:min|max[:N]",
    help="Keep the best N (1) of each run by a metric; repeatable.",
)
@click.option("--keep-stage", type=click.IntRange(min=0), multiple=True, metavar="N", help="Keep a stage; repeatable.")
@click.option("--keep-tag", multiple=True, metavar="LABEL", help="Keep what 'ckptfmt tag' labelled; repeatable.")
@apply_options
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    patterns: tuple[str, ...],
    keep_last: int | None,
    keep_every: int | None,
    keep_best: tuple[Best, ...],
    keep_stage: tuple[int, ...],
    keep_tag: tuple[str, ...],
    apply: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
) -> int:
    """Drop names by policy; frees no bytes.

    PATTERN is a ref with * and ?, or the beginning of some; without any, all checkpoints are meant. Each run is looked
    at by itself: a run is what shares a name up to its last '/', so sweep/a/checkpoint-1 and sweep/a/checkpoint-2 are
    of the run sweep/a. Inside a run, checkpoints are ordered by step; where most have none, by stage, else by the
    number at the end of their names, else by time.

    What any --keep-... keeps is kept. So is what is pinned, what was trained further into something kept, what has no
    place in the order of its run, and a run of which nothing else would be left. Bases are never dropped.

    Without --apply the plan is shown. 'ckptfmt rollback REF@N' brings a name back; 'ckptfmt gc' frees
    the bytes, after 30 days unless its --keep-history says otherwise.
    """
    policy = Policy(keep_last, keep_every, keep_best, frozenset(keep_stage), frozenset(keep_tag))
    with session.store() as store:
        plan = store.plan_prune(patterns, keep=policy)
        session.note(*(Styled(f"no ref fits {pattern!r}", "yellow") for pattern in plan.unmatched))
        if not apply:
            session.give(plan, lambda: plan_lines(plan))
            if plan.dropped:
                session.note("nothing was dropped: --apply does it")
            return 0
        session.note(*plan_lines(plan))
        if not agreed(f"Drop {count(len(plan.dropped), 'name')}?", yes=yes or not plan.dropped):
            session.note("nothing was dropped")
            session.give(plan, list)
            return 0
        with session.progress() as progress:
            report = store.prune(plan, progress=progress)
    problems = [problem_of_part(part) for part in report.failed]
    session.give(report, lambda: [f"dropped {count(len(report.dropped), 'name')}, kept {len(report.kept)}"])
    if not session.as_json:
        for problem in problems:
            print_problem(problem)
    if report.dropped:
        first = report.dropped[0]
        session.note(f"'ckptfmt rollback {first.ref}@{first.generation}' brings one back")
        session.note("'ckptfmt gc' frees its bytes after 30 days; 'ckptfmt gc --keep-history 0' does not wait")
    return max((problem.exit_code for problem in problems), default=0)


def plan_lines(plan: PrunePlan) -> list[Line]:
    """Run by run, what is kept, with every reason, and what goes."""
    refs: dict[str, list[PlannedRef]] = {run: [] for run in plan.orders}
    for each in (*plan.kept, *plan.dropped):
        refs[each.run].append(each)
    lines: list[Line] = []
    for run, members in refs.items():
        kept = sum(bool(each.reasons) for each in members)
        told = f"{kept} of {count(len(members), 'checkpoint')} kept, ordered by {plan.orders[run]}"
        rows = [
            (
                "keep" if each.reasons else "drop",
                each.ref,
                "" if each.step is None else str(each.step),
                "" if each.stage is None else str(each.stage),
                ", ".join(each.reasons),
            )
            for each in members
        ]
        lines.append(Styled(f"{run or '(no run)'}: {told}", "bold"))
        lines += table(("", "REF", "STEP", "STAGE", "WHY"), rows, right=("STEP", "STAGE"), indent="  ")
    freed = sum(each.exclusive_bytes for each in plan.dropped)
    total = f"{count(len(plan.dropped), 'name')} to drop, {len(plan.kept)} kept"
    if freed:
        total += f"; at least {size(freed)} are needed by nothing else"
    return [*lines, Styled(total, "yellow" if plan.dropped else "green")]
