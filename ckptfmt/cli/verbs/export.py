"""`ckptfmt export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import BASE, REF, verb
from ckptfmt.wording import count

if TYPE_CHECKING:
    from ckptfmt.api.results import ConvertReport

EXAMPLE = """\
ckptfmt export runs/nano ./nano-hf --format hf
ckptfmt export runs/full ./full-adapter --format peft --tolerance exact
ckptfmt export runs/exp1/checkpoint-500 ./adapter --format peft"""

TOLERANCE_HELP = (
    "How exact a factorization is to be: the relative Frobenius error of an update beyond what rounding hides, or "
    "exact: merging back gives the same bits.  [default: 0.001]"
)


@verb("export", example=EXAMPLE)
@click.argument("ref", type=REF)
@click.argument("out", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["hf", "peft", "universal"]), required=True, help="What is written."
)
@click.option(
    "--base", type=BASE, metavar="NAME", help="Factor against this base, where the checkpoint is bound to none."
)
@click.option("--adapter", metavar="NAME", help="Which of several adapters.")
@click.option("--tolerance", metavar="NUMBER|exact", help=TOLERANCE_HELP)
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    ref: str,
    out: str,
    form: Literal["hf", "peft", "universal"],
    base: str | None,
    adapter: str | None,
    tolerance: str | None,
) -> None:
    """Convert a checkpoint: Hugging Face, PEFT or universal.

    OUT must not exist or be empty; it appears whole.

    A full model becomes hf or universal by a named key map, tensor by tensor. A full model becomes peft by
    factorization against its base: the smallest ranks that reach --tolerance; modules that are no low-rank updates
    are kept whole, and the result says how exact merging it back is. An adapter becomes peft as its own files; to hf
    or universal it is merged, with the checks of ckptfmt merge.
    """
    with session.store() as store, session.progress() as progress:
        report = store.export(ref, out, format=form, base=base, adapter=adapter, tolerance=tolerance, progress=progress)
    session.give(report, lambda: lines(report))


def lines(report: ConvertReport) -> list[Line]:
    """What was written, how exact it is, and against which base."""
    told: list[Line] = [f"{report.out}: {report.format}, {count(len(report.files), 'file')}"]
    if report.key_map:
        told.append(f"  key map   {report.key_map}")
    if report.rank is not None:
        told.append(f"  rank      {report.rank} at most, {count(len(report.saved_whole), 'module')} kept whole")
        told.append(_exactness(report))
    if report.base_root:
        told.append(f"  base      {report.base}  root {report.base_root[:16]}  {report.binding}")
    return told + [f"  note      {note}" for note in report.notes]


def _exactness(report: ConvertReport) -> Line:
    if report.exact:
        return Styled("  exact     merged back it is the same model, bit for bit", "green")
    return (
        f"  exact     no: merged back, {count(report.elements_differing or 0, 'element')} have other bits; "
        f"the largest error of a tensor is {report.max_relative_error or 0:.2g} of its update"
    )
