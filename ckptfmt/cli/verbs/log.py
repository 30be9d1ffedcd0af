"""`ckptfmt log`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import metrics, short

if TYPE_CHECKING:
    from ckptfmt.api.results import LineageStep, Log
    from ckptfmt.format.refs import Generation


@verb("log", example="ckptfmt log runs/exp1/stage-2")
@click.argument("ref", type=REF)
def command(session: Session, ref: str) -> None:
    """Show a checkpoint's lineage, and the earlier generations of its name."""
    with session.store() as store:
        log = store.log(ref)
    session.give(log, lambda: lines(log))


def lines(log: Log) -> list[Line]:
    """The lineage, itself first, and the generations, newest first."""
    told: list[Line] = []
    if log.lineage:  # There is none of a name that was dropped.
        told.append(Styled("lineage", "bold"))
        told += table(
            ("MANIFEST", "REF", "LAYOUT", "STAGE", "HOW", "STEP", "METRICS"),
            [_step(step) for step in log.lineage],
            right=("STAGE", "STEP"),
            indent="  ",
        )
    if log.generations:
        told += [""] if told else []
        told += [Styled(f"generations of {log.generations[0].name}", "bold")]
        told += table(
            ("GENERATION", "TIME", "VERB", "MANIFEST", "HOST", "LABELS", "MESSAGE"),
            [_generation(generation) for generation in log.generations],
            indent="  ",
        )
    return told


def _step(step: LineageStep) -> tuple[str, ...]:
    lineage = step.lineage
    how = " in ".join(filter(None, (lineage.how, lineage.dtype))) if lineage else ""
    return (
        short(step.manifest),
        ", ".join(step.refs),
        step.layout,
        str(lineage.stage) if lineage and lineage.stage is not None else "",
        how,
        "" if step.step is None else str(step.step),
        metrics(step.metrics),
    )


def _generation(generation: Generation) -> tuple[str, ...]:
    labels = ["pinned", *generation.labels] if generation.pinned else list(generation.labels)
    return (
        f"@{generation.number}",
        generation.time,
        generation.verb,
        short(generation.target) if generation.target else "dropped",
        generation.host,
        ", ".join(labels),
        generation.message or "",
    )
