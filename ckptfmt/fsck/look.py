"""All of a store looked at: what is wrong, and whom it harms.

Names are read before documents, documents before shards: what a writer publishes meanwhile is whole in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import time_ns
from typing import Final

from ckptfmt.errors import CkptfmtError, FormatError, IntegrityError
from ckptfmt.format.shard import MAX_DEPTH
from ckptfmt.fsck.look_catalog import look_at_catalog
from ckptfmt.fsck.look_documents import Documents, Needs, look_at_documents, needed_in_trash
from ckptfmt.fsck.look_refs import RefState, look_at_refs
from ckptfmt.fsck.look_shards import Shards, look_at_shards
from ckptfmt.fsck.look_writers import look_at_receipts, look_at_writers
from ckptfmt.fsck.problem import REPAIR, REPAIR_FULL, Problem
from ckptfmt.progress import Progress
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.catalog import Location
from ckptfmt.store.elsewhere import ProvenFrames
from ckptfmt.store.graph import resolve
from ckptfmt.store.outside import Bases, all_outside
from ckptfmt.store.receipts import PREFIX as RECEIPTS
from ckptfmt.store.receipts import held_manifests
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import Store

REFS: Final = "refs/"
_LOOKS: Final = 3


@dataclass(slots=True)
class Found:
    """What was found.

    Attributes:
        problems: everything that is not as it should be.
        states: the refs.
        documents: the documents, and who needs them.
        shards: the shards; to be closed.
        lacking: objects that are needed and nowhere, with whom they harm.
        used: shards that lie in the trash only and hold objects that are needed.
    """

    problems: list[Problem]
    states: dict[str, RefState]
    documents: Documents
    shards: Shards
    lacking: dict[str, set[str]]
    used: dict[str, set[str]]


def look(store: Store, *, full: bool, progress: Progress) -> Found:
    """Look at all of a store.

    Args:
        store: where.
        full: whether to read every stored byte, and every byte that is needed of the files of bases.
        progress: told of what is read.
    """
    for _ in range(_LOOKS):
        before = _entries(store)
        found = _look(store, full=full, progress=progress)
        if not found.problems or _entries(store) == before:
            break
        found.shards.close()  # What a name stood for may be gone since, because it was dropped.
    return found


def _entries(store: Store) -> set[str]:
    """Every entry of refs and receipts: what says which documents are needed."""
    return {listed.key for prefix in (REFS, RECEIPTS) for listed in store.storage.list(prefix)}


def _look(store: Store, *, full: bool, progress: Progress) -> Found:
    states, problems = look_at_refs(store.storage, store.refs)
    problems += look_at_receipts(store.storage)
    try:
        held = held_manifests(store)
    except (IntegrityError, FormatError):
        held = set()
    documents, more = look_at_documents(store, states, held)
    shards, damaged = look_at_shards(store.storage, store.facts(), data=full, progress=progress)
    found = Found([], states, documents, shards, {}, {})
    found.problems = [*problems, *more, *needed_in_trash(store, documents), *_objects(store, found, damaged, full=full)]
    found.problems += [*look_at_writers(store.storage, time_ns()), *look_at_catalog(shards, store.facts())]
    return found


def _objects(store: Store, found: Found, damaged: list[Problem], *, full: bool) -> list[Problem]:
    """What each document needs, against what there is."""
    lacking = found.lacking
    circles: dict[str, set[str]] = {}
    outside: dict[str, tuple[BaseFiles, set[str], dict[str, int]]] = {}
    problems: list[Problem] = []
    for needs in found.documents.needs.values():
        bases = _bases(store, needs)
        lies_outside = bases.has if needs.outside else _nowhere
        resolved = resolve(found.shards.truth.find_many, needs.objects, lies_outside)
        wanting: set[str] = set()
        for digest in resolved.missing:
            causes = _causes(found.shards, digest, lies_outside)
            for cause in causes:
                lacking.setdefault(cause, set()).update(needs.harms)
            wanting |= causes
            if not causes:
                circles.setdefault(needs.key, set()).add(digest)
        for digest in resolved.outside if not needs.earlier else ():
            base = bases.holder(digest)
            if base is not None:
                _, harms, objects = outside.setdefault(base.digest, (base, set(), {}))
                harms |= needs.harms
                objects[digest] = base.length(digest)
        for copy in resolved.copies.values():
            if copy.shard in found.shards.only_trashed and not needs.earlier:
                found.used.setdefault(copy.shard, set()).update(needs.harms)
        if deep := _too_deep(resolved.copies):
            circles.setdefault(needs.key, set()).update(deep)
        problems += _lacking(found.shards, needs, wanting)
    for key, digests in circles.items():
        harms = next(needs.harms for needs in found.documents.needs.values() if needs.key == key)
        what = f"{len(digests)} objects are stored against one another in a circle, or more than {MAX_DEPTH} in a row"
        problems.append(Problem("dependencies", key, what, tuple(sorted(harms))))
    for shard, harms in sorted(found.used.items()):
        what = "it is needed and lies only in the trash"
        problems.append(Problem("trashed", shard_key(shard), what, tuple(sorted(harms)), REPAIR))
    problems += _base_files(outside, full=full)
    return [*_blamed(found.shards, damaged, lacking), *problems]


def _bases(store: Store, needs: Needs) -> Bases:
    """The files of bases; the one that a manifest is bound to first, unless its record cannot be read."""
    link = needs.base
    if link is not None:
        try:
            store.record(link.record)
        except CkptfmtError:
            link = None
    return all_outside(store, link)


def _nowhere(digest: str) -> bool:
    return False


def _causes(shards: Shards, digest: str, outside: Callable[[str], bool]) -> set[str]:
    """What is nowhere, for want of which an object cannot be decoded: itself, or what it is stored against."""
    causes: set[str] = set()
    seen: set[str] = set()
    fresh = {digest}
    while fresh:
        seen |= fresh
        copies = shards.truth.find_many(fresh)
        causes |= {each for each in fresh - copies.keys() if not outside(each)}
        fresh = {need for found in copies.values() for copy in found for need in copy.stored.dependencies} - seen
    return causes


def _too_deep(copies: Mapping[str, Location]) -> set[str]:
    """Objects from which more than `MAX_DEPTH` copies lead on in a row; in `copies` nothing leads in a circle."""
    depths: dict[str, int] = {}
    for first in copies:
        waiting = [first]
        while waiting:
            digest = waiting[-1]
            needs = [each for each in copies[digest].stored.dependencies if each in copies]
            open_needs = [each for each in needs if each not in depths]
            if open_needs:
                waiting += open_needs
                continue
            waiting.pop()
            dependent = bool(copies[digest].stored.dependencies)
            depths[digest] = max((depths[each] + 1 for each in needs), default=int(dependent))
    return {digest for digest, depth in depths.items() if depth > MAX_DEPTH}


def _lacking(shards: Shards, needs: Needs, causes: set[str]) -> list[Problem]:
    """What a document lacks of which no damaged shard is known to hold it."""
    absent = sorted(causes.difference(*(state.held() for state in shards.bad.values())))
    if not absent:
        return []
    if needs.earlier:
        what = f"{len(absent)} objects that it needs are gone; gc may have taken them, for no name stands for it now"
        return [Problem("earlier-incomplete", needs.key, what, tuple(sorted(needs.harms)))]
    what = f"{len(absent)} objects that it needs are in no shard that can be read, {absent[0][:16]} for one"
    return [Problem("objects-missing", needs.key, what, tuple(sorted(needs.harms)), REPAIR)]


def _blamed(shards: Shards, damaged: list[Problem], lacking: dict[str, set[str]]) -> list[Problem]:
    """Damaged shards, with whom they harm: what lies in another sound copy harms nobody."""
    told = []
    by_key = {state.key: state for state in shards.bad.values()}
    for problem in damaged:
        state = by_key.get(problem.path)
        if state is None:
            told.append(problem)
            continue
        held = [problem.object] if problem.object is not None else state.held()
        harms = set().union(*(lacking.get(digest, set()) for digest in held))
        told.append(problem.harming(harms, REPAIR if problem.object is None else REPAIR_FULL))
    return told


def _base_files(outside: dict[str, tuple[BaseFiles, set[str], dict[str, int]]], *, full: bool) -> list[Problem]:
    """The files of bases that are needed: there with their sizes and, with `full`, what was recorded."""
    problems = []
    for base, harms, objects in outside.values():
        try:
            _ = base.directory
            proven = ProvenFrames(base)
            for digest, length in objects.items():
                if full and length:
                    proven.frame(digest, 0)  # Which reads all of it.
        except CkptfmtError as error:
            what, hint = error.message, f"put its files back, or: ckptfmt base verify {base.base} --path DIR"
            problems.append(Problem("base-files", f"bases/{base.digest}.json", what, tuple(sorted(harms)), hint))
    return problems
