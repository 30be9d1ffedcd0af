"""What a store holds, measured against what is needed: which copies stay, and what of each shard is alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckptfmt.store.catalog import Catalog
from ckptfmt.store.choosing import Choice, Chooser, Copy
from ckptfmt.store.shards import shard_of
from ckptfmt.store.store import Store
from ckptfmt.store.trash import trashed


@dataclass(slots=True)
class ShardUse:
    """One shard.

    Attributes:
        digest: its name.
        in_place: whether it lies at its own key; else only in the trash.
        data_bytes: stored bytes of all its objects.
        wanted_bytes: of those of them that are needed, whichever copy stays.
        live_bytes: of those whose copy here stays.
        live: how many these are.
    """

    digest: str
    in_place: bool
    data_bytes: int = 0
    wanted_bytes: int = 0
    live_bytes: int = 0
    live: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What stays.

    Attributes:
        choice: the copies that stay, by number of the shard.
        uses: the shards, by that number.
    """

    choice: Choice
    uses: Mapping[int, ShardUse]

    def live_shards(self) -> list[ShardUse]:
        """The shards that hold a copy that stays."""
        return [use for use in self.uses.values() if use.live]


def survey(store: Store, wanted: set[bytes], outside: Callable[[bytes], bool]) -> Survey:
    """Choose a copy of every object that is wanted.

    Copies in place go before equal ones in the trash, those in shards of which more is wanted before those in emptier
    ones: so what was repacked is not chosen where it lay before.

    Args:
        store: where.
        wanted: digests, 32 bytes each.
        outside: tells whether an object is recorded to lie in a base's files.
    """
    catalog = store.catalog(refresh=True)
    only_trashed = {shard for value in trashed(store.storage) if (shard := shard_of(value.key)) is not None}
    only_trashed -= {shard for listed in store.storage.list("shards/") if (shard := shard_of(listed.key)) is not None}
    with catalog.still():
        return _survey(catalog, wanted, only_trashed, outside)


def _survey(catalog: Catalog, wanted: set[bytes], only_trashed: set[str], outside: Callable[[bytes], bool]) -> Survey:
    uses = {row: ShardUse(digest, digest not in only_trashed) for row, digest in catalog.rows().items()}

    def measure(digest: bytes, row: int, size: int) -> None:
        use = uses[row]
        use.data_bytes += size
        if digest in wanted:
            use.wanted_bytes += size

    catalog.every_copy(measure)
    edges = catalog.every_edge()
    chooser = Chooser({row: _rank(use) for row, use in uses.items()}.__getitem__)
    last: bytes | None = None
    copies: list[Copy] = []

    def take(digest: bytes, row: int, size: int) -> None:
        nonlocal last
        if digest != last:
            if last is not None:
                chooser.add(last, copies)
            last = digest
            copies.clear()
        copies.append(Copy(row, size, edges.get((digest, row), ())))

    catalog.every_copy(take)
    if last is not None:
        chooser.add(last, copies)
    choice = chooser.choose(wanted, outside)

    def count(digest: bytes, row: int, size: int) -> None:
        if choice.shards.get(digest) == row:
            uses[row].live_bytes += size
            uses[row].live += 1

    catalog.every_copy(count)
    return Survey(choice, uses)


def _rank(use: ShardUse) -> tuple[bool, float, str]:
    return (not use.in_place, -(use.wanted_bytes / use.data_bytes if use.data_bytes else 0.0), use.digest)
