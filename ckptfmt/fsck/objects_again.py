"""Objects that are lost, put into new shards: from the damaged shard itself, or from the files they were cut from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import blake3

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import BaseRecord, File, Manifest
from ckptfmt.format.shard import ShardObject
from ckptfmt.fsck.look_shards import Shards, ShardState, rotten_objects
from ckptfmt.fsck.look_writers import ASIDE
from ckptfmt.fsck.problem import Repair
from ckptfmt.progress import SILENT
from ckptfmt.storage import durable
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.catalog import Catalog, Location
from ckptfmt.store.object_writer import Incoming
from ckptfmt.store.objects import Objects
from ckptfmt.store.outside import all_outside
from ckptfmt.store.repack import plan_new_shards, write_new_shard
from ckptfmt.store.shards import ShardWriter, shard_key
from ckptfmt.store.store import Store

_FLAT: Final = ","


def aside(storage: Storage, key: str) -> bool:
    """Give a damaged file a second name, durably, in the directory of what is set aside; its first one stays.

    Returns:
        False where it has only the new one, on file systems that give no second: then it is put back.
    """
    place = _second_name(storage, key)
    if storage.size(key) is not None:
        return True
    storage.link(place, key)
    storage.settle([key])
    return False


def _second_name(storage: Storage, key: str) -> str:
    """Give a file a name in the directory of what is set aside, durably."""
    place = f"{ASIDE}{key.replace('/', _FLAT)}"
    number = 1
    while storage.size(place) is not None:
        number += 1
        place = f"{ASIDE}{key.replace('/', _FLAT)}.{number}"
    storage.link(key, place)
    storage.settle([place])
    return place


@contextmanager
def beside_damaged(storage: Storage, shards: Shards) -> Iterator[Callable[[str], None]]:
    """Let shards be written that may have the very names of damaged ones: of just the same objects, stored alike.

    Meanwhile damaged shards have second names, which those keep whose place was taken.

    Yields:
        What is to be told of each shard that was written.
    """
    states = [state for state in shards.bad.values() if state.key == shard_key(state.shard) and not state.replaced]
    names = {state.shard: _second_name(storage, state.key) for state in states if storage.size(state.key) is not None}
    written: set[str] = set()
    yield written.add
    # Where that failed, all keep their second names: the place of one may be taken, and nobody was told.
    for state in states:
        if state.shard in written:
            state.replaced = True
        elif state.shard in names and storage.size(state.key) is not None:
            storage.delete(names[state.shard])


def copy_out(store: Store, shards: Shards, state: ShardState) -> Repair | None:
    """Write what is sound in a damaged shard, and lies in no other, into a new one.

    Returns:
        What was repaired where the new shard has the damaged one's name, and so its place.
    """
    storage = store.storage
    if state.key != shard_key(state.shard) or storage.size(state.key) is None:
        return None  # It lies in the trash: gc has found it needed by nobody.
    sound = _sound(store, shards, state)
    moving = [(state.shard, item) for item in sound if not _elsewhere(shards.truth, item.digest, state.shard)]
    planned = plan_new_shards(moving)
    replaced = any(new.digest == state.shard for new in planned)
    if replaced and not aside(storage, state.key):
        return None
    for new in planned:
        objects = write_new_shard(storage, new, SILENT)
        shards.truth.forget_shard(new.digest)
        shards.truth.add_shard(new.digest, new.size, objects)
    if not replaced:
        return None
    state.replaced = True
    return Repair(state.kind or "object-damaged", state.key, f"written anew; the damaged file lies in {ASIDE}")


def retire(store: Store, shards: Shards, state: ShardState, lacking: Iterable[str]) -> Repair | None:
    """Set a damaged shard aside after `copy_out`.

    It stays where it is while it may be what held anything that is lacking: a copy of it may come back.

    Args:
        store: where.
        shards: what was found.
        state: the damaged shard.
        lacking: digests that are needed and still nowhere.
    """
    storage = store.storage
    if state.replaced or state.key != shard_key(state.shard) or storage.size(state.key) is None:
        return None
    held, wanted = state.held(), set(lacking)
    if held & wanted or (wanted and not held):
        return None
    if not aside(storage, state.key):
        return None
    storage.delete(state.key)
    shards.truth.forget_shard(state.shard)
    what = f"what it held that is needed lies in other shards; the damaged file lies in {ASIDE}"
    return Repair(state.kind or "object-damaged", state.key, what)


def _elsewhere(truth: Catalog, digest: str, shard: str) -> bool:
    return any(copy.shard != shard for copy in truth.find(digest))


def _sound(store: Store, shards: Shards, state: ShardState) -> list[ShardObject]:
    """Objects of a damaged shard whose frames are what was stored.

    Where the header does not hold, what this host's catalog knew is not believed: each object is decoded and its digest
    compared.
    """
    rotten = rotten_objects(store.storage, state.key, state.objects)
    items = [item for item in state.objects if item.digest not in rotten]
    if state.kind is None:
        return items
    shards.truth.forget_shard(state.shard)
    shards.truth.add_shard(state.shard, state.size, items)
    objects = Objects(store.readable, shards.truth, refresh=lambda: None, outside=all_outside(store))
    proven = []
    for item in items:
        try:
            objects.prove(item.digest, Location(state.shard, item.begin, item.stored))
        except CkptfmtError:
            continue
        proven.append(item)
    shards.truth.forget_shard(state.shard)
    return proven


@dataclass(frozen=True, slots=True)
class Piece:
    """Where an object lay when it was taken in: ranges of a file, begin and end in bytes."""

    file: str
    ranges: tuple[tuple[int, int], ...]

    def frames(self, origin: str) -> Iterator[Buffer]:
        """The object's bytes as they lie there now, in frames.

        Raises:
            StorageError: the file cannot be read.
        """
        single = os.path.isfile(origin)
        path = origin if single and os.path.basename(origin) == self.file else os.path.join(origin, self.file)
        rest = b""
        with durable.storage_errors(path), open(path, "rb") as file:
            for begin, end in self.ranges:
                file.seek(begin)
                left = end - begin
                while left:
                    data = file.read(min(left, FRAME_BYTES - len(rest)))
                    if not data:
                        return
                    left -= len(data)
                    rest += data
                    if len(rest) == FRAME_BYTES:
                        yield rest
                        rest = b""
        if rest:
            yield rest


def pieces_of(document: Manifest | BaseRecord) -> Iterator[tuple[str, int, Piece]]:
    """Every object of a document: digest, length in bytes, and where it lay in the files."""
    for file in document.files:
        if file.content is not None:
            yield file.content, file.size, Piece(file.path, ((0, file.size),))
            continue
        for extent in file.extents:
            yield extent.digest, extent.length, Piece(file.path, ((extent.offset, extent.offset + extent.length),))
        if file.skeleton is not None:
            gaps = _gaps(file)
            yield file.skeleton, sum(end - begin for begin, end in gaps), Piece(file.path, gaps)


def _gaps(file: File) -> tuple[tuple[int, int], ...]:
    gaps, position = [], 0
    for extent in file.extents:
        gaps.append((position, extent.offset))
        position = extent.offset + extent.length
    return tuple((begin, end) for begin, end in (*gaps, (position, file.size)) if begin < end)


@dataclass(frozen=True, slots=True)
class Lay:
    """An object that is lacking, and where its bytes may still lie: a piece of a file below a directory."""

    length: int
    places: list[tuple[str, Piece]]


def take_again(store: Store, shards: Shards, lays: dict[str, Lay]) -> list[Repair]:
    """Put lacking objects into new shards from files that still have their bytes: each is proven by its digest first.

    Returns:
        What was repaired, by the directory it came from.
    """
    taken: dict[str, int] = {}
    with ThreadPoolExecutor(2, "encode") as pool, beside_damaged(store.storage, shards) as wrote:

        def written(shard: str, size: int, objects: tuple[ShardObject, ...]) -> None:
            wrote(shard)
            shards.truth.forget_shard(shard)
            shards.truth.add_shard(shard, size, objects)

        writer = ShardWriter(store.storage, effort="fast", pool=pool, remaining=lambda: 1 << 20, written=written)
        try:
            for digest, lay in sorted(lays.items()):
                found = _still(digest, lay)
                if found is None or writer.has(digest):
                    continue
                origin, piece = found
                incoming = writer.begin(Incoming(lay.length))
                length = 0
                for frame in piece.frames(origin):
                    length += len(frame)
                    incoming.append(frame)
                if length != lay.length:
                    return []  # It changed this moment: nothing of this is written.
                if incoming.finish() == digest:
                    taken[origin] = taken.get(origin, 0) + 1
            writer.flush()
        finally:
            writer.abort()
    return [
        Repair("objects-missing", "shards", f"taken in again from {origin}: {count} of the lacking objects")
        for origin, count in sorted(taken.items())
    ]


def _still(digest: str, lay: Lay) -> tuple[str, Piece] | None:
    """The first place where an object's bytes still lie."""
    for origin, piece in lay.places:
        content = blake3.blake3()
        try:
            for frame in piece.frames(origin):
                content.update(frame)
        except CkptfmtError:
            continue
        if content.hexdigest() == digest:
            return origin, piece
    return None
