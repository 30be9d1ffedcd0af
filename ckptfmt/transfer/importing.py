"""Importing: a walked directory becomes a manifest, and its ref."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from msgspec import structs

from ckptfmt.containers.protocol import Cut, Opaque
from ckptfmt.encodings.chooser import Effort
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import BaseLink, File, How, Lineage, Link, Manifest
from ckptfmt.format.refs import Attributes, Generation
from ckptfmt.format.shard import ShardObject, header_estimate
from ckptfmt.layouts import read_checkpoint
from ckptfmt.layouts.protocol import Reading
from ckptfmt.progress import Progress
from ckptfmt.store.bases import Base, BaseFiles, places_of
from ckptfmt.store.publish import publish
from ckptfmt.store.refs import draft
from ckptfmt.store.shards import ShardWriter
from ckptfmt.store.store import Store
from ckptfmt.transfer.build import Content, bind, build_manifest, place_tensors, touched_leaves, wants_view
from ckptfmt.transfer.sinks import HashSink, Sink, StoreSink
from ckptfmt.transfer.take import fills_extent, take_file
from ckptfmt.transfer.walk import Walked, WalkedTree, lying_file_hint, same_still


@dataclass(frozen=True, slots=True)
class Options:
    """How to take a checkpoint in.

    Attributes:
        base: the base it was made from, if the user says so.
        parent: id of the manifest it was trained from.
        stage, how, dtype: its place in a chain of stages.
        effort: how much to spend on smaller objects.
        jobs: threads that encode.
        damaged_as_opaque: keep structurally lying files whole instead of refusing the checkpoint.
        message: goes into the ref's generation.
    """

    base: Base | None = None
    parent: str | None = None
    stage: int | None = None
    how: How | None = None
    dtype: str | None = None
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
        new: digests of the objects that were written for it.
        new_bytes: bytes that its new shards and its new manifest take.
    """

    ref: str
    generation: int
    digest: str
    manifest: Manifest
    new: tuple[str, ...]
    new_bytes: int


@dataclass(frozen=True, slots=True)
class ReadCheckpoint:
    """A checkpoint read but not yet taken in."""

    walked: Walked
    reading: Reading
    cuts: dict[str, Cut | Opaque]
    damaged: dict[str, str]


def read_walked(walked: Walked, name: str, *, damaged_as_opaque: bool = False) -> ReadCheckpoint:
    """Find out what a walked directory means.

    Raises:
        FormatError, UnsafeFile: a file of it is structurally lying.
    """
    tree = WalkedTree(walked, name, damaged_as_opaque=damaged_as_opaque)
    try:
        reading = read_checkpoint(tree)
        cuts = {path: tree.cut(path) for path in tree.paths()}
    except CkptfmtError as error:
        error.hint = lying_file_hint(error)
        raise
    notes = [f"{path}: kept whole although it is damaged: {reason}" for path, reason in tree.damaged.items()]
    outside = [link.path for link in walked.of_kind("link") if link.outside]
    notes += [f"{path}: a link out of the checkpoint; what it names was not taken in" for path in outside]
    return ReadCheckpoint(
        walked, _with_notes(reading, notes), cuts, dict(tree.damaged)
    )


def _with_notes(reading: Reading, notes: list[str]) -> Reading:
    return replace(reading, notes=(*reading.notes, *notes)) if notes else reading


def take_content(checkpoint: ReadCheckpoint, sink: Sink, pool: Executor, progress: Progress) -> Content:
    """Read every file of a checkpoint once and put what it is made of into `sink`.

    Raises:
        IntegrityError: the directory changed meanwhile.
    """
    walked = checkpoint.walked
    wanted: dict[str, list[int]] = {}
    for tensor in checkpoint.reading.tensors:
        cut = checkpoint.cuts[tensor.path]
        if isinstance(cut, Cut):
            found = cut.tensors[tensor.index]
            if wants_view(found, tensor.role, fills=fills_extent(cut, found)):
                wanted.setdefault(tensor.path, []).append(tensor.index)
    files: list[File] = []
    views: dict[tuple[str, int], str] = {}
    for entry in walked.of_kind("file"):
        file, digests = take_file(
            entry, checkpoint.cuts[entry.path], wanted.get(entry.path, []), sink, pool, progress
        )
        files.append(structs.replace(file, damaged=True) if entry.path in checkpoint.damaged else file)
        views.update(((entry.path, index), digest) for index, digest in digests.items())
    taken = tuple(files)
    return Content(
        files=taken,
        directories=_empty_directories(walked),
        links=tuple(Link(entry.path, entry.target) for entry in walked.of_kind("link")),
        tensors=place_tensors(checkpoint.reading, taken, checkpoint.cuts, views),
    )


