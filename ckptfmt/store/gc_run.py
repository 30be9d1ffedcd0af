"""Executing a gc plan. Stopped anywhere, everything is where it was, or in a trash that readers look into.

    repack → take out into trash/<run>/ → take over the runs whose grace is over → list the roots again
      → bring back what is needed → make sure that every copy that stays is in place, and sound → unlink the rest

Only the last step loses anything, and only what lies in a run that was taken over before the roots were listed: nobody
moves anything into it any more. A writer whose claim was not seen confirms what it needs after that, and brings it back
or writes it again. What stays is checked after the takeover, so of two runs that rely on each other's copies the later
one sees what the earlier one did.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from ckptfmt.errors import CkptfmtError, Conflict, DigestMismatch, IncompleteStore, NotFound, StorageError
from ckptfmt.format import documents
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.refs import TrashMarker
from ckptfmt.progress import Progress
from ckptfmt.storage.machine import host_name
from ckptfmt.store.catalog import Catalog, Location
from ckptfmt.store.gc_plan import GcPlan, is_due, is_needed, measured
from ckptfmt.store.graph import closure
from ckptfmt.store.marking import Marker
from ckptfmt.store.outside import Bases, all_outside
from ckptfmt.store.publish import settle_seen
from ckptfmt.store.refs import utc_now
from ckptfmt.store.repack import write_new_shard
from ckptfmt.store.roots import Roots, list_roots
from ckptfmt.store.shards import read_shard_header, shard_key, shard_of
from ckptfmt.store.store import Store, manifest_key, record_key
from ckptfmt.store.survey import ShardUse, Survey
from ckptfmt.store.trash import MARKER, Run, bring_back, place_in, run_prefix, runs

_PASSES: Final = 8
_PROVERS: Final = 2


@dataclass(slots=True)
class GcDone:
    """What a gc run did.

    Attributes:
        freed_bytes: bytes of what was unlinked.
        written_bytes: bytes of the shards that were written.
        taken_out_bytes: bytes of what it took out, unlinked since or not.
        unlinked, brought_back: how many values.
        shards: how many of those unlinked are shards.
        problems: copies that would have stayed and are not sound: other copies were kept.
    """

    freed_bytes: int = 0
    written_bytes: int = 0
    taken_out_bytes: int = 0
    unlinked: int = 0
    shards: int = 0
    brought_back: int = 0
    problems: list[str] = field(default_factory=list)


def execute_gc(store: Store, plan: GcPlan, held: Callable[[Store], frozenset[str]], progress: Progress) -> GcDone:
    """Do what a plan says.

    Args:
        store: where.
        plan: made by `plan_gc`.
        held: gives the manifests that receipts of a cleanup hold.
        progress: told of bytes that are moved or proven; may raise to stop.

    Raises:
        IncompleteStore, IntegrityError: something that is needed is missing or damaged; nothing was unlinked.
        Conflict: others were quicker, again and again.
        StorageError: the file system refuses; where the disk is full, after all that needs no space was done.
    """
    run = _GcRun(store, plan, held, progress)
    run.sweep()
    run.take_out(but=run.repack())
    taken = run.take_over()
    if taken:
        run.empty(taken)
    store.catalog(refresh=True)
    if run.full is not None:
        raise run.full
    return run.done


def _run_name() -> str:
    return f"{utc_now().replace(':', '')}-{os.getpid()}-{uuid.uuid4().hex}"


class _GcRun:
    """One run: its steps, in order.

    Attributes:
        done: what it did so far.
        full: the error of a step that was left out because it needs space.
    """

    def __init__(self, store: Store, plan: GcPlan, held: Callable[[Store], frozenset[str]], progress: Progress) -> None:
        self._store = store
        self._storage = store.storage
        self._plan = plan
        self._held = held
        self._progress = progress
        self.done = GcDone()
        self.full: StorageError | None = None
        self._certain: set[str] = set()

    def sweep(self) -> None:
        """Remove what processes that are long gone left unfinished."""
        for item in self._plan.unfinished:
            self._storage.delete(item.key)
            self.done.freed_bytes += item.size
            self.done.unlinked += 1

    def repack(self) -> frozenset[str]:
        """Write the new shards.

        Returns:
            Shards whose objects could not be moved because one of them is damaged, or was taken out by another run
            meanwhile, or because the disk is full: they stay.
        """
        stay: set[str] = set()
        if self._plan.new_shards:
            self._progress.begin("repack", sum(new.data_bytes for new in self._plan.new_shards))
        for new in self._plan.new_shards:
            try:
                objects = write_new_shard(self._storage, new, self._progress)
            except (DigestMismatch, NotFound, StorageError) as error:
                stay |= {shard for shard, _ in new.sources}
                if isinstance(error, StorageError):
                    self._left_out(error)
                elif isinstance(error, DigestMismatch):
                    self.done.problems.append(error.message)
                continue
            self._store.catalog().add_shard(new.digest, new.size, objects)
            self.done.written_bytes += new.size
        if self._plan.new_shards:
            self._progress.end()
        return frozenset(stay)

    def take_out(self, *, but: frozenset[str]) -> None:
        """Move what leaves into a run of its own, except the shards in `but`."""
        leaving = [item for item in self._plan.leaving if shard_of(item.key) not in but]
        if not leaving:
            return
        settle_seen(self._storage, self._certain)
        prefix = run_prefix(_run_name())
        marker = TrashMarker(version=FORMAT_VERSION, host=host_name(), time=utc_now())
        try:
            self._begin(prefix, documents.seal(marker))
        except StorageError as error:
            # Without a grace another run may take this one over before its marker is durable: it does the rest.
            if not isinstance(error.__cause__, FileNotFoundError):
                self._left_out(error)
            return
        for item in leaving:
            if self._storage.move(item.key, place_in(prefix, item.key)):
                self.done.taken_out_bytes += item.size
            elif self._storage.size(prefix + MARKER) is None:
                return  # Somebody took this run over. The rest is for a later one.

    def _begin(self, prefix: str, marker: bytes) -> None:
        """Make the directory of a run. Without room for a marker it does without: its own age counts then."""
        try:
            self._storage.put(prefix + MARKER, marker)
        except StorageError as error:
            if error.code != "disk-full":
                raise
            self._storage.settle([prefix + MARKER])

    def _left_out(self, error: StorageError) -> None:
        """Go on without a step for which there is no room: what follows may make some."""
        if error.code != "disk-full":
            raise error
        self.full = error

    def take_over(self) -> frozenset[str]:
        """Make the runs whose grace is over one's own; their prefixes now."""
        now_ns = self._storage.now_ns()
        due = [run for run in runs(self._storage) if is_due(run, now_ns, self._plan.grace_seconds)]
        targets = [(run.prefix, run_prefix(_run_name())) for run in due]
        return frozenset(target for prefix, target in targets if self._storage.take_over(prefix, target))

    def empty(self, taken: frozenset[str]) -> None:
        """Unlink what nobody needs of the runs that were taken over, and give back the rest."""
        marker = Marker(self._store)
        doubtful: set[bytes] = set()
        problem: CkptfmtError | None = None
        for _ in range(_PASSES):
            owned = [run for run in runs(self._storage) if run.prefix in taken]
            try:
                marker.mark(self._roots())
                found = measured(self._store, marker)
            except IncompleteStore as error:
                # Others move things meanwhile, and free what was a root a moment ago. If not, it is missing each time.
                problem, marker = error, Marker(self._store)
                continue
            problem = None
            live = {use.digest for use in found.live_shards()} | _holding(self._store, owned, doubtful)
            live |= _unreadable(owned, found)
            if not self._all_in_place(marker, live, found):
                continue
            outside = all_outside(self._store, records=marker.records)
            dropped = {shard for run in owned for value in run.values if (shard := shard_of(value.key))} - live
            unsound = _unsound(self._store, dropped, found, outside, self._progress)
            if unsound is None:
                continue
            if not unsound:
                self._unlink(owned, marker, live)
                return
            doubtful |= unsound.keys()
            self.done.problems += unsound.values()
        raise problem or Conflict(
            "others were quicker, again and again", code="lost-race", hint="run the same command again"
        )

    def _roots(self) -> Roots:
        return list_roots(
            self._store,
            now_ns=self._storage.now_ns(),
            keep_history_seconds=self._plan.keep_history_seconds,
            held=self._held(self._store),
        )

    def _all_in_place(self, marker: Marker, live: set[str], found: Survey) -> bool:
        """Bring back what is needed; look whether all of it is in its place, and is what it should be; make it durable.

        A copy that is seen is not durable yet: whoever wrote it may have been stopped before its name was.
        """
        keys = [*map(shard_key, live), *map(manifest_key, marker.manifests), *map(record_key, marker.records)]
        gone = [key for key in keys if self._storage.size(key) is None]
        back = [key for key in gone if bring_back(self._storage, key)]
        self.done.brought_back += len(back)
        if len(back) != len(gone):
            return False
        for row, use in found.uses.items():
            if use.live and not self._holds(use, row, found):
                self._store.catalog().forget_shard(use.digest)
                return False
        if not all(self._storage.size(key) is not None for key in keys):
            return False
        settle_seen(self._storage, self._certain)
        return True

    def _holds(self, use: ShardUse, row: int, found: Survey) -> bool:
        """Tell whether a shard in its place holds all the copies that stay there, by its own header."""
        try:
            header = read_shard_header(self._storage, use.digest)
        except CkptfmtError:
            return False
        return use.live == sum(found.choice.shards.get(bytes.fromhex(item.digest)) == row for item in header)

    def _unlink(self, owned: list[Run], marker: Marker, live: set[str]) -> None:
        keys: list[str] = []
        for value in (value for run in owned for value in run.values):
            keys.append(value.at)
            if not is_needed(value.key, marker, live):
                self.done.freed_bytes += value.size
                self.done.unlinked += 1
                self.done.shards += shard_of(value.key) is not None
        # The markers last: what is left of a run that was stopped here is still due.
        self._storage.discard(keys)
        self._storage.discard([run.prefix + MARKER for run in owned])


