"""The verbs for base models."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from msgspec import structs

from ckptfmt.api.results import BaseKept, BaseReport, BaseVerified, RefChanged
from ckptfmt.api.shared import bases_needed, is_kept
from ckptfmt.errors import Conflict, InvalidInput, NotFound
from ckptfmt.format.manifest import BaseLink, Manifest, logical_bytes
from ckptfmt.format.refs import BASES
from ckptfmt.progress import Progress
from ckptfmt.store.bases import Base, all_bases, find_base, places_of
from ckptfmt.store.outside import Bases, outside_of_many
from ckptfmt.store.refs import Damaged, draft
from ckptfmt.store.store import Store
from ckptfmt.transfer.bases import (
    Keep,
    add_base,
    base_place,
    check_base,
    find_source,
    keep_base,
    note_kept,
    note_place,
    published_sha256,
)
from ckptfmt.wording import few


def add(store: Store, name: str, source: str, *, revision: str | None, keep: Keep, progress: Progress) -> BaseReport:
    """Record a base: root, file SHA-256s, tensor digests."""
    if keep not in ("copy", "reference"):
        raise InvalidInput(f"--keep: {keep!r} is neither copy nor reference")
    base, replaced = add_base(store, name, find_source(source, revision), keep=keep, progress=progress)
    return structs.replace(describe(store, base), replaced=replaced)


def describe(store: Store, base: Base, places: Sequence[str] | None = None) -> BaseReport:
    """A base as front ends show it; `places` where its files were seen, if they were looked up already."""
    record = base.record
    places = places_of(store, base.digest) if places is None else places
    return BaseReport(
        name=base.name,
        record=base.digest,
        root=record.root,
        files=len(record.files),
        tensors=sum(tensor.role == "model" for tensor in record.tensors),
        kept=is_kept(store, base.digest),
        repo=record.repo,
        revision=record.revision,
        path=places[0] if places else None,
        bytes=logical_bytes(record),
    )


def listed(store: Store, damaged: Damaged | None = None) -> list[BaseReport]:
    """Every base; `damaged` is told of those that cannot be read, as in `Refs.standing`."""
    return [describe(store, base) for base in all_bases(store, damaged)]


def verify(store: Store, name: str, path: str | None, *, full: bool, progress: Progress) -> BaseVerified:
    """Compare a base's files with its record, and a Hub repository's with what the Hub publishes."""
    base = find_base(store, name)
    if path is not None and not os.path.isdir(path):
        raise NotFound(f"{path}: no such directory")
    place = os.path.realpath(path) if path is not None else base_place(store, base)
    checked = check_base(store, base, place, full=full, progress=progress)
    record = base.record
    published = published_sha256(record.repo, record.revision) if record.repo else None
    mismatched = list(checked.mismatched)
    compared = 0
    for file in record.files:
        if published is not None and file.path in published:
            compared += 1
            if published[file.path] != file.sha256 and file.path not in mismatched:
                mismatched.append(file.path)
    if not mismatched and path is not None:
        note_place(store, base, place)
    return BaseVerified(
        name=name,
        root=record.root,
        ok=not mismatched,
        how="read" if checked.read else "cached",
        mismatched=tuple(mismatched),
        path=place,
        published=compared if published is not None else None,
    )


def keep(store: Store, name: str, progress: Progress) -> BaseKept:
    """Copy a referenced base in."""
    base = find_base(store, name)
    size = 0
    if is_kept(store, base.digest):
        note_kept(store, base)
    else:
        size = keep_base(store, base, progress=progress)
    return BaseKept(name, kept=True, bytes=size)


def drop(store: Store, name: str) -> RefChanged:
    """Drop a base's name.

    Raises:
        Conflict: a checkpoint is bound to it, and it has no other name (`needed`).
    """
    base = find_base(store, name)
    others = [other for other in all_bases(store) if other.digest == base.digest and other.name != name]
    if not others:
        outside = outside_of_many(store)
        bound = [
            generation.name
            for generation in store.refs.manifests()
            if _needs(store, store.manifest(generation.target or ""), base.digest, outside)
        ]
        if bound:
            raise Conflict(
                f"base {name!r} is needed by {len(bound)} checkpoint{'s' * (len(bound) > 1)} ({few(bound, 5)})",
                code="needed",
                hint=f"ckptfmt rm {' '.join(bound)}",
            )
    generation = store.refs.swap(base.generation, draft(None, "base rm"))
    return RefChanged(BASES + name, generation.number, None)


def _needs(store: Store, manifest: Manifest, record: str, outside: Callable[[BaseLink | None], Bases]) -> bool:
    """Whether a checkpoint is bound to a base, or is stored against what lies in no shard but there."""
    bound = manifest.base is not None and manifest.base.record == record
    return bound or record in bases_needed(store, manifest, outside(manifest.base))
