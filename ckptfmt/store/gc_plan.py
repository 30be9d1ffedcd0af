"""Planning a gc run: reads only, and refuses where anything that is needed is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ckptfmt.digest import is_digest
from ckptfmt.errors import IncompleteStore, NotFound
from ckptfmt.format.shard import ShardObject
from ckptfmt.storage.local import TEMPORARY
from ckptfmt.storage.protocol import Listed
from ckptfmt.store.marking import Marker
from ckptfmt.store.outside import all_outside
from ckptfmt.store.publish import PINS
from ckptfmt.store.repack import NewShard, plan_new_shards
from ckptfmt.store.roots import is_unfinished_old, list_roots
from ckptfmt.store.shards import PREFIX, read_shard_header, shard_key, shard_of
from ckptfmt.store.store import Store
from ckptfmt.store.survey import ShardUse, Survey, survey
from ckptfmt.store.trash import Run, runs

UNREACHABLE: Final = "nothing reaches it"
COPIES: Final = "other copies of what it holds stay"
REPACKED: Final = "what is left of it moves to another shard"
_LOOKS: Final = 4


@dataclass(frozen=True, slots=True)
class Leaving:
    """A value that leaves its place: its key, its size in bytes, and why."""

    key: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """What lies in the trash: `due` where its grace is over, `freed_bytes` of it then."""

    prefix: str
    age_seconds: float
    size: int
    due: bool
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What a gc run will do.

    Attributes:
        grace_seconds: what is younger stays where it is; what was taken out stays in the trash as long.
        keep_history_seconds: generations count as long after they were superseded or dropped.
        leaving: shards and documents that it takes out.
        new_shards: shards that it writes first.
        trash: what earlier runs took out.
        unfinished: writes and claims of processes that are long gone.
        young_bytes: bytes of what nothing reaches and is younger than the grace.
        beside_bytes: bytes of objects that nothing needs, in shards that stay as they are for others.
        reached: how many manifests, base records and objects stay.
    """

    grace_seconds: float
    keep_history_seconds: float
    leaving: tuple[Leaving, ...]
    new_shards: tuple[NewShard, ...]
    trash: tuple[Held, ...]
    unfinished: tuple[Leaving, ...]
    young_bytes: int
    beside_bytes: int
    reached: tuple[int, int, int]

    @property
    def written_bytes(self) -> int:
        """Bytes of the shards that it writes."""
        return sum(new.size for new in self.new_shards)

    @property
    def freed_bytes(self) -> int:
        """Bytes that it unlinks."""
        freed = sum(item.size for item in self.unfinished) + sum(held.freed_bytes for held in self.trash if held.due)
        return freed + (sum(item.size for item in self.leaving) if self.grace_seconds <= 0 else 0)

    @property
    def later_bytes(self) -> int:
        """Bytes that it takes out, for a run after the grace to unlink."""
        return 0 if self.grace_seconds <= 0 else sum(item.size for item in self.leaving)


def plan_gc(
    store: Store,
    *,
    now_ns: int,
    grace_seconds: float,
    keep_history_seconds: float,
    held: Callable[[Store], frozenset[str]],
) -> GcPlan:
    """Look at a store and say what can go.

    Args:
        store: where.
        now_ns: the time, by the storage's clock.
        grace_seconds: what is younger stays.
        keep_history_seconds: generations count as long after they were superseded or dropped.
        held: gives the manifests that receipts of a cleanup hold.

    Raises:
        IncompleteStore, IntegrityError: something that is needed is missing or damaged; nothing would be freed.
    """
    marker, found = _looked(store, now_ns, keep_history_seconds, held)
    before_ns = now_ns - int(grace_seconds * 1e9)
    by_digest = {use.digest: use for use in found.uses.values()}
    new_shards, repacked = _repacking(store, found, before_ns)
    leaving: list[Leaving] = []
    young_bytes = 0
    for listed, why in _candidates(store, marker, by_digest, repacked):
        if listed.modified_ns <= before_ns:
            leaving.append(Leaving(listed.key, listed.size, why))
        else:
            young_bytes += listed.size
    return GcPlan(
        grace_seconds=grace_seconds,
        keep_history_seconds=keep_history_seconds,
        leaving=tuple(sorted(leaving, key=lambda item: item.key)),
        new_shards=tuple(new_shards),
        trash=tuple(_held(run, marker, by_digest, now_ns, grace_seconds) for run in runs(store.storage)),
        unfinished=tuple(_unfinished(store, now_ns, grace_seconds)),
        young_bytes=young_bytes,
        beside_bytes=sum(
            use.data_bytes - use.live_bytes
            for use in found.uses.values()
            if use.in_place and use.live and use.digest not in repacked
        ),
        reached=(len(marker.manifests), len(marker.records), len(found.choice.shards) + len(found.choice.beyond)),
    )


