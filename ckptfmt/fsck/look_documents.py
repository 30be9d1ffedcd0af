"""Manifests and base records against their names and what may stand in them, lineages, and who needs what."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format.check import check_document
from ckptfmt.format.manifest import BaseLink, Manifest, objects_of
from ckptfmt.format.refs import BASES
from ckptfmt.fsck.look_refs import RefState
from ckptfmt.fsck.problem import REPAIR, Problem
from ckptfmt.store.store import Store, manifest_key, record_key
from ckptfmt.store.trash import trashed
from ckptfmt.wording import few


@dataclass(slots=True)
class Needs:
    """What a document needs, and who needs the document.

    Attributes:
        key: of the document.
        harms: the refs (bases as `bases/NAME`) that cannot do without it.
        objects: digest to decoded length in bytes.
        base: the base that a manifest is bound to.
        outside: whether its objects may lie in a base's files.
        earlier: whether only earlier generations stand for it: then gc may have taken away what it needs.
    """

    key: str
    harms: set[str]
    objects: dict[str, int]
    base: BaseLink | None = None
    outside: bool = True
    earlier: bool = False


@dataclass(slots=True)
class Documents:
    """The documents that names need.

    Attributes:
        needs: of each that is there, and that a name stands for or stood for, by its digest.
        keys: of all that are needed now, with whom they harm: also those that are not there.
        links: base records that manifests are bound to, with the refs that are harmed without.
        unnamed: manifests that are sound and that no name stands for, or ever stood for.
        origins: where the files of a document were said to lie, by its digest: host and path, the newest first.
    """

    needs: dict[str, Needs] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, set[str]] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    origins: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


def look_at_documents(
    store: Store, states: dict[str, RefState], held: Iterable[str]
) -> tuple[Documents, list[Problem]]:
    """Read every manifest and base record that there is, and follow names to what they need.

    Args:
        store: where.
        states: the refs.
        held: manifests that give back what a cleanup took, with no name of their own.
    """
    found = Documents()
    problems: list[Problem] = []
    current: dict[str, set[str]] = {digest: set() for digest in held}
    records: dict[str, set[str]] = {}
    kept: set[str] = set()
    earlier: dict[str, set[str]] = {}
    for state in states.values():
        is_base = state.name.startswith(BASES)
        for number, generation in sorted(state.sound.items(), reverse=True):
            target = generation.target
            if target is None:
                continue
            if generation.origin:
                found.origins.setdefault(target, []).append((generation.host, generation.origin))
            if number == state.top:
                (records if is_base else current).setdefault(target, set()).add(state.name)
            else:
                earlier.setdefault(target, set()).add(f"{state.name}@{number}")
            if is_base and generation.keep == "copy":
                kept.add(target)
    problems += _follow(store, found, current)
    for digest in {*records, *found.links}:
        problems += _record(store, found, digest, records.get(digest, set()), whole=digest in kept)
    problems += _others(store, found, earlier)
    return found, problems


def _follow(store: Store, found: Documents, current: dict[str, set[str]]) -> list[Problem]:
    """Manifests that names stand for, and their lineages."""
    problems: dict[str, Problem] = {}
    for target, names in current.items():
        digest: str | None = target
        child: str | None = None
        followed: set[str] = set()
        while digest is not None and digest not in followed:
            followed.add(digest)
            key = manifest_key(digest)
            found.keys.setdefault(key, set()).update(names)
            if key in problems:
                problems[key] = problems[key].harming(names)
                break
            try:
                manifest = _manifest(store, digest)
            except CkptfmtError as error:
                kind = "manifest-missing" if isinstance(error, NotFound) else "manifest-damaged"
                what = error.message if child is None else f"{error.message}; {child[:16]} was trained from it"
                problems[key] = Problem("lineage" if child is not None else kind, key, what, tuple(sorted(names)))
                break
            needs = found.needs.setdefault(digest, Needs(key, set(), objects_of(manifest), manifest.base))
            needs.harms |= names
            if manifest.base is not None:
                found.links.setdefault(manifest.base.record, set()).update(names)
            child, digest = digest, manifest.lineage.parent if manifest.lineage is not None else None
        if digest is not None and digest in followed and digest in found.needs:
            problems[f"circle {digest}"] = Problem(
                "lineage", manifest_key(digest), "its lineage leads back to itself", tuple(sorted(names))
            )
    return [
        problem if problem.hint else problem.harming((), _import_again(found, problem.path))
        for problem in problems.values()
    ]


def _manifest(store: Store, digest: str) -> Manifest:
    manifest = store.manifest_uncached(digest)
    check_document(manifest, where=manifest_key(digest))
    return manifest


def _import_again(found: Documents, key: str) -> str:
    digest = key.rpartition("/")[2].removesuffix(".json")
    for _, origin in found.origins.get(digest, ()):
        return f"ckptfmt import {origin} --name NAME, where its files lay, gives the same manifest from the same files"
    return "put the file back from a copy of the store"


def _record(store: Store, found: Documents, digest: str, names: set[str], *, whole: bool) -> list[Problem]:
    key = record_key(digest)
    harms = names | found.links.get(digest, set())
    found.keys.setdefault(key, set()).update(harms)
    try:
        record = store.record(digest)
    except CkptfmtError as error:
        kind = "record-missing" if isinstance(error, NotFound) else "record-damaged"
        origins = found.origins.get(digest, [])
        bases = sorted(name.removeprefix(BASES) for name in names)
        hint = "ckptfmt base add NAME PATH, with the same files, records it again"
        if origins and bases:
            hint = f"ckptfmt base add {bases[0]} {shlex.quote(origins[0][1])}"
        return [Problem(kind, key, error.message, tuple(sorted(harms)), hint)]
    # Of a base that is referenced nothing need be in the store; of one that was copied in, all.
    if whole and names:
        found.needs[digest] = Needs(key, set(names), objects_of(record), outside=False)
    return []


def _others(store: Store, found: Documents, earlier: dict[str, set[str]]) -> list[Problem]:
    """Documents that no name needs now: what is damaged there is told too, and harms who stood for it before."""
    problems = []
    listed = [item.key for prefix in ("manifests/", "bases/") for item in store.storage.list(prefix)]
    listed += [item.key for item in trashed(store.storage) if item.key.startswith(("manifests/", "bases/"))]
    for key in sorted(set(listed) - found.keys.keys()):
        digest = key.rpartition("/")[2].removesuffix(".json")
        is_record = key.startswith("bases/")
        if key != (record_key(digest) if is_record else manifest_key(digest)) or len(digest) != len(_ZEROS):
            problems.append(Problem("stray", key, "no document: it has another name"))
            continue
        try:
            if is_record:
                store.record(digest)
            else:
                manifest = _manifest(store, digest)
                if digest not in earlier:
                    found.unnamed.append(digest)
                elif store.storage.size(key) is not None:
                    needs = Needs(key, set(earlier[digest]), objects_of(manifest), manifest.base, earlier=True)
                    found.needs.setdefault(digest, needs)
        except NotFound:
            continue  # Taken away meanwhile, by a gc.
        except CkptfmtError as error:
            kind = "record-damaged" if is_record else "manifest-damaged"
            names = tuple(sorted(earlier.get(digest, ())))
            problems.append(Problem(kind, key, error.message, names, _import_again(found, key)))
    if found.unnamed:
        some = few([digest[:12] for digest in found.unnamed])
        what = f"{len(found.unnamed)} of them have no name ({some})"
        problems.append(Problem("unnamed", "manifests/", what, hint="ckptfmt gc takes them away"))
    return problems


_ZEROS = "0" * 64


def needed_in_trash(store: Store, found: Documents) -> list[Problem]:
    """Documents that are needed and lie in the trash only."""
    there = {item.key for item in trashed(store.storage)}
    return [
        Problem("trashed", key, "it is needed and lies only in the trash", tuple(sorted(harms)), REPAIR)
        for key, harms in sorted(found.keys.items())
        if key in there and store.storage.size(key) is None
    ]
