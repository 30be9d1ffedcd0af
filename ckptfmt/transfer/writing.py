"""Writing what was read: a sink into the shards of a store, durable at its end and gone after an error."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ckptfmt.containers.protocol import Cut
from ckptfmt.encodings.protocol import Effort
from ckptfmt.format.shard import ShardObject, header_estimate
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.graph import resolve
from ckptfmt.store.shards import ShardWriter
from ckptfmt.store.store import Store
from ckptfmt.transfer.reading import ReadCheckpoint
from ckptfmt.transfer.sinks import Referring, StoreSink, Unreferred

_SKELETON_RESERVE = 1024
_NOTHING = Unreferred()


class Written:
    """What one import wrote: digests, bytes of shards, and the digests of what it was stored against."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.objects: dict[str, None] = {}
        self.size = 0
        self.against: set[str] = set()

    def __call__(self, shard: str, size: int, objects: tuple[ShardObject, ...]) -> None:
        """Take note of a shard that is durable."""
        self._store.facts().add_shard(shard, size, objects)
        self.objects.update((item.digest, None) for item in objects)
        self.size += size
        self.against.update(digest for item in objects for digest in item.stored.dependencies)


@contextmanager
def storing(
    store: Store,
    checkpoint: ReadCheckpoint,
    *,
    effort: Effort,
    pool: Executor,
    written: Written,
    outside: BaseFiles | None = None,
    vanished: frozenset[str] = frozenset(),
    references: Referring = _NOTHING,
) -> Iterator[StoreSink]:
    """A sink for the files of `checkpoint`, which writes what neither the store nor the base `outside` holds.

    Args:
        store: where.
        checkpoint: what is going to come, for the room that shard headers take.
        effort: how much to spend on smaller objects.
        pool: encodes.
        written: told of each shard.
        outside: a referenced base whose files were looked at; no other is relied on.
        vanished: objects to write although the catalog still knows them.
        references: say what each extent may be stored against.
    """
    catalog = store.catalog()

    def known(digest: str) -> bool:
        return digest not in vanished and not resolve(catalog.find_many, [digest], lies_outside).missing

    def lies_outside(digest: str) -> bool:
        return outside is not None and outside.has(digest)

    room = _header_room(checkpoint)
    writer = ShardWriter(store.storage, effort=effort, pool=pool, remaining=lambda: room, written=written)
    try:
        yield StoreSink(writer, catalog, known, outside.lengths() if outside else frozenset(), references)
        writer.flush()
    finally:
        writer.abort()


def _header_room(checkpoint: ReadCheckpoint) -> int:
    """An upper bound, in bytes, of the shard header that all objects of a checkpoint take."""
    room = 0
    for entry in checkpoint.walked.of_kind("file"):
        cut = checkpoint.cuts[entry.path]
        if isinstance(cut, Cut):
            room += sum(header_estimate(span.length, len(span.shape)) for span in cut.extents) + _SKELETON_RESERVE
        else:
            room += header_estimate(entry.size, 1)
    return room
