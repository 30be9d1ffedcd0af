"""`ckptfmt merge`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import click

from ckptfmt.cli.output import Line
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb
from ckptfmt.errors import InvalidInput
from ckptfmt.wording import count, size

if TYPE_CHECKING:
    from ckptfmt.api.results import MergeReport

EXAMPLE = """\
ckptfmt merge runs/exp1/stage-6 ./stage-6-merged
ckptfmt merge runs/exp1/stage-6 ./stage-6-fp16 --dtype fp16
ckptfmt merge runs/nano ./nano-merged --format universal
ckptfmt merge moe/checkpoint-1000 ./expert-0 --adapter expert_0
ckptfmt merge runs/a ./mixed --adapter style=0.7 --adapter facts=0.3"""


class Weighted(click.ParamType[tuple[str, float]]):
    """`NAME` or `NAME=WEIGHT`."""

    name = "adapter"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Parse `style=0.7`."""
        name, given, weight = str(value).partition("=")
        try:
            found = float(weight) if given else 1.0
        except ValueError:
            found = math.nan
        if not name or not math.isfinite(found):
            self.fail(f"{value!r}: the weight is a number, as in {name or 'style'}=0.7", param, ctx)
        return name, found


@verb("merge", example=EXAMPLE)
@click.argument("ref", type=REF)
@click.argument("out", type=click.Path())
@click.option(
    "--format",
    "form",
    type=click.Choice(["hf", "universal"]),
    default="hf",
    show_default=True,
    help="A Hugging Face directory, or a directory with a universal ckpt.pt.",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "bf16", "fp16", "fp32"]),
    default="keep",
    show_default=True,
    help="What the base is cast to before it is merged.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to compute."
)
@click.option(
    "--how",
    type=click.Choice(["continue", "stack", "resume", "parent-only"]),
    help="How stages go on from each other, where they do not say.",
)
@click.option(
    "--adapter", "adapters", type=Weighted(), multiple=True, metavar="NAME[=WEIGHT]", help="Which adapter; repeatable."
)
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    ref: str,
    out: str,
    form: Literal["hf", "universal"],
    dtype: Literal["keep", "bf16", "fp16", "fp32"],
    device: Literal["cpu", "cuda"],
    how: Literal["continue", "stack", "resume", "parent-only"] | None,
    adapters: tuple[tuple[str, float], ...],
) -> None:
    """Merge base and adapters along the lineage into one model.

    OUT must not exist or be empty. It appears whole, and only after every tensor of the base was compared with what
    was recorded of it. On a CPU the bits are those of PEFT's merge_and_unload.

    Stages go on from each other as their imports said: continue (a new adapter on the merged parent), stack (a new
    adapter beside the parent's), resume (the parent's adapter trained further), parent-only (a new adapter on the base
    merged with the parent's own adapter and none before it).
    """
    twice = next((name for at, (name, _) in enumerate(adapters) if name in dict(adapters[:at])), None)
    if twice is not None:
        raise InvalidInput(f"--adapter {twice} is given twice", hint=f"--adapter {twice}=WEIGHT, once")
    with session.store() as store, session.progress() as progress:
        report = store.merge(
            ref,
            out,
            format=form,
            dtype=dtype,
            device=device,
            how=how,
            adapters=dict(adapters) or None,
            progress=progress,
        )
    session.give(report, lambda: lines(report))


def lines(report: MergeReport) -> list[Line]:
    """What was merged onto what, and where it lies."""
    told: list[Line] = [
        f"{report.out}: {size(report.bytes)} in {report.seconds:.1f} s, "
        f"{count(report.tensors_changed, 'tensor')} changed",
        f"  base      {report.base}  root {report.base_root[:16]}  {report.binding}: {report.evidence}",
        f"  stages    {report.stages}, {count(len(report.adapters), 'adapter')} merged",
        f"  root      {report.root}",
    ]
    if report.trained_on:
        told.append(f"  note      trained on {report.trained_on!r}, merged onto {report.base!r}")
    return told + [f"  note      {note}" for note in report.notes]
