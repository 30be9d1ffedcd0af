"""Publishing a manifest: the order of writes that is valid at any moment.

Shards (durable already), manifest, pin; then confirm, on the file system and not in the catalog, every object that the
manifest needs, bringing back from the trash what gc took out before it could see the pin; then the ref, then unpin.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ckptfmt.errors import CkptfmtError, IncompleteStore
from ckptfmt.format import documents
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.manifest import BaseRecord, Manifest, objects_of
from ckptfmt.format.refs import Generation, Pin
from ckptfmt.storage.machine import host_name
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.elsewhere import OutsideObjects
from ckptfmt.store.graph import resolve
from ckptfmt.store.refs import utc_now
from ckptfmt.store.shards import PREFIX, read_shard_header, shard_key
from ckptfmt.store.store import Store, manifest_key, record_key
from ckptfmt.store.trash import bring_back

Given = TypeVar("Given")

PINS = "pins/"
_PLACES = (PREFIX, "manifests/", "bases/")
_SETTLED_SECONDS = 3600
_PASSES = 5
_HOLDS_SECONDS = 12 * 3600
"""Half of what gc lets a claim count."""


class Claim:
    """A writer's claim to a document."""

    def __init__(self, store: Store, document: str) -> None:
        self._storage = store.storage
        self._document = document
        self._key = ""
        self._since = 0.0

    def begin(self) -> None:
        """Claim, or claim once more."""
        before = self._key
        self._key = f"{PINS}{self._document}-{os.getpid()}-{uuid.uuid4().hex}.json"
        self._since = time.time()
        pin = Pin(version=FORMAT_VERSION, manifest=self._document, host=host_name(), time=utc_now())
        self._storage.put(self._key, documents.seal(pin))
        if before:
            self._storage.delete(before)

    def holds(self) -> bool:
        """Tell whether every gc counted it until now: not so for a process that was suspended for a day."""
        return time.time() - self._since < _HOLDS_SECONDS and self._storage.size(self._key) is not None

    def give(self, confirm_all: Callable[[], None], name: Callable[[], Given]) -> Given:
        """Confirm all that the document needs, and give it its name.

        Args:
            confirm_all: raises where something is gone for good.
            name: makes the claimed document reachable.
        """
        confirm_all()
        if not self.holds():
            self.begin()
            confirm_all()
        given = name()
        if not self.holds():
            confirm_all()  # The name holds what is there now.
        return given

    def end(self) -> None:
        """Take it back."""
        self._storage.delete(self._key)


@contextmanager
def pinned(store: Store, document: str) -> Iterator[Claim]:
    """Claim a manifest or a base record, and with it all that it needs, until it has a ref."""
    claim = Claim(store, document)
    try:
        claim.begin()
        yield claim
    finally:
        claim.end()


def missing_objects(store: Store, objects: dict[str, int], outside: OutsideObjects | None) -> dict[str, int]:
    """Those of `objects` that cannot be decoded from what shards' own headers, read now, and the base outside hold."""
    return _look(store, objects, outside)[0]


def _look(store: Store, objects: dict[str, int], outside: OutsideObjects | None) -> tuple[dict[str, int], list[str]]:
    """What cannot be decoded from the shards and what lies outside, and the shards that the rest relies on."""
    catalog = store.catalog()
    present: dict[str, set[str]] = {}
    while True:
        resolved = resolve(catalog.find_many, objects, outside.has if outside is not None else _nowhere)
        wanted: dict[str, set[str]] = {}
        for digest, copy in resolved.copies.items():
            wanted.setdefault(copy.shard, set()).add(digest)
        for shard in wanted.keys() - present.keys():
            bring_back(store.storage, shard_key(shard))
            try:
                present[shard] = {item.digest for item in read_shard_header(store.storage, shard)}
            except CkptfmtError:
                present[shard] = set()
        gone = [shard for shard, digests in wanted.items() if digests - present[shard]]
        for shard in gone:
            catalog.forget_shard(shard)
        if not gone:
            return {digest: objects[digest] for digest in resolved.missing}, list(wanted)


def _nowhere(digest: str) -> bool:
    return False


