"""What several verbs derive from a store, and what they all refuse."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from ckptfmt.api.results import NeedsBase, Stored
from ckptfmt.errors import BaseMismatch, CkptfmtError, InvalidInput
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.refs import BASES, Generation
from ckptfmt.store.bases import all_bases, missing_from, needed_objects, places_of
from ckptfmt.store.graph import resolve
from ckptfmt.store.outside import all_outside
from ckptfmt.store.ref_cache import CatalogRefCache
from ckptfmt.store.refs import Damaged
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


def needs_itself(store: Store, name: str, record: str) -> NeedsBase | None:
    """A base, where its own files cannot be restored from the store alone; else None."""
    return _needed(store, name, record) if missing_from(store, needed_objects(store.record(record))) else None


def needs_base(store: Store, manifest: Manifest) -> NeedsBase | None:
    """The base that a checkpoint cannot be restored without: it shares tensors with it, or is stored against them.

    Where these are several, the one that it is bound to; None where the store holds all it needs.
    """
    needed = bases_needed(store, manifest)
    link = manifest.base
    if link is not None and link.record in needed:
        return _needed(store, link.name, link.record)
    for record, name in needed.items():
        return _needed(store, name, record)
    return None


def copy_of(store: Store, manifest: Manifest) -> str | None:
    """The base of which a checkpoint holds every tensor, and no other; the one it is bound to where several are."""
    if manifest.root is None or manifest.adapters:
        return None
    same = [base.name for base in all_bases(store, lambda name, error: None) if base.record.root == manifest.root]
    bound = manifest.base.name if manifest.base is not None else None
    return bound if bound in same else next(iter(same), None)


def bases_needed(store: Store, manifest: Manifest) -> dict[str, str]:
    """The bases that a checkpoint cannot be restored without: digest of the record, and name."""
    link = manifest.base
    bases = all_outside(store, link)
    found = resolve(store.catalog().find_many, objects_of(manifest), bases.has)
    needed = {base.digest: base.base for base in map(bases.holder, sorted(found.outside)) if base is not None}
    if found.missing and not needed and link is not None:
        needed[link.record] = link.name
    return needed


def _needed(store: Store, name: str, record: str) -> NeedsBase:
    places = places_of(store, record)
    return NeedsBase(name, record, places[0] if places else None)


def encodings_of(store: Store, objects: Mapping[str, int]) -> dict[str, Stored]:
    """How the objects are stored, by encoding; those that lie in a referenced base count as `base`."""
    copies = store.catalog().find_many(objects)
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
