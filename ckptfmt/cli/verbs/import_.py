"""`ckptfmt import`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Unpack

import click

from ckptfmt.cli.describe import base_of, legend, shrunk
from ckptfmt.cli.errors import print_problem
from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import table
from ckptfmt.cli.verb import BASE, REF, verb
from ckptfmt.problems import Problem
from ckptfmt.wording import count, few, ratio, size

if TYPE_CHECKING:
    from ckptfmt.api.options import ImportOptions
    from ckptfmt.api.results import CheckpointReport, FailedPart, ImportPlan, ImportReport

_MOST_LEFT: Final = 10

EXAMPLE = """\
ckptfmt import ./results/run_000 --name sweep/run_000 --base llama-3.1-8b
ckptfmt import ./results --name 'sweep/{name}' --dry-run
ckptfmt import ./merged --name sweep/run_001 --base llama-3.1-8b --adapter ./run_001-adapter
ckptfmt import ./stage-2 --name runs/exp1/stage-2 --parent runs/exp1/stage-1 --how continue"""


@verb("import", example=EXAMPLE)
@click.argument("path", type=click.Path())
@click.option("--name", required=True, metavar="REF", help="The name to give it; {name} is the path below PATH.")
@click.option("--base", type=BASE, metavar="NAME", help="The base it was made from. [default: see above]")
@click.option("--adapter", type=click.Path(), metavar="PATH", help="An adapter elsewhere that was merged into it.")
@click.option("--parent", type=REF, metavar="REF", help="The checkpoint it was trained from.")
@click.option("--stage", type=click.IntRange(min=0), help="Its number in a lineage. [default: what its name says]")
@click.option(
    "--how", type=click.Choice(["continue", "stack", "resume", "parent-only"]), help="How it goes on from its parent."
)
@click.option(
    "--stage-dtype", type=click.Choice(["bf16", "fp16", "fp32"]), help="What the weights were held in between stages."
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "max"]),
    default="balanced",
    show_default=True,
    help="How much time to spend on making it small.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Threads that encode. [default: one a processor]")
@click.option("--damaged-as-opaque", is_flag=True, help="Keep a damaged file byte for byte, marked, and do not fail.")
@click.option("--message", metavar="TEXT", help="A line for the log.")
@click.option("--dry-run", is_flag=True, help="Show what would be taken, and take nothing.")
def command(
    session: Session,
    path: str,
    name: str,
    dry_run: bool,  # noqa: FBT001
    **options: Unpack[ImportOptions],
) -> int:
    """Take checkpoints into the store.

    PATH is a file or a directory: one checkpoint, or many, each under a name made from --name. Stage directories are
    linked by their numbers. Files that the store has already cost nothing.

    --effort fast stores again nothing that is there, and writes large tensors as they are. balanced also compresses
    them, or stores only how they differ from the base, the parent or the step before, and weights into which a known
    adapter was merged as just that. max then looks for adapters that are lost in merged weights, as 'ckptfmt optimize'
    does: seconds to minutes a tensor. Whatever it was, every file comes back to the byte.

    Adapters are known that lie in the same checkpoint, at --adapter, or in the store: take them in first. Of many
    checkpoints, adapters are taken in before the weights that they may have been merged into. Without --base, tensors
    are stored against the likeliest of the models that the store knows, and the output says which one and why; the
    checkpoint is bound to a base only by --base. What is stored against a base needs that base's files until 'ckptfmt
    base keep' has copied them in: such checkpoints are marked '*'.

    --how says what a stage was trained on: continue (its parent, merged), stack (its parent with the adapter left
    beside), resume (its parent's adapter trained further), parent-only (the base merged with its parent's own adapter
    and none before it).
    """
    with session.store() as store:
        if dry_run:
            plan = store.plan_import(path, name=name, parent=options.get("parent"), stage=options.get("stage"))
            session.give(plan, lambda: plan_lines(plan))
            return 0

        many, refs = 1, list[str]()

        def tell(plan: ImportPlan) -> None:
            nonlocal many
            many = len(plan.checkpoints)
            if many > 1:
                session.note(*plan_lines(plan), "")

        try:
            with session.progress() as progress:
                report = store.import_path(
                    path,
                    name=name,
                    planned=tell,
                    saved=lambda each: refs.append(each.ref),
                    progress=progress,
                    **options,
                )
        except BaseException:
            if many > 1:  # What is in stays in, whatever stopped the rest.
                session.note(f"{len(refs):,} of {count(many, 'checkpoint')} taken in{': ' * bool(refs)}{few(refs, 5)}")
            raise
    problems = [problem_of_part(part) for part in report.failed]
    worst = max(problems, key=lambda problem: problem.exit_code, default=None)
    session.give(_document(report, worst), lambda: report_lines(report))
    if not session.as_json:
        for problem in problems:
            print_problem(problem)
    session.note(*legend(each.needs_base for each in report.checkpoints))
    session.note(*(f"note: {note}" for note in report.notes))
    for each in report.checkpoints:
        if each.replaced is not None:
            session.note(
                f"{each.ref}: named another checkpoint until now; "
                f"'ckptfmt rollback {each.ref}@{each.replaced}' returns to it"
            )
        if each.forecast is not None:
            seen = each.forecast
            session.note(
                f"{each.ref}: {count(seen.tensors, 'tensor')} look merged with a lost adapter of rank {seen.rank}; "
                f"'ckptfmt optimize {each.ref}' would save about {size(seen.saved_bytes)}"
            )
        if each.copy_of is not None:
            session.note(f"{each.ref}: an exact copy of base {each.copy_of!r}: every tensor is the same")
        elif each.found is not None:
            session.note(f"{each.ref}: stored against {each.found.name}, which nobody named: {each.found.why}")
    return worst.exit_code if worst else 0


def _document(report: ImportReport, worst: Problem | None) -> object:
    """The report; where a part failed, what an error document has too."""
    if worst is None:
        return report
    import msgspec

    return {**msgspec.to_builtins(report), "error": worst.as_document()}


def problem_of_part(part: FailedPart) -> Problem:
    """One checkpoint's failure, as it is told."""
    message = part.message if part.path in part.message else f"{part.path}: {part.message}"
    return Problem(part.code, message, part.hint, part.exit_code)