def confirm(
    store: Store,
    objects: dict[str, int],
    name: str,
    *,
    outside: OutsideObjects | None,
    again: Callable[[frozenset[str]], object],
) -> None:
    """Make sure, on the file system and not in the catalog, that all objects of a document are there and durable.

    Args:
        store: where.
        objects: what is needed.
        name: what to call the document in errors.
        outside: the objects of a referenced base.
        again: writes objects that a dedup relied on and that are gone meanwhile.

    Raises:
        IncompleteStore: objects go on vanishing.
    """
    for attempt in range(_PASSES):
        missing, shards = _look(store, objects, outside)
        if missing:
            store.catalog(refresh=True)
            missing, shards = _look(store, objects, outside)
        if not missing:
            # A shard that is seen is not durable yet: whoever wrote it may have been stopped before its name was.
            store.storage.settle(map(shard_key, shards))
            return
        if attempt < _PASSES - 1:
            again(frozenset(missing))
    raise IncompleteStore(
        f"{len(missing)} objects of {name!r} vanish again and again", digest=next(iter(missing)), hint="ckptfmt fsck"
    )


def confirm_documents(store: Store, digest: str, manifest: Manifest) -> None:
    """Make sure that a manifest, its lineage and its base's record are there and durable, not only in the trash.

    Of what its ancestors are made of, all that can be brought back is: what was lost before is no news here.

    Raises:
        IncompleteStore: its parent or its base's record is gone.
    """
    storage = store.storage
    if not bring_back(storage, manifest_key(digest)):
        store.put_manifest(manifest)
    keys = [manifest_key(digest)]
    needed: list[Manifest | BaseRecord] = []
    link, parent = manifest.base, manifest.lineage.parent if manifest.lineage is not None else None
    if link is not None:
        keys.append(record_key(link.record))
        _bring_back(store, keys[-1], f"the record of base {link.name!r}")
        needed.append(store.record(link.record))
    seen: set[str] = set()
    while parent is not None and parent not in seen:
        seen.add(parent)
        try:
            _bring_back(store, manifest_key(parent), f"the parent {parent[:16]}")
            ancestor = store.manifest(parent)
        except CkptfmtError:
            if len(seen) == 1:
                raise
            break
        keys.append(manifest_key(parent))
        needed.append(ancestor)
        parent = ancestor.lineage.parent if ancestor.lineage is not None else None
    catalog = store.catalog()
    for document in needed:
        shards = {copy.shard for copy in resolve(catalog.find_many, objects_of(document), _nowhere).copies.values()}
        keys += [shard_key(shard) for shard in shards if bring_back(storage, shard_key(shard))]
    storage.settle(keys)


def _bring_back(store: Store, key: str, what: str) -> None:
    if not bring_back(store.storage, key):
        raise IncompleteStore(f"{what} is gone: {key}", digest=key, hint="ckptfmt fsck")


def publish(
    store: Store,
    manifest: Manifest,
    name: str,
    make: Callable[[str, Generation | None], Generation | None],
    *,
    outside: OutsideObjects | None,
    again: Callable[[frozenset[str]], object],
) -> tuple[str, Generation | None]:
    """Give a manifest whose shards are durable its name.

    Args:
        store: where.
        manifest: what.
        name: the ref.
        make: drafts the ref's generation from the manifest's id and the newest generation; None: it stands already.
        outside: the objects of a referenced base.
        again: writes objects that a dedup relied on and that are gone meanwhile.

    Returns:
        The manifest's id and the ref's generation (the standing one where nothing was to do).

    Raises:
        IncompleteStore: objects go on vanishing.
    """
    objects = objects_of(manifest)
    digest = store.put_manifest(manifest)

    def confirm_all() -> None:
        confirm_documents(store, digest, manifest)
        confirm(store, objects, name, outside=outside, again=again)

    with pinned(store, digest) as claim:
        generation = claim.give(confirm_all, lambda: store.refs.append(name, lambda newest: make(digest, newest)))
    return digest, generation or store.refs.newest(name)


def settle_seen(storage: Storage, certain: set[str]) -> None:
    """Make durable all that is seen: what stays instead of something that goes, and what says that it may go.

    Whoever wrote it may have been stopped before its name was: a power loss would take the one back, and not the other.
    Generations that have stood for an hour are durable by themselves; of what may have been brought back the age says
    nothing.

    Args:
        storage: of a store.
        certain: keys of generations that are known to be durable; those that are made so now are added.
    """
    young_ns = storage.now_ns() - _SETTLED_SECONDS * 10**9
    names = {listed.key for listed in storage.list("refs/") if listed.modified_ns >= young_ns}
    storage.settle(listed.key for prefix in _PLACES for listed in storage.list(prefix))
    storage.settle(names - certain)
    certain |= names
