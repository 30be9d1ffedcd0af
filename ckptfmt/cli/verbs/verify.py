"""`ckptfmt verify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb
from ckptfmt.errors import EXIT_CODES, InvalidInput
from ckptfmt.format.refs import BASES
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api.results import Damage, VerifyReport


class Subset(click.ParamType[tuple[int, int]]):
    """`n/t`: the n-th of t parts."""

    name = "n/t"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse `2/7`."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= part <= parts:
            self.fail(f"{value!r} is no part of a whole: give n/t with 1 <= n <= t, as in 2/7", param, ctx)
        return part, parts


@verb("verify", example="ckptfmt verify --all\nckptfmt verify runs/exp1/stage-2\nckptfmt verify --all --subset 2/7")
@click.argument("refs", nargs=-1, metavar="[REF]...", type=REF)
@click.option("--all", "everything", is_flag=True, help="Every object of the store.")
@click.option("--subset", type=Subset(), metavar="N/T", help="Only the N-th of T parts of the objects.")
def command(
    session: Session,
    refs: tuple[str, ...],
    everything: bool,  # noqa: FBT001
    subset: tuple[int, int] | None,
) -> int:
    """Decode every object and compare digests.

    Names each damaged object and every checkpoint that it harms, and ends with 3 if there is one. A part of the
    objects each night, with --subset, is all of them in T nights.
    """
    if everything == bool(refs):
        raise InvalidInput("name checkpoints to verify, or --all", hint="ckptfmt verify --all")
    with session.store() as store, session.progress() as progress:
        report = store.verify(refs, subset=subset, progress=progress)
    session.give(report, lambda: lines(report))
    return EXIT_CODES["damaged"] if report.damaged else 0


def lines(report: VerifyReport) -> list[Line]:
    """What is damaged and whom it harms, then what was looked at."""
    told: list[Line] = []
    by_problem: dict[str, list[Damage]] = {}
    for damage in report.damaged:
        by_problem.setdefault(damage.problem, []).append(damage)
    for problem, damages in by_problem.items():
        # A base that is away is one matter, however many objects lie there.
        what = f"object {damages[0].object}" if len(damages) == 1 else f"{len(damages):,} objects, which --json names"
        told += [Styled(f"damaged: {what}", "red"), f"  {problem}"]
        names = sorted({name for damage in damages for name in damage.checkpoints})
        told += [f"  harms {name}" for name in names] or ["  harms no checkpoint"]
    looked = f"{count(report.objects, 'object')}, {size(report.bytes)} decoded"
    if not report.damaged:
        return [Styled(f"{looked}, all sound", "green")]
    harmed = {name for damage in report.damaged for name in damage.checkpoints}
    bases = sum(name.startswith(BASES) for name in harmed)
    who = count(len(harmed) - bases, "checkpoint") + (f" and {count(bases, 'base')}" if bases else "")
    return [*told, f"{looked}; {len(report.damaged)} damaged, {who} harmed"]
