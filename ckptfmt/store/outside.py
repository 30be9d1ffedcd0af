"""Objects that lie outside the store, in several places: the files of every base that is known, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from ckptfmt.errors import IncompleteStore, NotFound
from ckptfmt.format.manifest import BaseLink
from ckptfmt.store.bases import Base, BaseFiles, all_bases, outside_files, places_of
from ckptfmt.store.elsewhere import Called, OutsideObjects
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store


class Bases:
    """The files of all bases that a store knows, as one place: a checkpoint may be stored against any of them.

    Args:
        store: knows the bases.
        first: the base to look in before all others.
        records: digests of base records to look in as well, whether a name stands for them or not.
    """

    def __init__(self, store: Store, first: BaseFiles | None = None, records: Iterable[str] = ()) -> None:
        self._store = store
        self._first = first
        self._records = frozenset(records)

    @cached_property
    def _others(self) -> list[BaseFiles]:
        known = all_bases(self._store, pass_over)
        standing = {base.digest: files_of(self._store, base) for base in known}
        earlier = [digest for digest in sorted(self._records) if digest not in standing]
        return [*standing.values(), *(_files_of_record(self._store, digest) for digest in earlier)]

    def holder(self, digest: str) -> BaseFiles | None:
        """The base that an object is recorded to lie in; rather one whose files are there."""
        if self._first is not None and self._first.has(digest):
            return self._first
        holders = [base for base in self._others if base.has(digest)]
        return next((base for base in holders if base.is_there), holders[0] if holders else None)

    def fewest(self, digests: Iterable[str]) -> list[BaseFiles]:
        """Few bases that hold all of these objects that any holds; those whose files are there before others.

        Bases share small files, such as tokenizers: asked object by object, more of them would seem to be needed.
        """
        left, found = set(digests), []
        if not left:
            return []
        if self._first is not None and all(map(self._first.has, left)):
            return [self._first]
        candidates = [*([self._first] if self._first is not None else []), *self._others]
        while left:
            held = [(base, sum(map(base.has, left))) for base in candidates]
            best, most = max(held, key=lambda pair: (pair[1] > 0 and pair[0].is_there, pair[1]), default=(None, 0))
            if best is None or not most:
                break
            found.append(best)
            left = {digest for digest in left if not best.has(digest)}
        return found

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        return self._holder(digest).called(digest)

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        return self.holder(digest) is not None

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        return self._holder(digest).length(digest)

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`."""
        return self._holder(digest).read(digest, offset, length)

    def _holder(self, digest: str) -> BaseFiles:
        found = self.holder(digest)
        if found is None:
            raise NotFound(f"object {digest[:16]} is in no base that is known", hint="ckptfmt base ls")
        return found


def files_of(store: Store, base: Base) -> BaseFiles:
    """The files of a base, wherever they lie now."""
    return BaseFiles(base.name, base.digest, lambda: base.record, places_of(store, base.digest))


def _files_of_record(store: Store, digest: str) -> BaseFiles:
    """The files of a base whose name means another one by now, or was dropped."""
    return BaseFiles(digest[:16], digest, lambda: store.record(digest), places_of(store, digest))


def all_outside(store: Store, link: BaseLink | None = None, records: Iterable[str] = ()) -> Bases:
    """Wherever objects may lie outside the store, the base that a manifest is bound to first.

    Args:
        store: knows the bases.
        link: of that manifest.
        records: digests of base records to look in as well, whether a name stands for them or not.
    """
    return Bases(store, outside_files(store, link) if link is not None else None, records)


def outside_of_many(store: Store) -> Callable[[BaseLink | None], Bases]:
    """As `all_outside`, for many manifests: what bases there are is looked up once for each that they are bound to."""
    known: dict[str | None, Bases] = {}

    def outside(link: BaseLink | None) -> Bases:
        record = link.record if link is not None else None
        if record not in known:
            known[record] = all_outside(store, link)
        return known[record]

    return outside


class Joined:
    """Objects outside a store that lie in several places."""

    def __init__(self, parts: Sequence[OutsideObjects]) -> None:
        self._parts = parts

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        return self._holding(digest).called(digest)

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        return any(part.has(digest) for part in self._parts)

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        return self._holding(digest).length(digest)

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`."""
        return self._holding(digest).read(digest, offset, length)

    def _holding(self, digest: str) -> OutsideObjects:
        for part in self._parts:
            if part.has(digest):
                return part
        raise IncompleteStore(f"object {digest[:16]} is in none of the files", digest=digest)
