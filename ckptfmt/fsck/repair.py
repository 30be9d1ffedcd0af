"""What can be repaired for sure. Nothing is dropped: a damaged file that is replaced is set aside, never deleted.

Each step is durable by itself and leaves a store that is no worse: stopped anywhere, the next repair goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import structs

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format import documents
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.refs import BASES
from ckptfmt.fsck.from_store import fetch
from ckptfmt.fsck.look import Found
from ckptfmt.fsck.look_refs import ACKNOWLEDGED, RefState, generation_key, target_left
from ckptfmt.fsck.objects_again import Lay, aside, copy_out, pieces_of, retire, take_again
from ckptfmt.fsck.problem import REPAIR, Problem, Repair
from ckptfmt.progress import SILENT
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.refs import draft
from ckptfmt.store.store import Store
from ckptfmt.store.trash import bring_back
from ckptfmt.transfer.bases import find_source, record_of

_UNREAD: Final = (
    *("manifest-damaged", "manifest-missing", "lineage", "record-damaged", "record-missing"),
    *("generation-damaged", "receipt-damaged"),
)
"""Problems that keep a look from knowing what is needed."""


def repair_documents(store: Store, found: Found) -> list[Repair]:
    """Repair names, base records and what lies in the trash: then look again, for more may be known of what is needed.

    Args:
        store: where.
        found: what a look found.
    """
    done = [*_from_trash(store.storage, found.problems), *_torn_pins(store.storage, found.problems)]
    done += _records(store, found)
    done += [told for state in found.states.values() if (told := _generation(store, state)) is not None]
    if done:
        store.forget_documents()
    return done


def _from_trash(storage: Storage, problems: list[Problem]) -> list[Repair]:
    """Link back what is needed and lies in the trash only."""
    keys = [problem.path for problem in problems if problem.kind == "trashed" and bring_back(storage, problem.path)]
    storage.settle(keys)
    return [Repair("trashed", key, "it is back in its place") for key in keys]


def _torn_pins(storage: Storage, problems: list[Problem]) -> list[Repair]:
    """Remove damaged claims that are so old that nobody can be at work on them."""
    done = []
    for problem in problems:
        if problem.kind == "pin-damaged" and problem.hint == REPAIR:
            storage.delete(problem.path)
            done.append(Repair("pin-damaged", problem.path, "a torn claim of a writer that is gone was removed"))
    return done


def _records(store: Store, found: Found) -> list[Repair]:
    """Record bases again whose record is damaged or gone: files that are the same give the same record."""
    done = []
    for problem in found.problems:
        if problem.kind not in ("record-damaged", "record-missing"):
            continue
        digest = problem.path.rpartition("/")[2].removesuffix(".json")
        for _, origin in found.documents.origins.get(digest, ()):
            try:
                record = record_of(find_source(origin, None), SILENT)
            except CkptfmtError:
                continue
            if digest_of(documents.encode(record)) != digest:
                continue
            if store.storage.size(problem.path) is not None and not aside(store.storage, problem.path):
                continue
            store.put_record(record)
            done.append(Repair(problem.kind, problem.path, f"recorded again from {origin}"))
            break
    return done


def repair_objects(
    store: Store, found: Found, places: Sequence[str] = (), others: Sequence[Store] = ()
) -> list[Repair]:
    """Bring lacking objects back, first out of damaged shards, then from the files they were cut from.

    Args:
        store: where.
        found: what a look found; its shards learn of what is written.
        places: directories in which the files may lie too.
        others: stores that may have them.
    """
    shards = found.shards
    replaced = [copy_out(store, shards, state) for state in shards.bad.values()]
    lacking = {digest for digest in found.lacking if not shards.truth.find(digest)}
    taken = take_again(store, shards, _lays(store, found, lacking, places)) if lacking else []
    lacking = {digest for digest in lacking if not shards.truth.find(digest)}
    taken += fetch(store, shards, lacking, others) if lacking and others else []
    lacking = {digest for digest in lacking if not shards.truth.find(digest)}
    if any(problem.kind in _UNREAD for problem in found.problems):
        return [*taken, *(told for told in replaced if told is not None)]  # Nobody knows what those need.
    retired = [retire(store, shards, state, lacking) for state in shards.bad.values()]
    return [*taken, *(told for told in (*replaced, *retired) if told is not None)]


def _lays(store: Store, found: Found, lacking: set[str], places: Sequence[str]) -> dict[str, Lay]:
    """Where the files lay from which lacking objects were cut, of every document that can be read."""
    lays: dict[str, Lay] = {}
    for digest, origins in found.documents.origins.items():
        document = _document(store, digest)
        if document is None:
            continue
        for item, length, piece in pieces_of(document):
            if item in lacking:
                lay = lays.setdefault(item, Lay(length, []))
                lay.places.extend((origin, piece) for origin in (*(origin for _, origin in origins), *places))
    return lays


def _document(store: Store, digest: str) -> Manifest | BaseRecord | None:
    """The manifest or base record of that digest, where it can be read."""
    try:
        return store.manifest(digest)
    except NotFound:
        pass
    except CkptfmtError:
        return None
    try:
        return store.record(digest)
    except CkptfmtError:
        return None


def _generation(store: Store, state: RefState) -> Repair | None:
    """Append a generation after a damaged newest one, where what that stood for can be known for sure.

    A digest of 256 bits that still stands in the damaged file and is the name of a sound document is what was written.
    Nothing else of the file is believed: labels, pins and attributes are those of the generation before.
    """
    number = state.top
    target = target_left(store.storage, state.name, number) if number in state.damaged else None
    if target is None:
        return None
    is_base = state.name.startswith(BASES)
    try:
        _ = store.record(target) if is_base else store.manifest(target)
    except CkptfmtError:
        return None
    before = max(state.sound, default=None)
    message = f"generation {number} is damaged; what it stood for could still be read"
    fresh = structs.replace(
        draft(target, ACKNOWLEDGED), name=state.name, number=number + 1, previous=number, message=message
    )
    if before is not None:
        known = state.sound[before]
        same = known.target == target
        fresh = structs.replace(
            fresh,
            labels=known.labels,
            pinned=known.pinned,
            keep=known.keep,
            origin=known.origin if same else None,
            attributes=known.attributes if same else (),
        )
    key = generation_key(state.name, number + 1)
    if not store.storage.put_if_absent(key, documents.seal(fresh)):
        return None
    return Repair("generation-damaged", key, f"{state.name} stands for {target[:16]} again")
