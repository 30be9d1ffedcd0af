"""The verbs that take checkpoints in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, get_args

from msgspec import structs

from ckptfmt.api.optimizing import foresee, optimize
from ckptfmt.api.options import ImportOptions
from ckptfmt.api.results import (
    CheckpointReport,
    FailedPart,
    Found,
    ImportPlan,
    ImportReport,
    OpaqueFile,
    PlannedCheckpoint,
)
from ckptfmt.api.shared import copy_of, encodings_of, is_kept, needs_base
from ckptfmt.encodings.protocol import Effort
from ckptfmt.errors import BaseMismatch, CkptfmtError, InvalidInput
from ckptfmt.format.manifest import How, Manifest, logical_bytes, objects_of
from ckptfmt.progress import Numbered, Progress
from ckptfmt.store.bases import Base, find_base
from ckptfmt.store.graph import remembering
from ckptfmt.store.store import Store
from ckptfmt.transfer.bases import base_place, check_base
from ckptfmt.transfer.fitting import stranger
from ckptfmt.transfer.importing import Imported, Options, import_walked
from ckptfmt.transfer.ordering import nearest, work_order
from ckptfmt.transfer.planning import Plan, Planned, plan_import
from ckptfmt.transfer.references import MOST_NEAR
from ckptfmt.wording import few

EFFORTS: Final[tuple[str, ...]] = get_args(Effort)
HOWS: Final[tuple[str, ...]] = get_args(How)
STAGE_DTYPES: Final = ("bf16", "fp16", "fp32")


def describe_plan(plan: Plan, parent: str | None, stage: int | None) -> ImportPlan:
    """A plan as front ends show it."""
    return ImportPlan(
        path=plan.path,
        checkpoints=tuple(
            PlannedCheckpoint(
                path=each.source,
                files=tuple(sorted(each.walked.chosen)) if each.walked.chosen is not None else None,
                ref=each.ref,
                layout=each.layout,
                stage=each.stage if stage is None else stage,
                parent=each.parent or parent,
            )
            for each in plan.checkpoints
        ),
        left=plan.left,
    )


def make_options(store: Store, said: ImportOptions, progress: Progress) -> Options:
    """Check the words of a caller, and the base's files, before any work.

    Raises:
        InvalidInput: a word that is none of those allowed.
        NotFound: no such base or parent.
        BaseMismatch: the base's files are gone, or are not what was recorded.
    """
    base, parent, adapter = said.get("base"), said.get("parent"), said.get("adapter")
    how, dtype, effort = said.get("how"), said.get("stage_dtype"), said.get("effort", "balanced")
    for value, allowed, option in (
        (effort, EFFORTS, "effort"),
        (how, HOWS, "how"),
        (dtype, STAGE_DTYPES, "stage-dtype"),
    ):
        if value is not None and value not in allowed:
            raise InvalidInput(f"--{option}: {value!r} is none of {', '.join(allowed)}")
    found = find_base(store, base) if base else None
    if found is not None:
        _check_base(store, found, progress)
    return Options(
        base=found,
        parent=store.resolve(parent)[0] if parent else None,
        stage=said.get("stage"),
        how=how,
        dtype=dtype,
        adapter=os.fspath(adapter) if adapter is not None else None,
        effort=effort,
        jobs=said.get("jobs") or os.cpu_count() or 1,
        damaged_as_opaque=said.get("damaged_as_opaque", False),
        message=said.get("message"),
    )


def _check_base(store: Store, base: Base, progress: Progress) -> None:
    """A base that is only referenced is looked at before anything relies on it."""
    if is_kept(store, base.digest):
        return
    mismatched = check_base(store, base, base_place(store, base), full=False, progress=progress).mismatched
    if mismatched:
        raise BaseMismatch(
            f"base {base.name!r} is not what was recorded: {few(mismatched, 5)} differ",
            tensors=mismatched,
            hint=f"ckptfmt base verify {base.name}",
        )


def execute_plan(
    store: Store,
    plan: Plan,
    said: ImportOptions,
    progress: Progress,
    saved: Callable[[CheckpointReport], None] | None = None,
) -> ImportReport:
    """Take in every checkpoint of a plan; one that fails does not keep the others from being taken.

    What others may be stored against is taken first; the report has the order of the plan. `saved` is told of each one
    as soon as it is.

    Raises:
        InvalidInput: `how` is stated, and no checkpoint has a parent that it could be said of.
        CkptfmtError: the only one of a plan failed.
    """
    options = make_options(store, said, progress)
    if options.how and options.parent is None and not any(each.parent for each in plan.checkpoints):
        raise InvalidInput("--how says how a checkpoint goes on from its --parent: give that too")
    taken: dict[str, CheckpointReport] = {}
    missed: dict[str, FailedPart] = {}
    adapters: dict[str, str] = {}
    unstated: set[str] = set()
    for number, each in enumerate(work_order(plan.checkpoints), 1):
        told = Numbered(progress, number, len(plan.checkpoints))
        near = tuple((ref, adapters[ref]) for ref in nearest(each.ref, list(adapters), MOST_NEAR))
        try:
            imported = _import_one(store, each, replace(options, near=near), taken, told)
        except CkptfmtError as error:
            if len(plan.checkpoints) == 1:
                raise
            missed[each.ref] = FailedPart(each.source, each.ref, error.code, error.message, error.hint, error.exit_code)
            continue
        if imported.manifest.adapters:
            adapters[each.ref] = imported.digest
        if _goes_on_somehow(imported.manifest):
            unstated.add(each.ref)
        taken[each.ref] = _improved(store, imported, options, told)
        if saved is not None:
            saved(taken[each.ref])
    reports = [taken[each.ref] for each in plan.checkpoints if each.ref in taken]
    failed = [missed[each.ref] for each in plan.checkpoints if each.ref in missed]
    return ImportReport(
        logical_bytes=sum(report.logical_bytes for report in reports),
        new_bytes=sum(report.new_bytes for report in reports),
        checkpoints=tuple(reports),
        failed=tuple(failed),
        left=plan.left,
        notes=tuple(_unstated(plan, [report.ref for report in reports if report.ref in unstated], said)),
    )


def _unstated(plan: Plan, going: Sequence[str], said: ImportOptions) -> Iterator[str]:
    """What a later merge needs to know of stages that go on from others, and the command that says it."""
    if not going:
        return
    words = ["ckptfmt", "import", plan.path, "--name", plan.name]
    for option in ("base", "parent", "stage", "stage_dtype"):
        value = said.get(option)
        words += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    words += ["--damaged-as-opaque"] if said.get("damaged_as_opaque") else []
    yield (
        f"{few(going)}: linked to the stage before, but not how it goes on from it, which a merge has to know: "
        f"{shlex.join([*words, '--how'])} continue  (or stack, resume, parent-only: see --help)"
    )


def _goes_on_somehow(manifest: Manifest) -> bool:
    """Whether it has an adapter and a parent, and nothing says what the adapter was trained on."""
    lineage = manifest.lineage
    return bool(manifest.adapters) and lineage is not None and lineage.parent is not None and lineage.how is None


def _improved(store: Store, imported: Imported, options: Options, progress: Progress) -> CheckpointReport:
    """What an import came to, after what its effort and its adapters ask for beyond it."""
    search = options.effort == "max" and bool(imported.new)
    notes: tuple[str, ...] = ()
    saved = 0
    if search or imported.given:
        done = optimize(
            store, [imported.ref], recovery=search, again=False, device="cpu", progress=progress, given=imported.given
        )
        saved = done.before_bytes - done.after_bytes
        if saved:
            notes += ("the copies from before it was stored again stay until gc takes them away",)
    report = describe_import(store, imported)
    if options.base is not None and (odd := stranger(imported.manifest, options.base.record, options.base.name)):
        notes += (odd,)
    if imported.given and "lowrank" not in report.encodings:
        notes += (f"--adapter {options.adapter}: nothing was stored against it; it was not merged into this",)
    return structs.replace(report, notes=(*report.notes, *notes), new_bytes=max(0, report.new_bytes - saved))


def _import_one(
    store: Store, planned: Planned, options: Options, taken: Mapping[str, CheckpointReport], progress: Progress
) -> Imported:
    if planned.parent is not None and options.parent is None:
        if planned.parent not in taken:
            raise InvalidInput(
                f"{planned.source}: the stage before it, {planned.parent!r}, was not taken in",
                hint=f"ckptfmt import {shlex.quote(planned.source)} --name {planned.ref}",
            )
        options = replace(options, parent=taken[planned.parent].manifest)
    if options.stage is None:
        options = replace(options, stage=planned.stage)
    return import_walked(store, planned.walked, planned.ref, source=planned.source, options=options, progress=progress)


def describe_import(store: Store, imported: Imported) -> CheckpointReport:
    """An import as front ends show it."""
    manifest = imported.manifest
    copies_of = remembering(store.catalog().find_many)
    return CheckpointReport(
        ref=imported.ref,
        generation=imported.generation,
        manifest=imported.digest,
        layout=manifest.layout,
        base=manifest.base.name if manifest.base else None,
        binding=manifest.base.binding if manifest.base else "none",
        needs_base=needs_base(store, manifest, copies_of=copies_of),
        files=len(manifest.files),
        tensors=len(manifest.tensors),
        opaque=tuple(OpaqueFile(file.path, file.reason) for file in manifest.files if file.reason),
        notes=manifest.notes,
        logical_bytes=logical_bytes(manifest),
        new_bytes=imported.new_bytes,
        encodings=encodings_of(objects_of(manifest), copies_of),
        forecast=foresee(store, manifest) if imported.new else None,
        found=Found(imported.likely.name, imported.likely.why) if imported.likely is not None else None,
        copy_of=copy_of(store, manifest),
        replaced=imported.replaced,
    )


def plan(path: str, name: str, parent: str | None, stage: int | None) -> Plan:
    """Find and name the checkpoints at or below `path`.

    Raises:
        InvalidInput: there are many, and a parent or stage is given that can be that of one only.
    """
    found = plan_import(path, name)
    if len(found.checkpoints) > 1 and (parent is not None or stage is not None):
        raise InvalidInput(
            f"{found.path} holds {len(found.checkpoints)} checkpoints: --parent and --stage go with one",
            hint="import them one at a time, or let stages be linked by the numbers in their names",
        )
    return found
