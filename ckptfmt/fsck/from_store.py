"""Objects that another store still has: a backup, or a copy on another host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.shard import ShardObject
from ckptfmt.fsck.look_shards import Shards
from ckptfmt.fsck.objects_again import beside_damaged
from ckptfmt.fsck.problem import Repair
from ckptfmt.store.object_writer import Incoming
from ckptfmt.store.outside import Bases
from ckptfmt.store.shards import ShardWriter
from ckptfmt.store.store import Store


def fetch(store: Store, shards: Shards, lacking: Iterable[str], others: Sequence[Store]) -> list[Repair]:
    """Put lacking objects into new shards from other stores; each is decoded and proven by its digest first."""
    done: list[Repair] = []

    wanted = set(lacking)
    for other in others:
        taken = 0
        objects = other.objects(Bases(other))
        with ThreadPoolExecutor(2, "encode") as pool, beside_damaged(store.storage, shards) as wrote:

            def written(
                shard: str, size: int, items: tuple[ShardObject, ...], wrote: Callable[[str], None] = wrote
            ) -> None:
                wrote(shard)
                shards.truth.forget_shard(shard)
                shards.truth.add_shard(shard, size, items)

            writer = ShardWriter(
                store.storage, effort="balanced", pool=pool, remaining=lambda: 1 << 20, written=written
            )
            try:
                for digest in sorted(wanted):
                    copies = other.catalog().find(digest)
                    if not copies:
                        continue
                    length = copies[0].stored.length
                    try:
                        objects.verify(digest, length)
                    except CkptfmtError:
                        continue
                    incoming = writer.begin(Incoming(length, copies[0].stored.element))
                    for frame in objects.frames(digest, length):
                        incoming.append(frame)
                    if incoming.finish() == digest:
                        wanted.discard(digest)
                        taken += 1
                writer.flush()
            finally:
                writer.abort()
        if taken:
            done.append(Repair("objects-missing", "shards", f"{taken} objects were taken from the store {other.path}"))
    return done
