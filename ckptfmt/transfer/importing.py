"""Importing: a walked directory becomes a manifest, and its ref."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from ckptfmt.encodings.protocol import Effort
from ckptfmt.errors import InvalidInput
from ckptfmt.format.manifest import BaseLink, BaseRecord, How, Lineage, Manifest, objects_of
from ckptfmt.format.refs import Generation
from ckptfmt.layouts.protocol import Reading
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.bases import Base
from ckptfmt.store.outside import files_of
from ckptfmt.store.publish import publish
from ckptfmt.store.refs import draft, replaced_by
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import STATED, Content, attributes_of, bind, build_manifest, touched_leaves
from ckptfmt.transfer.likely import Likely, find_likely
from ckptfmt.transfer.planning import plan_import
from ckptfmt.transfer.predicting import Known, one_after_another
from ckptfmt.transfer.reading import LYING_HINT, read_walked, take_content
from ckptfmt.transfer.recent import Recent
from ckptfmt.transfer.references import Like, References, Subject, adapters_of, ancestors, incoming, like_of
from ckptfmt.transfer.walk import Walked, same_still
from ckptfmt.transfer.writing import Written, storing

_LYING_HINT: Final = f"{LYING_HINT}, or take it in as it is with --damaged-as-opaque"


@dataclass(frozen=True, slots=True)
class Options:
    """How to take a checkpoint in.

    Attributes:
        base: the base it was made from, if the user says so.
        evidence: how that is known, one of `EVIDENCE`; None where the user says it. It is then held against the
            checkpoint's own weights, and adapters are bound only where these prove it.
        parent: id of the manifest it was trained from.
        stage, how, dtype: its place in a chain of stages.
        adapter: path of an adapter that may have been merged into it.
        near: names and manifests of other checkpoints whose adapters may have been, the likeliest first.
        effort: how much to spend on smaller objects.
        jobs: threads that encode.
        damaged_as_opaque: keep structurally lying files whole instead of refusing the checkpoint.
        message: goes into the ref's generation.
    """

    base: Base | None = None
    evidence: str | None = None
    parent: str | None = None
    stage: int | None = None
    how: How | None = None
    dtype: str | None = None
    adapter: str | None = None
    near: tuple[tuple[str, str], ...] = ()
    effort: Effort = "balanced"
    jobs: int = 2
    damaged_as_opaque: bool = False
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """A checkpoint in the store.

    Attributes:
        ref, generation: its name and that name's generation.
        digest: the manifest's id.
        manifest: what was made of it.
        likely: what it was stored against because it was probably made from that, though nobody said so.
        replaced: the generation that named another checkpoint until now; None where there is none.
        given: the adapters that were given and that nothing was stored against.
        new: digests of the objects that were written for it.
        new_bytes: bytes that its new shards and its new manifest take.
    """

    ref: str
    generation: int
    digest: str
    manifest: Manifest
    replaced: int | None
    new: tuple[str, ...]
    new_bytes: int
    likely: Likely | None = None
    given: tuple[Known, ...] = ()


def import_walked(
    store: Store, walked: Walked, ref: str, *, source: str, options: Options, progress: Progress
) -> Imported:
    """Take a walked directory into the store under the name `ref`.

    Args:
        store: where.
        walked: what, as it was looked at.
        ref: the name; a standing ref moves on to a new generation unless its content is the same.
        source: the path that was given, for base name and record.
        options: how.
        progress: told of each byte read.

    Raises:
        FormatError, UnsafeFile: a file lies; nothing of the checkpoint is stored.
        IntegrityError: the directory changed while it was read.
        StorageError: the disk is full, or refuses.
    """
    checkpoint = read_walked(
        walked, os.path.basename(source), damaged_as_opaque=options.damaged_as_opaque, lying_hint=_LYING_HINT
    )
    total = sum(entry.size for entry in walked.of_kind("file"))
    subject = replace(incoming(checkpoint), parent=options.parent)
    recent = Recent(store)
    likely = find_likely(recent, subject) if options.base is None and options.effort != "fast" else None
    outside = files_of(store, options.base) if options.base is not None else likely.outside if likely else None
    if options.base is not None:  # Before any work: a base that this adapter cannot be for.
        adapter = [tensor.name for tensor in checkpoint.reading.tensors if tensor.role == "adapter"]
        touched_leaves(options.base.record, adapter, options.base.name)
    written = Written(store)
    progress.begin(ref, total)
    with ThreadPoolExecutor(1, "sha256") as sha_pool, ThreadPoolExecutor(options.jobs, "encode") as pool:
        given = _take_adapter(store, options, written, sha_pool, pool) if options.adapter else []
        like = _like(recent, subject, ref, options, likely)
        references = References(store, subject, replace(like, adapters=(*given, *like.adapters)), outside)

        def take(vanished: frozenset[str]) -> Content:
            with storing(
                store,
                checkpoint,
                effort=options.effort,
                pool=pool,
                outside=outside,
                vanished=vanished,
                written=written,
                references=references,
            ) as sink:
                content = take_content(checkpoint, sink, sha_pool, progress)
                same_still(walked, walked.again())
                return content

        content = take(frozenset())
        base = _bind(options.base, options.evidence, content)
        manifest = build_manifest(checkpoint.reading, content, base=base, lineage=_lineage(options, checkpoint.reading))
        before: Generation | None = None

        def make(target: str, newest: Generation | None) -> Generation | None:
            nonlocal before
            before = newest
            return _generation(target, newest, walked, source, options)

        digest, generation = publish(store, manifest, ref, make, outside=outside, again=take)
    progress.end()
    return Imported(
        ref=ref,
        generation=generation.number if generation else 0,
        digest=digest,
        manifest=manifest,
        replaced=replaced_by(digest, before),
        new=tuple(written.objects),
        new_bytes=written.size,
        given=tuple(given) if given and not _used(given, written) else (),
        likely=likely if likely is not None and not written.against.isdisjoint(objects_of(likely.document)) else None,
    )


def _take_adapter(store: Store, options: Options, written: Written, sha_pool: Executor, pool: Executor) -> list[Known]:
    """Take in an adapter that may have been merged into the checkpoint: its tensors, for no name of their own.

    It may have been merged after the adapters of the stages before.

    Raises:
        InvalidInput: there is no adapter.
    """
    path = os.path.abspath(options.adapter or "")
    plan = plan_import(path, "adapter")
    checkpoint = read_walked(plan.checkpoints[0].walked, os.path.basename(path))
    if not checkpoint.reading.adapters:
        raise InvalidInput(f"--adapter {options.adapter}: no adapter lies there", hint="give an adapter's directory")
    with storing(store, checkpoint, effort=options.effort, pool=pool, written=written) as sink:
        content = take_content(checkpoint, sink, sha_pool, SILENT)
    manifest = build_manifest(checkpoint.reading, content, base=None, lineage=None)
    before = ancestors(store, options.parent)
    given = adapters_of(manifest, f"--adapter {options.adapter}")
    return [known for each in given for known in one_after_another(before, each)]


def _used(given: list[Known], written: Written) -> bool:
    """Whether something was stored against the adapters that were given."""
    factors = [each for known in given for each in known.updates.values()]
    digests = {held.digest for each in factors for held in (each.left, each.right)}
    return not digests.isdisjoint(written.against)


def _like(recent: Recent, subject: Subject, ref: str, options: Options, likely: Likely | None) -> Like:
    """Models and adapters that a checkpoint is likely to be made from."""
    if options.effort == "fast":
        return Like()
    first: list[BaseRecord | Manifest] = [options.base.record] if options.base is not None else []
    first += [likely.document] if likely is not None else []
    return like_of(recent, subject, ref, first, near=options.near)


def _bind(base: Base | None, evidence: str | None, content: Content) -> BaseLink | None:
    if base is None:
        return None
    evident = (evidence or STATED).format(base=base.name)
    link = bind(base.name, base.digest, base.record, content, evidence=evident)
    return link if evidence is None or not link.leaves or link.binding == "proven" else None


def _lineage(options: Options, reading: Reading) -> Lineage | None:
    stage = options.stage if options.stage is not None else reading.stage
    linked = options.parent is not None
    lineage = Lineage(
        parent=options.parent,
        stage=stage,
        how=options.how if linked else None,
        dtype=options.dtype if linked else None,
    )
    return None if lineage == Lineage() else lineage


def _generation(
    target: str, newest: Generation | None, walked: Walked, source: str, options: Options
) -> Generation | None:
    if newest is not None and newest.target == target:
        return None
    return structs.replace(
        draft(target, "import"),
        origin=os.path.realpath(source),
        message=options.message,
        labels=newest.labels if newest else (),
        pinned=newest.pinned if newest else False,
        attributes=attributes_of(walked),
    )
