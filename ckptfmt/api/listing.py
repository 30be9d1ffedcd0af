"""The verbs that look: ls, show, log, stats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ckptfmt.api.results import (
    LineageStep,
    Log,
    NeedsBase,
    RefRow,
    RunStats,
    Shown,
    Stats,
    StoragePlan,
    Stored,
    TensorStored,
)
from ckptfmt.api.shared import (
    copy_of,
    encodings_of,
    fits,
    is_kept,
    needs_base,
    no_collector,
    standing_refs,
    sum_encodings,
    usage_of,
)
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format.manifest import Manifest, logical_bytes, objects_of
from ckptfmt.format.refs import BASES, Generation, check_name
from ckptfmt.store.bases import all_bases, places_of
from ckptfmt.store.catalog import Location
from ckptfmt.store.graph import closure, remembering, smallest
from ckptfmt.store.outside import all_outside
from ckptfmt.store.refs import Damaged
from ckptfmt.store.store import Store
from ckptfmt.store.usage import Used


def list_refs(store: Store, pattern: str | None, damaged: Damaged | None = None) -> list[RefRow]:
    """Every ref that stands and fits a pattern: a shell pattern, or the beginning of names up to a '/'.

    `damaged` is told of refs and bases that cannot be read, once each, as in `Refs.standing`.
    """
    damaged = _once(damaged)
    standing = standing_refs(store, damaged)
    usage = usage_of(store, standing, damaged)
    named = Counter(item.target for item in standing)
    refs_of = {item.target: item.name for item in standing}
    needs = _Needs(store, damaged)
    rows = []
    for item in standing:
        if item.target not in usage or item.name.startswith(BASES) or not fits(item.name, pattern):
            continue
        used = usage[item.target]
        summary = used.summary
        try:
            needed = needs.of(item.target, used)
        except CkptfmtError as error:
            if damaged is None:
                raise
            damaged(item.name, error)
            continue
        rows.append(
            RefRow(
                ref=item.name,
                generation=item.number,
                manifest=item.target,
                layout=summary.layout,
                stage=summary.stage,
                step=summary.step,
                parent=refs_of.get(summary.parent, summary.parent) if summary.parent else None,
                base=summary.base,
                binding=summary.binding,
                needs_base=needed,
                created=item.time,
                logical_bytes=summary.logical_bytes,
                stored_bytes=used.stored_bytes,
                exclusive_bytes=used.exclusive_bytes if named[item.target] == 1 else 0,
                metrics=summary.metrics,
                labels=item.labels,
                pinned=item.pinned,
            )
        )
    return rows


def _once(damaged: Damaged | None) -> Damaged | None:
    """Tell of each name once only."""
    told: set[str] = set()

    def tell(name: str, error: CkptfmtError) -> None:
        if damaged is not None and name not in told:
            told.add(name)
            damaged(name, error)

    return tell if damaged is not None else None


class _Needs:
    """Tells which base each of many checkpoints cannot be restored without; each base is looked up once for all."""

    def __init__(self, store: Store, damaged: Damaged | None) -> None:
        self._store = store
        self._damaged = damaged
        self._bases = all_outside(store)
        self._bound: dict[str, NeedsBase | None] = {}

    def of(self, target: str, used: Used) -> NeedsBase | None:
        """The base that manifest `target` needs; None for none."""
        summary = used.summary
        if not used.missing:
            return None
        own = None
        if summary.base is not None and summary.record is not None:
            if summary.record not in self._bound:
                self._bound[summary.record] = self._itself(summary.base, summary.record)
            own = self._bound[summary.record]
        # Where its own base is kept and something is missing, it is stored against another one.
        return own or needs_base(self._store, self._store.manifest(target), self._bases)

    def _itself(self, name: str, record: str) -> NeedsBase | None:
        try:
            if is_kept(self._store, record):
                return None
        except CkptfmtError as error:
            if self._damaged is None:
                raise
            # Objects are missing, whatever its record said.
            self._damaged(BASES + name, error)
        places = places_of(self._store, record)
        return NeedsBase(name, record, places[0] if places else None)


def show(store: Store, name: str) -> Shown:
    """One checkpoint in full."""
    digest, generation = store.resolve(name)
    with no_collector():
        manifest = store.manifest(digest)
        objects = objects_of(manifest)
        copies_of = remembering(store.catalog().find_many)
        taken = smallest(copies_of, objects)
        return Shown(
            ref=generation.name if generation else None,
            generation=generation.number if generation else None,
            id=digest,
            manifest=manifest,
            needs_base=needs_base(store, manifest, copies_of=copies_of),
            logical_bytes=logical_bytes(manifest),
            stored_bytes=sum(copy.stored.stored_bytes() for copy in taken.values()),
            encodings=encodings_of(objects, copies_of),
            against=_against(objects, taken),
            tensor_encodings=tuple(_tensor_encodings(manifest, taken)),
            copy_of=copy_of(store, manifest),
        )


def _against(objects: Mapping[str, int], taken: Mapping[str, Location]) -> Stored | None:
    """What others of the store are needed to decode a checkpoint's objects."""
    others = [copy.stored for digest, copy in taken.items() if digest not in objects]
    if not others:
        return None
    return Stored(len(others), sum(each.length for each in others), sum(each.stored_bytes() for each in others))