def plan_lines(plan: ImportPlan) -> list[Line]:
    """What an import would take, under which names, and what it would leave."""
    rows = [
        (
            os.path.relpath(each.path, plan.path) if each.path.startswith(f"{plan.path}/") else each.path,
            each.ref,
            each.layout,
            "" if each.stage is None else str(each.stage),
            each.parent or "",
        )
        for each in plan.checkpoints
    ]
    lines: list[Line] = [f"{count(len(rows), 'checkpoint')} in {plan.path}"]
    lines += table(("PATH", "REF", "LAYOUT", "STAGE", "PARENT"), rows, right=("STAGE",), indent="  ")
    return lines + left_lines(plan.left)


def left_lines(left: tuple[str, ...]) -> list[Line]:
    """Files that belong to no checkpoint."""
    if not left:
        return []
    lines: list[Line] = [f"{count(len(left), 'path')} not taken, part of no checkpoint:"]
    lines += [f"  {path}" for path in left[:_MOST_LEFT]]
    return [*lines, f"  and {len(left) - _MOST_LEFT} more"] if len(left) > _MOST_LEFT else lines


def report_lines(report: ImportReport) -> list[Line]:
    """One line a checkpoint with what is to be known about it below, then the total."""
    header = ("REF", "LAYOUT", "FILES", "LOGICAL", "NEW", "RATIO", "BASE")
    rows = [
        (
            each.ref,
            each.layout,
            f"{each.files:,}",
            size(each.logical_bytes),
            size(each.new_bytes),
            ratio(each.logical_bytes, each.new_bytes),
            base_of(each),
        )
        for each in report.checkpoints
    ]
    drawn = table(header, rows, right=header[2:6])
    lines = drawn[:1]
    for each, line in zip(report.checkpoints, drawn[1:], strict=True):
        lines += [line, *_remarks(each)]
    if len(report.checkpoints) + len(report.failed) == 1:  # Of several, the plan has told it.
        lines += left_lines(report.left)
    return [*lines, _total(report)]


def _remarks(each: CheckpointReport) -> list[Line]:
    remarks: list[Line] = [
        f"    whole: {file.path}: {file.reason}" for file in each.opaque if not _is_told(file.path, each.notes)
    ]
    return remarks + [f"    note: {note}" for note in each.notes]


def _is_told(path: str, notes: tuple[str, ...]) -> bool:
    return any(note.startswith(f"{path}:") for note in notes)


def _total(report: ImportReport) -> Line:
    told = f"{count(len(report.checkpoints), 'checkpoint')}: {shrunk(report.logical_bytes, report.new_bytes)}"
    saved = report.logical_bytes - report.new_bytes
    if saved > 0:
        told += f", {size(saved)} saved"
    if report.failed:
        return Styled(f"{told}; {len(report.failed)} failed", "red")
    return Styled(told, "green")
