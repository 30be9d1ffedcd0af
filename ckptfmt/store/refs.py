"""Refs: names for manifests and base records, each a directory of numbered, immutable generations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol

from msgspec import structs

from ckptfmt.errors import CkptfmtError, Conflict, FormatError, IntegrityError, InvalidInput, NotFound
from ckptfmt.format import documents
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.refs import BASES, Generation, check_name, directory_of, name_of
from ckptfmt.storage.machine import host_name
from ckptfmt.storage.protocol import Storage

_ATTEMPTS: Final = 64
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_MAX_DOCUMENT_BYTES: Final = 256 << 20
_MOST_NAMED: Final = 5


Damaged = Callable[[str, CkptfmtError], None]
"""Told the name of what cannot be read, and why, by those who pass over it and go on."""


class RefCache(Protocol):
    """Newest generations by name and the time (ns) their directory last changed."""

    def load(self) -> dict[tuple[str, int], Generation]:
        """All that is cached."""
        ...

    def save(self, fresh: list[tuple[int, Generation]]) -> None:
        """Cache what is not too young to be trusted."""
        ...


class Refs:
    """The refs of one store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def numbers(self, name: str) -> list[int]:
        """Numbers of the generations that are there, ascending; empty where there never was such a ref."""
        prefix = f"refs/{directory_of(name)}/"
        return sorted(
            int(stem)
            for listed in self._storage.list(prefix)
            if _NUMBER.fullmatch(stem := listed.key[len(prefix) :].removesuffix(".json"))
        )

    def read(self, name: str, number: int) -> Generation:
        """One generation.

        Raises:
            NotFound: it is not there.
            IntegrityError: it is damaged, or is another ref's (a file system that folds case).
        """
        key = _key(name, number)
        try:
            data = self._storage.read(key, 0, _MAX_DOCUMENT_BYTES)
        except NotFound:
            raise NotFound(f"ref {name!r} has no generation {number}", hint=f"ckptfmt log {name}") from None
        generation = documents.unseal(data, Generation, where=key)
        if generation.name != name or generation.number != number:
            raise IntegrityError(
                f"{key}: it is generation {generation.number} of {generation.name!r}, not {number} of {name!r}",
                hint="ckptfmt fsck",
            )
        return generation

    def newest(self, name: str) -> Generation | None:
        """The newest generation, a tombstone too; None where there never was such a ref."""
        numbers = self.numbers(name)
        return self.read(name, numbers[-1]) if numbers else None

    def current(self, name: str) -> Generation:
        """The newest generation of a ref that stands.

        Raises:
            NotFound: there is no such ref, or it was dropped.
        """
        newest = self.newest(name)
        if newest is None:
            raise self._unknown(name)
        if newest.target is None:
            hint = f"ckptfmt rollback {name}@{newest.previous}" if newest.previous else "ckptfmt ls"
            raise NotFound(f"ref {name!r} was dropped on {newest.time}", hint=hint)
        return newest

    def _unknown(self, name: str) -> NotFound:
        """The error of a name that no ref ever had, with the refs below it where it is the beginning of some."""
        below = list(islice(self.standing(f"{name}/", damaged=pass_over), _MOST_NAMED + 1))
        if below:
            named = ", ".join(each.name for each in below[:_MOST_NAMED]) + (", …" if len(below) > _MOST_NAMED else "")
            return NotFound(f"no ref {name!r}; below it are {named}", hint=f"ckptfmt ls {name}")
        return NotFound(f"no ref {name!r}", hint="ckptfmt base ls" if name.startswith(BASES) else "ckptfmt ls")

    def history(self, name: str) -> list[Generation]:
        """All generations, newest first."""
        return [self.read(name, number) for number in reversed(self.numbers(name))]

    def readable(self, name: str) -> Iterator[Generation]:
        """As `history`, without those that are damaged: for what is only a hint."""
        for number in reversed(self.numbers(name)):
            with suppress(IntegrityError, FormatError):
                yield self.read(name, number)

    def names(self, prefix: str = "") -> list[tuple[str, int]]:
        """Every ref name that begins with `prefix`, dropped ones too, sorted; with its directory's mtime in ns."""
        found = ((name_of(item.key[len("refs/") :]), item.modified_ns) for item in self._storage.directories("refs/"))
        return sorted(item for item in found if item[0].startswith(prefix) and _is_name(item[0]))

    def appeared(self) -> dict[str, dict[int, int]]:
        """When each generation of every ref appeared, in ns of the storage's clock: name to number to time."""
        found: dict[str, dict[int, int]] = {}
        for listed in self._storage.list("refs/"):
            directory, _, file = listed.key[len("refs/") :].rpartition("/")
            name, stem = name_of(directory), file.removesuffix(".json")
            if _is_name(name) and _NUMBER.fullmatch(stem):
                found.setdefault(name, {})[int(stem)] = listed.modified_ns
        return found

    def standing(self, prefix: str = "", damaged: Damaged | None = None) -> Iterator[Generation]:
        """The newest generation of every ref that stands and begins with `prefix`.

        Args:
            prefix: what names begin with.
            damaged: told of refs that cannot be read; None: the first of them ends it.
        """
        for name, _ in self.names(prefix):
            newest = self._newest_or_tell(name, damaged)
            if newest is not None and newest.target is not None:
                yield newest

    def _newest_or_tell(self, name: str, damaged: Damaged | None) -> Generation | None:
        try:
            return self.newest(name)
        except (IntegrityError, FormatError) as error:
            if damaged is None:
                raise
            damaged(name, error)
            return None

    def standing_cached(self, cache: RefCache, damaged: Damaged | None = None) -> list[Generation]:
        """As `standing`, without attributes, reading only refs whose directory changed since they were cached."""
        known = cache.load()
        fresh, found = [], []
        for name, changed_ns in self.names():
            generation = known.get((name, changed_ns))
            if generation is None:
                newest = self._newest_or_tell(name, damaged)
                if newest is None:
                    continue
                generation = structs.replace(newest, attributes=())
                fresh.append((changed_ns, generation))
            if generation.target is not None:
                found.append(generation)
        cache.save(fresh)
        return found

    def manifests(self, damaged: Damaged | None = None) -> Iterator[Generation]:
        """The newest generation of every ref that names a manifest; see `standing`."""
        found = self.standing(damaged=damaged)
        return (generation for generation in found if not generation.name.startswith(BASES))

    def append(self, name: str, make: Callable[[Generation | None], Generation | None]) -> Generation | None:
        """Append what `make` makes of the newest generation, again if somebody else appended meanwhile.

        `make` returns a draft (its number, previous, host and time are filled in here), or None for nothing to do.

        Returns:
            The generation that now stands, or None where `make` returned None.

        Raises:
            Conflict: too many others, again and again (`lost-race`).
        """
        for _ in range(_ATTEMPTS):
            newest = self.newest(name)
            draft = make(newest)
            if draft is None:
                if newest is not None:
                    self.settled(newest)
                return None
            generation = _numbered(draft, name, newest)
            if self._storage.put_if_absent(_key(name, generation.number), documents.seal(generation)):
                return generation
        raise Conflict(
            f"ref {name!r}: {_ATTEMPTS} times somebody else was quicker",
            code="lost-race",
            hint="run the same command again",
        )

    def settled(self, seen: Generation) -> Generation:
        """A generation that says already what is wanted, made durable: who wrote it may have been stopped before."""
        self._storage.settle([_key(seen.name, seen.number)])
        return seen

    def swap(self, seen: Generation, draft: Generation) -> Generation:
        """Append `draft` if `seen` is still the newest generation.

        Raises:
            Conflict: it is not (`moved-on`).
        """
        generation = _numbered(draft, seen.name, seen)
        if self.numbers(seen.name)[-1] == seen.number and self._storage.put_if_absent(
            _key(seen.name, generation.number), documents.seal(generation)
        ):
            return generation
        raise moved_on(seen)