def _unreadable(owned: list[Run], found: Survey) -> set[str]:
    """Shards of these runs of which nobody knows what they hold: they all stay."""
    known = {use.digest for use in found.uses.values()}
    return {shard for run in owned for value in run.values if (shard := shard_of(value.key)) and shard not in known}


def _holding(store: Store, owned: list[Run], doubtful: set[bytes]) -> set[str]:
    """Shards of these runs that hold a copy of what is in doubt, or of what any copy of it is made of: they stay."""
    catalog, digests = store.catalog(), {digest.hex() for digest in doubtful}
    copies = catalog.find_many(digests | closure(catalog.dependencies, digests))
    holding = {copy.shard for found in copies.values() for copy in found}
    return holding & {shard for run in owned for value in run.values if (shard := shard_of(value.key))}


def _losing(catalog: Catalog, dropped: set[str], needed: Collection[bytes]) -> set[bytes] | None:
    """Objects that are needed and are about to lose a copy, or something that a copy is stored against.

    Returns:
        None where another process changed what the catalog knows of these shards.
    """
    with catalog.still():
        rows = {row for row, digest in catalog.rows().items() if digest in dropped}
        if len(rows) != len(dropped):
            return None
        going: set[bytes] = set()

        def take(digest: bytes, row: int, size: int) -> None:
            if row in rows:
                going.add(digest)

        catalog.every_copy(take)
        losing = {digest for digest in going if digest in needed}
        # What is not needed is not proven: whatever is stored against it loses a copy as well.
        seen = fresh = going - losing
        while fresh:
            found = catalog.dependents(fresh)
            losing |= {digest for digest in found if digest in needed}
            fresh = found - losing - seen
            seen = seen | fresh
        return losing


