"""The verb `fsck`: look at all of a store, and repair what can be known for sure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import msgspec

from ckptfmt.errors import CkptfmtError, IntegrityError, InvalidInput, NotFound
from ckptfmt.fsck.advice import advised
from ckptfmt.fsck.opening import is_store_without_document, repair_document_of
from ckptfmt.fsck.problem import REPAIR, Level, Problem, Repair
from ckptfmt.fsck.rounds import Rounds, settle
from ckptfmt.progress import Progress
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.refs import Refs
from ckptfmt.store.store import DOCUMENT, Store, open_store


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


def fsck(store: Store, *, full: bool, repair: bool, places: Sequence[str] = (), progress: Progress) -> FsckReport:
    """See `Store.fsck`.

    Raises:
        InvalidInput: a place that is no directory, or this store itself.
    """
    directories, others = _sources(store, places)
    with contextlib.ExitStack() as stack:
        for other in others:
            stack.callback(other.close)
        if repair:
            settle(store)
        rounds = Rounds(store, full=full, progress=progress)
        stack.callback(rounds.close)
        repaired = rounds.repair(directories, others) if repair else []
        found = rounds.found
        problems = [advised(each, found) for each in found.problems] if repair else found.problems
        return FsckReport(
            problems=_told(problems, notes=False),
            notes=_told(found.problems, notes=True),
            repaired=tuple(FsckRepair(each.kind, each.path, each.message) for each in repaired),
            refs=len(found.states),
            documents=len(found.documents.keys),
            shards=len(found.shards.sizes),
            objects=found.shards.objects,
            full=full,
        )


def _sources(store: Store, places: Sequence[str]) -> tuple[list[str], list[Store]]:
    """Directories, and other stores, in which to look for what is lost."""
    for place in places:
        if not os.path.isdir(place) or os.path.realpath(place) == os.path.realpath(store.path or ""):
            raise InvalidInput(
                f"--from {place}: no directory beside the store", hint="ckptfmt fsck --repair --from DIR"
            )
    stores = [place for place in places if os.path.isfile(os.path.join(place, DOCUMENT))]
    return [place for place in places if place not in stores], [open_store(place) for place in stores]


def fsck_path(path: str, *, full: bool, repair: bool, places: Sequence[str] = (), progress: Progress) -> FsckReport:
    """As `Store.fsck`, also for a store that cannot be opened for its own document is damaged or gone.

    Raises:
        NotFound: there is no store (`no-store`).
    """
    mended: list[Repair] = []
    try:
        store = open_store(path)
    except (IntegrityError, NotFound) as error:
        if isinstance(error, NotFound) and not is_store_without_document(path):
            raise
        if not repair:
            return _unopened(path, error)
        mended.append(repair_document_of(path))
        store = open_store(path)
    try:
        report = fsck(store, full=full, repair=repair, places=places, progress=progress)
    finally:
        store.close()
    told = tuple(FsckRepair(each.kind, each.path, each.message) for each in mended)
    return msgspec.structs.replace(report, repaired=(*told, *report.repaired))


def _unopened(path: str, error: CkptfmtError) -> FsckReport:
    """What there is to say of a store that cannot be opened: its own document is damaged, which harms every name."""
    names = tuple(name for name, _ in Refs(LocalStorage(os.path.abspath(path))).names())
    problem = Problem("store-document", DOCUMENT, error.message, names, REPAIR)
    return FsckReport(_told([problem], notes=False), (), (), len(names), 0, 0, 0, full=False)


def _told(problems: list[Problem], *, notes: bool) -> tuple[FsckProblem, ...]:
    order = {"damage": 0, "problem": 1, "note": 2}
    chosen = [problem for problem in problems if (problem.level == "note") is notes]
    return tuple(
        FsckProblem(each.kind, each.level, each.path, each.message, each.harms, each.hint)
        for each in sorted(chosen, key=lambda each: (order[each.level], each.path, each.message))
    )
