"""The verb `fsck`: look at all of a store, and repair what can be known for sure."""

from __future__ import annotations

import os

import msgspec

from ckptfmt.errors import CkptfmtError
from ckptfmt.fsck import repair as repairs
from ckptfmt.fsck.look import look
from ckptfmt.fsck.problem import Level, Problem, Repair
from ckptfmt.progress import Progress
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.refs import Refs
from ckptfmt.store.store import DOCUMENT, Store


class FsckProblem(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    `path` is relative to the store; `harms` are the refs (`bases/NAME` for bases) that cannot do without it. `level`:
    `damage` (content that cannot be trusted or is gone), `problem`, or `note` (costs nobody anything).
    """

    kind: str
    level: Level
    path: str
    message: str
    harms: tuple[str, ...]
    hint: str | None


class FsckRepair(msgspec.Struct, frozen=True):
    """Something that was repaired: the kind of problem, the file, and what was done."""

    kind: str
    path: str
    message: str


class FsckReport(msgspec.Struct, frozen=True):
    """What a look at a store found: `problems` that are left, `notes`, and what was `repaired` before."""

    problems: tuple[FsckProblem, ...]
    notes: tuple[FsckProblem, ...]
    repaired: tuple[FsckRepair, ...]
    refs: int
    documents: int
    shards: int
    objects: int
    full: bool

    @property
    def damaged(self) -> bool:
        """Whether content is damaged or gone."""
        return any(problem.level == "damage" for problem in self.problems)


def fsck(store: Store, *, full: bool, repair: bool, progress: Progress) -> FsckReport:
    """See `Store.fsck`."""
    found = look(store, full=full, progress=progress)
    repaired: list[Repair] = []
    if repair:
        for step in (repairs.repair_documents, repairs.repair_objects):
            done = step(store, found)
            if done or found.shards.bad:  # What was copied out of a damaged shard may harm nobody any more.
                found.shards.close()
                found = look(store, full=full, progress=progress)
            repaired += done
    try:
        return FsckReport(
            problems=_told(found.problems, notes=False),
            notes=_told(found.problems, notes=True),
            repaired=tuple(FsckRepair(each.kind, each.path, each.message) for each in repaired),
            refs=len(found.states),
            documents=len(found.documents.keys),
            shards=len(found.shards.sizes),
            objects=found.shards.objects,
            full=full,
        )
    finally:
        found.shards.close()


def fsck_unopened(path: str, error: CkptfmtError) -> FsckReport:
    """What there is to say of a store that cannot be opened: its own document is damaged, which harms every name."""
    names = tuple(name for name, _ in Refs(LocalStorage(os.path.abspath(path))).names())
    hint = "put store.json back from a copy of the store: nothing else is harmed"
    problem = Problem("store-document", DOCUMENT, error.message, names, hint)
    return FsckReport(_told([problem], notes=False), (), (), len(names), 0, 0, 0, full=False)


def _told(problems: list[Problem], *, notes: bool) -> tuple[FsckProblem, ...]:
    order = {"damage": 0, "problem": 1, "note": 2}
    chosen = [problem for problem in problems if (problem.level == "note") is notes]
    return tuple(
        FsckProblem(each.kind, each.level, each.path, each.message, each.harms, each.hint)
        for each in sorted(chosen, key=lambda each: (order[each.level], each.path, each.message))
    )
