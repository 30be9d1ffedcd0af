"""Taking checkpoints in, as a step of a cleanup: a name that stands is never moved on."""

from __future__ import annotations

import os
from collections.abc import Callable

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import Manifest, objects_of
from ckptfmt.format.refs import check_name
from ckptfmt.progress import Progress
from ckptfmt.reclaim.found import CheckpointSeen
from ckptfmt.reclaim.models import main_file
from ckptfmt.reclaim.planning import BaseStep, Step
from ckptfmt.store.bases import Base, all_bases, missing_from, needed_objects
from ckptfmt.store.graph import resolve
from ckptfmt.store.outside import all_outside
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store
from ckptfmt.transfer.bases import keep_base
from ckptfmt.transfer.build import FOUND
from ckptfmt.transfer.importing import Options, import_walked
from ckptfmt.transfer.likely import as_recorded
from ckptfmt.transfer.walk import Walked, walk


def standing_like(store: Store) -> Callable[[CheckpointSeen], tuple[tuple[str, str], ...]]:
    """Find the names in a store that were taken in from a checkpoint's place and have files of its names and sizes."""
    origins: dict[str, list[tuple[str, str]]] = {}
    for generation in store.refs.manifests(pass_over):
        if generation.origin is not None and generation.target is not None:
            origins.setdefault(generation.origin, []).append((generation.name, generation.target))

    def find(seen: CheckpointSeen) -> tuple[tuple[str, str], ...]:
        prefix = f"{seen.root}/" if seen.root else ""
        files = {(file.path[len(prefix) :], file.size) for file in seen.files}
        one = main_file(seen) if seen.name != seen.root else None
        place = f"{seen.top}/{one.path}" if one is not None else seen.path
        found = []
        for name, target in origins.get(place, ()):
            try:
                manifest = store.manifest(target)
            except CkptfmtError:
                continue
            if {(file.path, file.size) for file in manifest.files} == files:
                found.append((name, target))
        return tuple(found)

    return find


def take_in(store: Store, step: Step, *, message: str, progress: Progress) -> tuple[str, str]:
    """Take a checkpoint in under its name, or under the next free one, bound to the base that the plan names.

    Returns:
        The name, and the manifest's id.

    Raises:
        CkptfmtError: as `import_walked`.
    """
    ref = _free_name(store, step.ref)
    base = _base_of(store, step)
    options = Options(
        base=base,
        evidence=FOUND if base is not None else None,
        jobs=os.cpu_count() or 1,
        message=message,
        stage=step.seen.stage,
    )
    done = import_walked(store, _walked(step.seen), ref, source=step.source, options=options, progress=progress)
    return done.ref, done.digest


def _base_of(store: Store, step: Step) -> Base | None:
    """The base that a plan names for a checkpoint; None where it, or its files, are not what they were."""
    base = _by_record(store).get(step.base[1]) if step.base is not None else None
    if base is None or (missing_from(store, needed_objects(base.record)) and as_recorded(store, base) is None):
        return None
    return base


def _walked(seen: CheckpointSeen) -> Walked:
    walked = walk(seen.path)
    if seen.chosen is None:
        return walked
    return walked.below("", seen.chosen, around=seen.name == seen.root)


def _free_name(store: Store, ref: str) -> str:
    """`ref`, or where such a name ever stood, the next that did not: it may be all that is left of other weights."""
    name, number = check_name(ref), 1
    while store.refs.numbers(name):
        number += 1
        name = check_name(f"{ref}.{number}")
    return name


def bases_outside(store: Store, manifest: Manifest) -> list[Base]:
    """The bases without whose own files a checkpoint cannot be restored."""
    outside = all_outside(store, manifest.base)
    found = resolve(store.catalog().find_many, objects_of(manifest), outside.has)
    records = {base.digest for base in outside.fewest(found.outside)}
    return [base for base in _by_record(store).values() if base.digest in records]


def _by_record(store: Store) -> dict[str, Base]:
    return {base.digest: base for base in all_bases(store, pass_over)}


def copy_in(store: Store, bases: list[Base], progress: Progress) -> None:
    """Copy bases into a store.

    Raises:
        BaseMismatch: the files of one are gone, or are not what was recorded.
    """
    for base in bases:
        keep_base(store, base, progress=progress)
    store.catalog(refresh=True)


def referenced_bases(store: Store, room: Callable[[int, int], int]) -> list[BaseStep]:
    """The bases whose files the store does not hold, with the most that copying each in may add.

    Args:
        store: where.
        room: bytes of a shard's header for an object, by its length and number of dimensions.
    """
    found = []
    for base in _by_record(store).values():
        objects = needed_objects(base.record)
        if missing_from(store, objects):
            forms = frozenset((t.dtype, t.shape) for t in base.record.tensors if len(t.shape) > 1)
            most = sum(length + room(length, 4) for length in objects.values())
            found.append(BaseStep(base.name, base.digest, forms, most))
    return found