def _looked(
    store: Store, now_ns: int, keep_history_seconds: float, held: Callable[[Store], frozenset[str]]
) -> tuple[Marker, Survey]:
    """What is needed and where it is, looked for again where it is not there: other runs move things meanwhile."""
    for look in range(_LOOKS):
        marker = Marker(store)
        try:
            marker.mark(list_roots(store, now_ns=now_ns, keep_history_seconds=keep_history_seconds, held=held(store)))
            return marker, measured(store, marker)
        except IncompleteStore:
            if look == _LOOKS - 1:
                raise
    raise AssertionError("unreachable")


def measured(store: Store, marker: Marker) -> Survey:
    """Choose the copies that stay of all that was marked.

    What only claims and earlier generations need may be nowhere (`Marker.hoped`).

    Raises:
        IncompleteStore: objects that are needed are nowhere.
    """
    bases = all_outside(store, records=marker.records)
    found = survey(store, marker.objects, lambda digest: bases.has(digest.hex()))
    missing = found.choice.missing - marker.hoped
    if missing:
        unreadable = "".join(f"; {error.message}" for error in list(store.unreadable_shards.values())[:1])
        raise IncompleteStore(
            f"nothing was freed: {len(missing)} objects that are needed are in no shard{unreadable}",
            digest=min(missing).hex(),
            hint="ckptfmt fsck",
        )
    return found


def is_needed(key: str, marker: Marker, live: frozenset[str] | set[str]) -> bool:
    """Tell whether a shard or document is needed; `live` are the shards that hold a copy that stays."""
    kind, name = key.partition("/")[0], key.rpartition("/")[2].partition(".")[0]
    return name in {"manifests": marker.manifests, "bases": marker.records, "shards": live}[kind]


def _candidates(
    store: Store, marker: Marker, uses: dict[str, ShardUse], repacked: frozenset[str]
) -> Iterator[tuple[Listed, str]]:
    """Values in their place that are not needed, or will not be. A shard that cannot be read is none."""
    for listed in store.storage.list(PREFIX):
        use = uses.get(shard_of(listed.key) or "")
        if use is None:
            continue
        if use.digest in repacked:
            yield listed, REPACKED
        elif not use.live:
            yield listed, COPIES if use.wanted_bytes else UNREACHABLE
    for prefix, needed in (("manifests/", marker.manifests), ("bases/", marker.records)):
        for listed in store.storage.list(prefix):
            name = listed.key.rpartition("/")[2].removesuffix(".json")
            if is_digest(name) and name not in needed:
                yield listed, UNREACHABLE


def _repacking(store: Store, found: Survey, before_ns: int) -> tuple[list[NewShard], frozenset[str]]:
    """Shards of whose data less than half is alive, and those that take what is left of them."""
    old = {shard_of(listed.key) for listed in store.storage.list(PREFIX) if listed.modified_ns <= before_ns}
    sparse = {
        row: use
        for row, use in found.uses.items()
        if use.digest in old and use.in_place and use.live and 2 * use.live_bytes < use.data_bytes
    }
    moving: list[tuple[str, ShardObject]] = []
    for row, use in sorted(sparse.items(), key=lambda item: item[1].digest):
        try:
            header = read_shard_header(store.storage, use.digest)
        except NotFound:
            del sparse[row]  # Another run has just taken it out.
            continue
        stays = [item for item in header if found.choice.shards.get(bytes.fromhex(item.digest)) == row]
        moving += [(use.digest, item) for item in stays]
    planned = plan_new_shards(moving)
    sizes = sum(store.storage.size(shard_key(use.digest)) or 0 for use in sparse.values())
    if sum(new.size for new in planned) >= sizes:
        return [], frozenset()
    return planned, frozenset(use.digest for use in sparse.values())


def _held(run: Run, marker: Marker, uses: dict[str, ShardUse], now_ns: int, grace_seconds: float) -> Held:
    live = {digest for digest, use in uses.items() if use.live and not use.in_place}
    dropped = sum(value.size for value in run.values if not is_needed(value.key, marker, live))
    age = (now_ns - run.marked_ns) / 1e9
    return Held(run.prefix, age, sum(value.size for value in run.values), is_due(run, now_ns, grace_seconds), dropped)


def is_due(run: Run, now_ns: int, grace_seconds: float) -> bool:
    """Tell whether the grace of what a run took out is over. The future is young; so is a run that was only begun."""
    if not run.has_marker and not run.values:
        return is_unfinished_old(run.marked_ns, now_ns)
    return now_ns - run.marked_ns >= grace_seconds * 1e9


def _unfinished(store: Store, now_ns: int, grace_seconds: float) -> Iterator[Leaving]:
    for prefix, why in (
        (f"{TEMPORARY}/", "a write that was never finished"),
        (PINS, "a claim of a writer that is gone"),
    ):
        for listed in store.storage.list(prefix):
            age = (now_ns - listed.modified_ns) / 1e9
            if is_unfinished_old(listed.modified_ns, now_ns) and age >= grace_seconds:
                yield Leaving(listed.key, listed.size, why)