def pass_over(name: str, error: CkptfmtError) -> None:
    """Say nothing of a ref or base that cannot be read: where something else is looked at, or refs are listed too."""


def moved_on(seen: Generation) -> Conflict:
    """The error that says that a generation is not the newest any more."""
    return Conflict(
        f"ref {seen.name!r} moved on from generation {seen.number} meanwhile",
        hint=f"ckptfmt log {seen.name}",
    )


def replaced_by(target: str, before: Generation | None) -> int | None:
    """The number of the generation that named something else before a ref was given `target`; None for none."""
    return before.number if before is not None and before.target not in (None, target) else None


def draft(target: str | None, verb: str) -> Generation:
    """A generation to be numbered by `Refs.append` or `Refs.swap`; more fields by `msgspec.structs.replace`."""
    return Generation(
        version=FORMAT_VERSION,
        name="",
        number=0,
        target=target,
        verb=verb,
        time=utc_now(),
        host=host_name(),
    )


def utc_now() -> str:
    """The time as it stands in records: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _numbered(draft: Generation, name: str, newest: Generation | None) -> Generation:
    number = newest.number + 1 if newest else 1
    return structs.replace(draft, name=name, number=number, previous=newest.number if newest else None)


def _is_name(name: str) -> bool:
    """False for what file managers and network disks leave among the refs."""
    try:
        check_name(name)
    except InvalidInput:
        return False
    return True


def _key(name: str, number: int) -> str:
    return f"refs/{directory_of(name)}/{number}.json"