def _unsound(
    store: Store, dropped: set[str], found: Survey, outside: Bases, progress: Progress
) -> dict[bytes, str] | None:
    """Objects that are about to lose a copy and whose copy that stays does not decode, with the reason.

    Returns:
        None where another process changed the catalog meanwhile, or moved what stays.
    """
    if not dropped:
        return {}
    catalog = store.catalog()
    losing = _losing(catalog, dropped, found.choice.shards.keys())
    if losing is None:
        return None
    known = catalog.find_many(each.hex() for each in sorted(losing))
    copies = {
        digest: copy
        for digest, every in known.items()
        for copy in every
        if copy.shard == found.uses[found.choice.shards[bytes.fromhex(digest)]].digest
    }
    if len(copies) != len(losing):
        return None
    if not copies:
        return {}
    objects = store.objects(outside)
    progress.begin("prove what stays", sum(copy.stored.length for copy in copies.values()))

    def prove(item: tuple[str, Location]) -> CkptfmtError | None:
        digest, copy = item
        try:
            objects.prove(digest, copy)
        except CkptfmtError as error:
            return error
        progress.advance(copy.stored.length)
        return None

    with ThreadPoolExecutor(_PROVERS, "prove") as pool:
        told = list(pool.map(prove, copies.items()))
    progress.end()
    if any(isinstance(problem, (NotFound, IncompleteStore)) for problem in told):
        return None  # It was in its place a moment ago: another run relies on another copy.
    return {bytes.fromhex(digest): problem.message for digest, problem in zip(copies, told, strict=True) if problem}
