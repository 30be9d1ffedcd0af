"""What depends on what: objects stored against others, as one graph over all copies. Pure but for the lookups given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptfmt.format.shard import MAX_DEPTH

if TYPE_CHECKING:
    from ckptfmt.store.catalog import Location

Direct = Callable[[Iterable[str]], Mapping[str, frozenset[str]]]
"""Gives what any copy of each object depends on directly (`Catalog.dependencies`)."""

Copies = Callable[[Iterable[str]], "Mapping[str, list[Location]]"]
"""Gives every copy of each object (`Catalog.find_many`)."""


def closure(direct: Direct, digests: Iterable[str]) -> set[str]:
    """Everything that some copy of one of `digests` depends on, however far; they themselves only where they do."""
    found: set[str] = set()
    wanted = set(digests)
    while wanted:
        needed = set().union(*direct(wanted).values())
        wanted = needed - found
        found |= needed
    return found


def depth(direct: Direct, digest: str) -> int:
    """How many objects `digest` depends on in a row, over all copies; more than any may where there is a circle."""
    level = {digest}
    for steps in range(MAX_DEPTH + 1):
        level = set().union(*direct(level).values())
        if not level:
            return steps
    return MAX_DEPTH + 1


def remembering(copies_of: Copies) -> Copies:
    """As `copies_of`, but each object is looked up once, however often it is asked for."""
    known: dict[str, list[Location]] = {}

    def copies(digests: Iterable[str]) -> Mapping[str, list[Location]]:
        wanted = list(digests)
        fresh = [digest for digest in wanted if digest not in known]
        if fresh:
            found = copies_of(fresh)
            known.update((digest, found.get(digest, [])) for digest in fresh)
        return {digest: known[digest] for digest in wanted if known[digest]}

    return copies


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a set of objects can be decoded.

    Attributes:
        copies: a copy of each object that lies in a shard, of those asked for and of those that these need; following
            their dependencies never leads in a circle.
        outside: objects that lie outside.
        missing: those asked for that cannot be decoded.
    """

    copies: dict[str, Location]
    outside: frozenset[str]
    missing: frozenset[str]


def resolve(copies_of: Copies, wanted: Iterable[str], outside: Callable[[str], bool]) -> Resolved:
    """Find a copy of each object of which all dependencies are there, and of theirs, however far.

    Objects are taken in rounds: first those with a copy that depends on nothing, then those with one that depends on
    objects already taken; only where that ends is looked outside. What is never taken is missing, or part of a circle.
    """
    asked = frozenset(wanted)
    waiting: dict[str, list[Location]] = {}
    looked: set[str] = set()
    fresh = set(asked)
    while fresh:
        looked |= fresh
        found = copies_of(fresh)
        waiting.update(found)
        fresh = {each for copies in found.values() for copy in copies for each in copy.stored.dependencies} - looked
    there: set[str] = set()
    taken: dict[str, Location] = {}
    for look_outside in (False, True):
        if look_outside:
            there = {digest for digest in looked - taken.keys() if outside(digest)}
        while usable := {digest: copy for digest, copies in waiting.items() if (copy := _usable(copies, taken, there))}:
            taken.update(usable)
            waiting = {digest: copies for digest, copies in waiting.items() if digest not in usable}
    return _needed(asked, taken, there)


def smallest(copies_of: Copies, wanted: Iterable[str]) -> dict[str, Location]:
    """The smallest copy of each object that lies in a shard, of those asked for and of those that these need."""
    found: dict[str, Location] = {}
    looked: set[str] = set()
    fresh = set(wanted)
    while fresh:
        looked |= fresh
        taken = {digest: copies[0] for digest, copies in copies_of(fresh).items()}
        found |= taken
        fresh = {each for copy in taken.values() for each in copy.stored.dependencies} - looked
    return found


def _usable(copies: list[Location], taken: Mapping[str, Location], there: set[str]) -> Location | None:
    for copy in copies:
        if all(each in taken or each in there for each in copy.stored.dependencies):
            return copy
    return None


def _needed(asked: frozenset[str], taken: Mapping[str, Location], there: set[str]) -> Resolved:
    """Of what could be taken, what is needed."""
    copies: dict[str, Location] = {}
    beyond: set[str] = set()
    fresh = set(asked)
    while fresh:
        copies.update((digest, taken[digest]) for digest in fresh if digest in taken)
        beyond |= {digest for digest in fresh if digest not in taken and digest in there}
        fresh = {each for digest in fresh if digest in taken for each in taken[digest].stored.dependencies}
        fresh -= copies.keys() | beyond
    return Resolved(copies, frozenset(beyond), asked - copies.keys() - beyond)
