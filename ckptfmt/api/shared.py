"""What several verbs derive from a store, and what they all refuse."""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

from ckptfmt.api.results import NeedsBase, Stored
from ckptfmt.errors import BaseMismatch, CkptfmtError, InvalidInput
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.refs import BASES, Generation
from ckptfmt.store.bases import BaseFiles, all_bases, missing_from, needed_objects, outside_files, places_of
from ckptfmt.store.graph import Copies, resolve
from ckptfmt.store.outside import Bases, all_outside
from ckptfmt.store.ref_cache import CatalogRefCache
from ckptfmt.store.refs import Damaged, pass_over
from ckptfmt.store.store import Store
from ckptfmt.store.usage import Used, follow


def standing_refs(store: Store, damaged: Damaged | None = None) -> list[Generation]:
    """The newest generation of every ref that stands, bases too, from the cache where nothing changed."""
    return store.refs.standing_cached(CatalogRefCache(store.facts(), store.path), damaged)


def usage_of(store: Store, standing: list[Generation], damaged: Damaged | None = None) -> dict[str, Used]:
    """Usage of every document that a ref names; a base record counts as one. What cannot be read is left out."""
    names = {item.target: item.name for item in standing}

    def tell(digest: str, error: CkptfmtError) -> None:
        if damaged is None:
            raise error
        damaged(names[digest], error)

    records = {item.target for item in standing if item.name.startswith(BASES)}

    def load(digest: str) -> Manifest | BaseRecord:
        return store.record(digest) if digest in records else store.manifest_uncached(digest)

    return follow(store.catalog(), [item.target for item in standing if item.target is not None], load, tell)


def fits(name: str, pattern: str | None) -> bool:
    """Tell whether a ref fits a shell pattern, or begins with it up to a '/'; None fits all."""
    if pattern is None:
        return True
    return fnmatchcase(name, pattern) or name.startswith(pattern.rstrip("/") + "/") or name == pattern


def is_kept(store: Store, record: str) -> bool:
    """Whether the own files of a base, by the digest of its record, can be restored from the store alone."""
    return not missing_from(store, needed_objects(store.record(record)))


def needs_base(
    store: Store, manifest: Manifest, bases: Bases | None = None, copies_of: Copies | None = None
) -> NeedsBase | None:
    """The base that a checkpoint cannot be restored without: it shares tensors with it, or is stored against them.

    Where these are several, the one that it is bound to stands first; None where the store holds all it needs.
    For `bases` and `copies_of` see `bases_needed`.
    """
    needed = bases_needed(store, manifest, bases, copies_of)
    link = manifest.base
    base = needed.get(link.record) if link is not None else None
    base = base or next(iter(needed.values()), None)
    if base is None:
        return None
    others = tuple(other.base for other in needed.values() if other.digest != base.digest)
    return NeedsBase(base.base, base.digest, base.last_seen, others)


def copy_of(store: Store, manifest: Manifest) -> str | None:
    """The base of which a checkpoint holds every tensor, and no other; the one it is bound to where several are."""
    if manifest.root is None or manifest.adapters:
        return None
    same = [base.name for base in all_bases(store, pass_over) if base.record.root == manifest.root]
    bound = manifest.base.name if manifest.base is not None else None
    return bound if bound in same else next(iter(same), None)


def bases_needed(
    store: Store, manifest: Manifest, bases: Bases | None = None, copies_of: Copies | None = None
) -> dict[str, BaseFiles]:
    """The bases that a checkpoint cannot be restored without, by the digests of their records.

    Args:
        store: where.
        manifest: the checkpoint.
        bases: where to look for what no shard holds: made once by `all_outside` for many that are bound to no base.
        copies_of: what shards hold, where some of it was looked up already.
    """
    link = manifest.base
    bases = all_outside(store, link) if bases is None else bases
    found = resolve(copies_of or store.catalog().find_many, objects_of(manifest), bases.has)
    needed = {base.digest: base for base in bases.fewest(found.outside)}
    if found.missing and not needed and link is not None:
        needed[link.record] = outside_files(store, link)
    return needed


def encodings_of(objects: Mapping[str, int], copies_of: Copies) -> dict[str, Stored]:
    """How the objects are stored, by encoding; those that lie in a referenced base count as `base`."""
    copies = copies_of(objects)
    rows = []
    for digest, length in objects.items():
        found = copies.get(digest)
        rows.append(
            (found[0].stored.encoding, length, found[0].stored.stored_bytes()) if found else ("base", length, 0)
        )
    return sum_encodings(rows)


def sum_encodings(rows: Iterable[tuple[str, int, int]]) -> dict[str, Stored]:
    """Add up rows of encoding, decoded bytes and stored bytes."""
    sums: dict[str, tuple[int, int, int]] = {}
    for encoding, logical, stored in rows:
        objects, old_logical, old_stored = sums.get(encoding, (0, 0, 0))
        sums[encoding] = (objects + 1, old_logical + logical, old_stored + stored)
    return {encoding: Stored(*sums[encoding]) for encoding in sorted(sums)}


@contextmanager
def no_collector() -> Iterator[None]:
    """Documents and copies are no circles: looking for one among 100,000 takes longer than reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def refuse_inside(store: Store, target: str) -> None:
    """Raise where a result would lie among the store's own files.

    Raises:
        InvalidInput: it would.
    """
    if store.path is None:
        return
    top, place = os.path.realpath(store.path), os.path.realpath(target)
    if place == top or place.startswith(top + os.sep):
        raise InvalidInput(f"{target} lies inside the store {store.path}", hint="choose a directory outside of it")


def name_lost_files(store: Store, name: str, error: BaseMismatch) -> BaseMismatch:
    """An error of a base whose files were not found, with the first file that is not as it was recorded."""
    link = store.manifest(store.resolve(name)[0]).base
    if link is None or error.tensors:
        return error
    for place in places_of(store, link.record):
        if lost := _lost_file(store.record(link.record), place):
            return BaseMismatch(f"{error.message}: {lost}", tensors=(), hint=error.hint)
    return error


def _lost_file(record: BaseRecord, place: str) -> str | None:
    for file in record.files:
        path = os.path.join(place, file.path)
        try:
            found = os.stat(path)
        except OSError:
            return f"{path} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"{path} is no file"
        if found.st_size != file.size:
            return f"{path} has {found.st_size} bytes, {file.size} were recorded"
    return None
