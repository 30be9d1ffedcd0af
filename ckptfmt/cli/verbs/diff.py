"""`ckptfmt diff`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from ckptfmt.api import diff_words
from ckptfmt.cli import diff_tables
from ckptfmt.cli.output import Line, Styled, width_of
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import facts
from ckptfmt.cli.verb import REF, verb
from ckptfmt.wording import short, size

if TYPE_CHECKING:
    from ckptfmt.api.results_diff import DiffReport, DiffSide, ValueChanges

_DIFFERENT_EXIT: Final = 4

EXAMPLE: Final = """\
ckptfmt diff runs/exp1/stage-1 runs/exp1/stage-2
ckptfmt diff runs/exp1@1 runs/exp1@2 --top 30
ckptfmt diff bases/llama-3.1-8b ./merged
ckptfmt diff ./checkpoint-100 ./checkpoint-200 --exit-code"""


@verb("diff", example=EXAMPLE)
@click.argument("a", type=REF)
@click.argument("b", type=REF)
@click.option("--exit-code", is_flag=True, help="End with 4 where differences were found.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="Rows of a table.")
@click.option("--all", "everything", is_flag=True, help="All rows of all tables.")
@click.option("--no-rank", is_flag=True, help="Leave the ranks of changed tensors out: a little quicker.")
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    a: str,
    b: str,
    exit_code: bool,  # noqa: FBT001
    top: int,
    everything: bool,  # noqa: FBT001
    no_rank: bool,  # noqa: FBT001
) -> int:
    """Compare two checkpoints: files, tensors, adapters, settings, metrics.

    A and B are refs (also name@3, or the beginning of a manifest's id), bases (bases/NAME), or paths of checkpoints
    that no store holds: those begin with '/', './' or '../'. Two paths need no store.

    Tensors of the same digest are not read. Of the others: CHANGE is ||B - A|| / ||A||, COSINE the cosine between
    both, LARGEST the largest change of an element, ELEMENTS and BITS the shares of these that differ, RANK the
    effective rank of B - A: 1 for a change of rank one, about k where k directions changed alike ('~': estimated).

    LoRA adapters are compared as what they add to the model: R are the ranks of their factors in A and B, RANKS the
    effective ranks of what they add. Other adapters are compared tensor by tensor. In the table of layers and modules,
    '.' stands for no change.
    """
    from ckptfmt.api.diffing import diff, is_path

    paths = is_path(a) and is_path(b) and session.stated_store is None
    if paths:
        with session.progress() as progress:
            report = diff(None, a, b, ranks=not no_rank, progress=progress)
    else:
        with session.store() as store, session.progress() as progress:
            report = store.diff(a, b, ranks=not no_rank, progress=progress)
    width = width_of(sys.stdout)
    session.give(report, lambda: lines(report, width=width, most=None if everything else top))
    return _DIFFERENT_EXIT if exit_code and not report.summary.identical else 0


def lines(report: DiffReport, *, width: int | None = None, most: int | None = None) -> list[Line]:
    """The comparison for people.

    Args:
        report: what was found.
        width: columns of the terminal; None: lines may be as long as they are.
        most: rows of each table; None: all.
    """
    told: list[Line] = [*_side("A", report.a), *_side("B", report.b), ""]
    told += facts(
        [
            ("lineage", report.summary.lineage or ""),
            ("base", _bases(report)),
            ("files", _counts(report.files.added, report.files.removed, report.files.changed, report.files.same)),
            ("tensors", _tensors(report)),
            ("settings", _values(report.settings)),
            ("metrics", _values(report.metrics)),
        ]
    )
    told += [Styled(f"note: {note}", "yellow") for note in report.summary.notes]
    if report.summary.identical:
        return [*told, Styled("no differences", "green")]
    tensors = diff_words.without_factors(report)
    for part in (
        diff_tables.file_lines(report.files, width, most),
        diff_tables.adapter_lines(report.adapters, width, most),
        diff_tables.tensor_lines(tensors, width, most),
        diff_tables.only_lines(tensors, width, most) if report.summary.comparable else [],
        diff_tables.layer_lines(report.summary, width, most),
        diff_tables.value_lines("Settings", report.settings, width, most),
        diff_tables.value_lines("Metrics", report.metrics, width, most),
    ):
        told += ["", *part] if part else []
    return told


def _side(label: str, side: DiffSide) -> list[Line]:
    known = [
        side.layout,
        f"base {side.base} ({side.binding})" if side.base else "",
        "" if side.stage is None else f"stage {side.stage}",
        "" if side.step is None else f"step {side.step}",
        size(side.logical_bytes),
        short(side.manifest),
    ]
    return [Styled(f"{label}  {side.name}", "bold"), f"   {', '.join(each for each in known if each)}"]


def _bases(report: DiffReport) -> str:
    a, b, same = report.a, report.b, report.summary.same_base
    if same is None:
        return ""
    if same:
        return f"the same: {a.base}" + (f", called {b.base} by B" if b.base != a.base else "")
    return f"different ones: {a.base} (root {short(a.base_root or '')}), {b.base} (root {short(b.base_root or '')})"


def _counts(added: tuple[object, ...], removed: tuple[object, ...], changed: tuple[object, ...], same: int) -> str:
    parts = {"added": len(added), "removed": len(removed), "changed": len(changed), "same": same}
    return ", ".join(f"{number:,} {word}" for word, number in parts.items() if number) or "none"


def _values(found: ValueChanges) -> str:
    said = _counts(found.added, found.removed, found.changed, found.same)
    return "" if said == "none" else said


def _tensors(report: DiffReport) -> str:
    found, summary = report.tensors, report.summary
    parts = {
        "added": len(found.added),
        "removed": len(found.removed),
        "reshaped": len(found.reshaped),
        "changed": len(found.changed),
        "same": found.same,
    }
    said = ", ".join(f"{number:,} {word}" for word, number in parts.items() if number) or "none"
    if summary.retyped:
        said += f"; {summary.retyped:,} of another dtype in B"
    change = diff_words.number(summary.relative_norm)
    return said + (f"; change {change}" if change and found.changed else "")
