"""`ckptfmt optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.errors import print_problem
from ckptfmt.cli.output import Line
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import REF, verb
from ckptfmt.cli.verbs.import_ import problem_of_part
from ckptfmt.wording import count, ratio, size

if TYPE_CHECKING:
    from ckptfmt.api.results import OptimizeReport


@verb("optimize", example="ckptfmt optimize runs/exp1/stage-2\nckptfmt optimize --quick")
@click.argument("refs", nargs=-1, metavar="[REF]...", type=REF)
@click.option("--quick", is_flag=True, help="Do not look for lost adapters: only do what an import would do now.")
@click.option("--again", is_flag=True, help="Try also what an earlier run tried with the same models and adapters.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to look for adapters."
)
def command(
    session: Session,
    refs: tuple[str, ...],
    quick: bool,  # noqa: FBT001
    again: bool,  # noqa: FBT001
    device: str,
) -> int:
    """Store objects again, smaller: finds lost adapters in merged weights.

    Without REF, those of all checkpoints. Each tensor is compared with those of its base, its parent and the step
    before, and with what adapters that are in the store by now would have made of them. Where merged weights differ
    from these by an adapter that is lost, it is found again, which takes seconds to minutes a tensor: --quick leaves
    that out. 'ckptfmt import --effort max' does the same at once.

    Every checkpoint comes back to the byte as before. Stopped with Ctrl-C, it goes on where it was; what was tried is
    not tried again without --again. New copies are written beside those that are there, which stay until gc runs: so
    more disk is used at first.
    """
    with session.store() as store, session.progress() as progress:
        report = store.optimize(refs, recovery=not quick, again=again, device=device, progress=progress)
    problems = [problem_of_part(part) for part in report.failed]
    session.give(report, lambda: lines(report))
    if not session.as_json:
        for problem in problems:
            print_problem(problem)
    if report.after_bytes < report.before_bytes:
        session.note("the copies that were there stay until gc takes them away")
    return max((problem.exit_code for problem in problems), default=0)


def lines(report: OptimizeReport) -> list[Line]:
    """What each checkpoint takes now."""
    rows = [
        (
            each.ref,
            size(each.before_bytes),
            size(each.after_bytes),
            ratio(each.before_bytes, each.after_bytes),
            f"{each.smaller} of {each.tried}" if each.tried else "",
            str(each.recovered) if each.recovered else "",
        )
        for each in report.checkpoints
    ]
    header = ("REF", "BEFORE", "AFTER", "RATIO", "SMALLER", "RECOVERED")
    told: list[Line] = [*table(header, rows, right=header[1:])]
    before, after = report.before_bytes, report.after_bytes
    others = sum(len(each.also) for each in report.checkpoints)
    more = f" ({count(others, 'other name')} of the same)" if others else ""
    saved = f"{size(before - after)} saved" if after < before else "nothing saved"
    told.append(f"{count(len(rows), 'checkpoint')}{more}: {size(before)} -> {size(after)}, {saved}")
    return told