def hash_content(checkpoint: ReadCheckpoint, progress: Progress) -> Content:
    """As `take_content`, keeping nothing."""
    with ThreadPoolExecutor(1, "sha256") as pool:
        return take_content(checkpoint, HashSink(), pool, progress)


def _empty_directories(walked: Walked) -> tuple[str, ...]:
    parents = {os.path.dirname(entry.path) for entry in walked.entries}
    return tuple(
        entry.path for entry in walked.of_kind("directory") if entry.path != "." and entry.path not in parents
    )


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
    checkpoint = read_walked(walked, os.path.basename(source), damaged_as_opaque=options.damaged_as_opaque)
    total = sum(entry.size for entry in walked.of_kind("file"))
    outside = _outside(store, options.base)
    if options.base is not None:  # Before any work: a base that this adapter cannot be for.
        adapter = [tensor.name for tensor in checkpoint.reading.tensors if tensor.role == "adapter"]
        touched_leaves(options.base.record, adapter, options.base.name)
    written = _Written(store)
    progress.begin(ref, total)
    with ThreadPoolExecutor(1, "sha256") as sha_pool, ThreadPoolExecutor(options.jobs, "encode") as pool:

        def take(vanished: frozenset[str]) -> Content:
            with _shard_writer(store, checkpoint, options, pool, written) as writer:
                catalog = store.catalog()
                sink = StoreSink(
                    writer,
                    catalog,
                    lambda digest: digest not in vanished
                    and (bool(catalog.find(digest)) or (outside is not None and outside.has(digest))),
                    outside.lengths() if outside else frozenset(),
                )
                content = take_content(checkpoint, sink, sha_pool, progress)
                same_still(walked, walked.again())
                return content

        content = take(frozenset())
        base = _bind(options.base, content)
        manifest = build_manifest(
            checkpoint.reading, content, base=base, lineage=_lineage(options, checkpoint.reading)
        )
        digest, generation = publish(
            store,
            manifest,
            ref,
            lambda target, newest: _generation(target, newest, walked, source, options),
            outside=outside,
            again=take,
        )
    progress.end()
    return Imported(
        ref=ref,
        generation=generation.number if generation else 0,
        digest=digest,
        manifest=manifest,
        new=tuple(written.objects),
        new_bytes=written.size,
    )


def _bind(base: Base | None, content: Content) -> BaseLink | None:
    if base is None:
        return None
    return bind(base.name, base.digest, base.record, content, evidence=f"--base {base.name}")


def _outside(store: Store, base: Base | None) -> BaseFiles | None:
    if base is None:
        return None
    return BaseFiles(base.name, base.record, places_of(store, base.digest))


def _lineage(options: Options, reading: Reading) -> Lineage | None:
    stage = options.stage if options.stage is not None else reading.stage
    lineage = Lineage(parent=options.parent, stage=stage, how=options.how, dtype=options.dtype)
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


def attributes_of(walked: Walked) -> tuple[Attributes, ...]:
    """Modes and mtimes of all that was walked."""
    return tuple(
        Attributes(entry.path, entry.mode, entry.mtime_ns) for entry in walked.entries if entry.kind != "link"
    )


class _Written:
    """What one import wrote: digests, and bytes of shards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.objects: dict[str, None] = {}
        self.size = 0

    def __call__(self, shard: str, size: int, objects: tuple[ShardObject, ...]) -> None:
        self._store.facts().add_shard(shard, size, objects)
        self.objects.update((item.digest, None) for item in objects)
        self.size += size


@contextmanager
def _shard_writer(
    store: Store, checkpoint: ReadCheckpoint, options: Options, pool: Executor, written: _Written
) -> Iterator[ShardWriter]:
    """A writer whose last shard is durable at the end, and of which nothing is left after an error."""
    spans = sum(
        header_estimate(span.length, len(span.shape))
        for cut in checkpoint.cuts.values()
        if isinstance(cut, Cut)
        for span in cut.extents
    )
    files = checkpoint.walked.of_kind("file")
    bound = spans + sum(header_estimate(entry.size, 1) for entry in files if isinstance(checkpoint.cuts[entry.path], Opaque))
    bound += 1024 * len(files)
    writer = ShardWriter(store.storage, effort=options.effort, pool=pool, remaining=lambda: bound, written=written)
    try:
        yield writer
        writer.flush()
    finally:
        writer.abort()