def _tensor_encodings(manifest: Manifest, taken: Mapping[str, Location]) -> Iterator[TensorStored]:
    for tensor in manifest.tensors:
        extent = manifest.files[tensor.file].extents[tensor.extent]
        stored = taken[extent.digest].stored if extent.digest in taken else None
        yield TensorStored(
            tensor.name,
            stored.encoding if stored else None,
            extent.length,
            stored.stored_bytes() if stored else 0,
        )


def log(store: Store, name: str) -> Log:
    """A checkpoint's lineage, and the generations of its ref."""
    ref = name.partition("@")[0]
    try:
        digest: str | None = store.resolve(name)[0]
    except NotFound:
        digest = None
    generations = _generations(store, ref)
    if digest is None and not generations:
        raise NotFound(f"no ref {name!r}", hint="ckptfmt ls")
    refs_of: dict[str, list[str]] = {}
    for item in standing_refs(store):
        refs_of.setdefault(item.target or "", []).append(item.name)
    steps = []
    seen: set[str] = set()
    while digest is not None and digest not in seen:
        seen.add(digest)
        try:
            manifest = store.manifest(digest)
        except NotFound:
            break  # An ancestor that was never in this store, or is no longer.
        lineage = manifest.lineage
        refs = tuple(sorted(refs_of.get(digest, [])))
        steps.append(LineageStep(digest, refs, manifest.layout, lineage, manifest.step, manifest.metrics))
        digest = lineage.parent if lineage else None
    return Log(tuple(steps), generations)


def _generations(store: Store, ref: str) -> tuple[Generation, ...]:
    try:
        return tuple(store.refs.readable(check_name(ref)))
    except CkptfmtError:
        return ()


def stats(store: Store, damaged: Damaged | None = None) -> Stats:
    """The store as a whole; `damaged` is told of what cannot be read and is left out, as in `Refs.standing`."""
    damaged = _once(damaged)
    standing = standing_refs(store, damaged)
    usage = usage_of(store, standing, damaged)
    objects: dict[str, int] = {}
    checkpoints = []
    for item in standing:
        if item.target is None or item.target not in usage or item.name.startswith(BASES):
            continue
        try:
            objects.update(objects_of(store.manifest_uncached(item.target)))
        except CkptfmtError as error:
            if damaged is None:
                raise
            damaged(item.name, error)
            continue
        checkpoints.append(item)
    bases = all_bases(store, damaged)
    for base in bases:
        objects.update(objects_of(base.record))
    catalog = store.catalog()
    copies = catalog.find_many({*objects, *closure(catalog.dependencies, objects)})
    by_encoding = sum_encodings(
        (found[0].stored.encoding, found[0].stored.length, found[0].stored.stored_bytes()) for found in copies.values()
    )
    return Stats(
        checkpoints=len(checkpoints),
        bases=len(bases),
        logical_bytes=sum(usage[item.target].summary.logical_bytes for item in checkpoints if item.target),
        stored_bytes=sum(found[0].stored.stored_bytes() for found in copies.values()),
        shard_bytes=sum(catalog.shards().values()),
        by_encoding=by_encoding,
        by_run=_by_run(checkpoints, usage, Counter(item.target for item in standing)),
        plans=_storage_plans(store, checkpoints, damaged),
    )


def _by_run(checkpoints: list[Generation], usage: dict[str, Used], named: Counter[str | None]) -> dict[str, RunStats]:
    """Sums a run: the refs that share all but the last part of their names. What has two names is no one's own."""
    runs: dict[str, RunStats] = {}
    for item in checkpoints:
        run = item.name.rpartition("/")[0] or item.name
        used = usage[item.target or ""]
        old = runs.get(run, RunStats(0, 0, 0, 0))
        runs[run] = RunStats(
            old.checkpoints + 1,
            old.logical_bytes + used.summary.logical_bytes,
            old.stored_bytes + used.stored_bytes,
            old.exclusive_bytes + (used.exclusive_bytes if named[item.target] == 1 else 0),
        )
    return dict(sorted(runs.items()))


def _storage_plans(store: Store, checkpoints: list[Generation], damaged: Damaged | None) -> tuple[StoragePlan, ...]:
    """What keeping the stages would take outside a store: adapters only, with the final merged, all merged.

    Counted over the checkpoints that have an adapter and a base: each base once, each adapter once, a merged model
    as large as its base. Those whose base cannot be read are left out.
    """
    adapters: dict[str, int] = {}
    merged: dict[str, int] = {}
    bases: dict[str, int] = {}
    parents: set[str] = set()
    for item in checkpoints:
        manifest = store.manifest_uncached(item.target or "")
        if not manifest.adapters or manifest.base is None:
            continue
        record = manifest.base.record
        try:
            bases[record] = logical_bytes(store.record(record))
        except CkptfmtError as error:
            if damaged is None:
                raise
            damaged(BASES + manifest.base.name, error)
            continue
        merged[item.target or ""] = bases[record]
        adapters[item.target or ""] = sum(
            manifest.files[file].size
            for file in {tensor.file for tensor in manifest.tensors if tensor.role == "adapter"}
        )
        if manifest.lineage and manifest.lineage.parent:
            parents.add(manifest.lineage.parent)
    if not adapters:
        return ()
    base_bytes, adapter_bytes = sum(bases.values()), sum(adapters.values())
    final = sum(size for digest, size in merged.items() if digest not in parents)
    return (
        StoragePlan("adapters only", base_bytes + adapter_bytes),
        StoragePlan("adapters and the final stage merged", base_bytes + adapter_bytes + final),
        StoragePlan("all stages merged", base_bytes + adapter_bytes + sum(merged.values())),
    )
