"""What several verbs derive from a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptfmt.api.results import NeedsBase, Stored
from ckptfmt.store.bases import missing_from, needed_objects, places_of
from ckptfmt.store.store import Store


def needs_base(store: Store, name: str, record: str, objects: Mapping[str, int] | None = None) -> NeedsBase | None:
    """The base that `objects` (by default all of the base's own) cannot be restored without; None if they can."""
    wanted = dict(objects) if objects is not None else needed_objects(store.record(record))
    if not missing_from(store, wanted):
        return None
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
