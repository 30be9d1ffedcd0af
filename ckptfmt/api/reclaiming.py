"""The verb `gc`: what nothing reaches is taken out, and after a grace unlinked."""

from __future__ import annotations

import time

import msgspec

from ckptfmt.errors import InvalidInput
from ckptfmt.progress import Progress
from ckptfmt.store.gc_plan import GcPlan, Leaving, plan_gc
from ckptfmt.store.gc_run import execute_gc
from ckptfmt.store.receipts import held_manifests
from ckptfmt.store.store import Store


class GcItem(msgspec.Struct, frozen=True):
    """A file of the store that goes: its path in it, its size in bytes, and why."""

    path: str
    bytes: int
    reason: str


class GcTrash(msgspec.Struct, frozen=True):
    """What an earlier run took out. `due`: its grace is over, and `freed_bytes` of it are needed by nobody."""

    path: str
    bytes: int
    age_seconds: float
    due: bool
    freed_bytes: int


class GcPlanned(msgspec.Struct, frozen=True):
    """What a gc will do.

    Attributes:
        take_out: files that nothing needs and that are older than the grace.
        unfinished: what processes that are long gone left behind.
        trash: what earlier runs took out.
        written_bytes, written: new shards for what is left of mostly dead ones.
        young_bytes: of what nothing needs and is younger than the grace.
        beside_bytes: of objects that nothing needs, in shards that stay because most of each is needed.
        freed_bytes: what this gc unlinks.
        later_bytes: what it takes out for a gc after the grace to unlink.
        manifests, bases, objects: how many stay.
    """

    take_out: tuple[GcItem, ...]
    unfinished: tuple[GcItem, ...]
    trash: tuple[GcTrash, ...]
    written: int
    written_bytes: int
    young_bytes: int
    beside_bytes: int
    freed_bytes: int
    later_bytes: int
    manifests: int
    bases: int
    objects: int


class GcReport(msgspec.Struct, frozen=True):
    """What a gc did; without `applied` nothing.

    Attributes:
        plan: what it meant to do.
        freed_bytes: what was unlinked.
        written_bytes: what was written for that.
        taken_out_bytes: what was taken out, unlinked since or not.
        brought_back: files that were taken out once and are needed now.
        problems: copies that would have stayed and are damaged; others were kept instead.
    """

    plan: GcPlanned
    applied: bool
    freed_bytes: int = 0
    written_bytes: int = 0
    taken_out_bytes: int = 0
    unlinked: int = 0
    shards: int = 0
    brought_back: int = 0
    problems: tuple[str, ...] = ()


def make_plan(store: Store, *, grace_hours: float, keep_history_days: float, apply: bool) -> GcPlan:
    """Plan a gc.

    Args:
        store: where.
        grace_hours: what is younger stays.
        keep_history_days: how long what was superseded or dropped can be brought back.
        apply: whether it is to be executed: ages are then told by the storage's own clock, for which a file is written.

    Raises:
        InvalidInput: an age that is none.
        IncompleteStore, IntegrityError: something that is needed is missing or damaged.
    """
    for name, value in (("--grace", grace_hours), ("--keep-history", keep_history_days)):
        if not 0 <= value < float("inf"):
            raise InvalidInput(f"{name} {value}: expected 0 or more", hint="ckptfmt gc --help")
    return plan_gc(
        store,
        now_ns=store.storage.now_ns() if apply else time.time_ns(),
        grace_seconds=grace_hours * 3600,
        keep_history_seconds=keep_history_days * 86400,
        held=_held,
    )


def run_plan(store: Store, plan: GcPlan, progress: Progress) -> GcReport:
    """Execute a plan. See `execute_gc`."""
    done = execute_gc(store, plan, _held, progress)
    return GcReport(
        plan=told(plan),
        applied=True,
        freed_bytes=done.freed_bytes,
        written_bytes=done.written_bytes,
        taken_out_bytes=done.taken_out_bytes,
        unlinked=done.unlinked,
        shards=done.shards,
        brought_back=done.brought_back,
        problems=tuple(done.problems),
    )


def told(plan: GcPlan) -> GcPlanned:
    """A plan, as it is shown."""
    manifests, bases, objects = plan.reached
    return GcPlanned(
        take_out=tuple(map(_item, plan.leaving)),
        unfinished=tuple(map(_item, plan.unfinished)),
        trash=tuple(
            GcTrash(held.prefix.rstrip("/"), held.size, held.age_seconds, held.due, held.freed_bytes)
            for held in plan.trash
        ),
        written=len(plan.new_shards),
        written_bytes=plan.written_bytes,
        young_bytes=plan.young_bytes,
        beside_bytes=plan.beside_bytes,
        freed_bytes=plan.freed_bytes,
        later_bytes=plan.later_bytes,
        manifests=manifests,
        bases=bases,
        objects=objects,
    )


def _item(leaving: Leaving) -> GcItem:
    return GcItem(leaving.key, leaving.size, leaving.why)


def _held(store: Store) -> frozenset[str]:
    """Manifests that give back originals which a cleanup still holds."""
    return frozenset(held_manifests(store))
