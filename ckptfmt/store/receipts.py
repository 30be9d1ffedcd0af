"""Receipts in a store: each a directory of numbered, immutable entries, created exclusively."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Final

from msgspec import structs

from ckptfmt.errors import Conflict, FormatError, IntegrityError, InvalidInput, NotFound
from ckptfmt.format import documents
from ckptfmt.format.receipt import HOLDING, Receipt, is_receipt_id
from ckptfmt.storage.machine import host_name
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.refs import utc_now
from ckptfmt.store.store import Store

PREFIX: Final = "receipts/"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_ATTEMPTS: Final = 64
_MAX_DOCUMENT_BYTES: Final = 256 << 20


def new_receipt_id() -> str:
    """An id that no other cleanup uses; those of one host come in the order of their time."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{uuid.uuid4().hex[:7]}"


class Receipts:
    """The receipts of one store."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, Receipt] = {}
        """Entries that were read, by key: none is ever changed."""

    def ids(self) -> list[str]:
        """Every receipt that has an entry, the oldest first: a cleanup may be stopped before it wrote one."""
        found = {listed.key[len(PREFIX) :].partition("/")[0] for listed in self._storage.list(PREFIX)}
        return sorted(each for each in found if is_receipt_id(each) and self.numbers(each))

    def resolve(self, stated: str) -> str:
        """The receipt that `stated`, an id or the beginning of one, names.

        Raises:
            NotFound: there is none.
            InvalidInput: there are several.
        """
        found = [each for each in self.ids() if each.startswith(stated)] if stated else []
        if len(found) > 1 and stated not in found:
            raise InvalidInput(f"{stated!r} begins {len(found)} receipts; give more of it", code="ambiguous")
        if not found:
            raise NotFound(f"no receipt {stated!r}", hint="ckptfmt cleanup --receipts")
        return stated if stated in found else found[0]

    def numbers(self, receipt: str) -> list[int]:
        """Numbers of the entries that are there, ascending."""
        prefix = f"{PREFIX}{receipt}/"
        return sorted(
            int(stem)
            for listed in self._storage.list(prefix)
            if _NUMBER.fullmatch(stem := listed.key[len(prefix) :].removesuffix(".json"))
        )

    def entries(self, receipt: str) -> list[Receipt]:
        """Every entry of a receipt, in order.

        Raises:
            IntegrityError, FormatError: one is damaged: nothing is to be concluded from the others.
        """
        return [self._read(receipt, number) for number in self.numbers(receipt)]

    def _read(self, receipt: str, number: int) -> Receipt:
        key = _key(receipt, number)
        if key in self._known:
            return self._known[key]
        entry = documents.unseal(self._storage.read(key, 0, _MAX_DOCUMENT_BYTES), Receipt, where=key)
        if (entry.receipt, entry.number) != (receipt, number):
            raise IntegrityError(f"{key}: it is entry {entry.number} of {entry.receipt!r}", hint="ckptfmt fsck")
        self._known[key] = entry
        return entry

    def parts(self, receipt: str) -> list[Receipt]:
        """Where each part of a receipt stands: its last entry, in order of the parts."""
        last = {entry.part: entry for entry in self.entries(receipt)}
        return [last[part] for part in sorted(last)]

    def held_since_ns(self, receipt: str, part: int) -> int | None:
        """When the files of a part came into the hold, by the storage's own clock; None where none are known to."""
        numbers = {entry.number for entry in self.entries(receipt) if entry.part == part and entry.state == "held"}
        prefix = f"{PREFIX}{receipt}/"
        times = [
            listed.modified_ns
            for listed in self._storage.list(prefix)
            if listed.key in {f"{prefix}{number}.json" for number in numbers}
        ]
        return min(times, default=None)

    def append(self, draft: Receipt) -> Receipt:
        """Append an entry; its number, time and host are filled in.

        Raises:
            Conflict: others append again and again (`lost-race`).
        """
        for _ in range(_ATTEMPTS):
            numbers = self.numbers(draft.receipt)
            number = numbers[-1] + 1 if numbers else 1
            entry = structs.replace(draft, number=number, time=utc_now(), host=host_name())
            if self._storage.put_if_absent(_key(draft.receipt, number), documents.seal(entry)):
                return entry
        raise self._too_slow(draft.receipt)

    def last(self, part: Receipt) -> Receipt:
        """Where a part stands now: its last entry."""
        return next(each for each in self.parts(part.receipt) if each.part == part.part)

    def follow(self, seen: Receipt, draft: Receipt) -> Receipt | None:
        """As `append`, if `seen` is still the last entry of its part: for whoever goes on with what others may, too.

        Returns:
            The entry; None where somebody else went on.

        Raises:
            Conflict: others append again and again to other parts (`lost-race`).
        """
        for _ in range(_ATTEMPTS):
            number = self.numbers(seen.receipt)[-1] + 1
            if self.last(seen).number != seen.number:
                return None
            entry = structs.replace(draft, number=number, time=utc_now(), host=host_name())
            if self._storage.put_if_absent(_key(draft.receipt, number), documents.seal(entry)):
                return entry
        raise self._too_slow(seen.receipt)

    def _too_slow(self, receipt: str) -> Conflict:
        return Conflict(
            f"receipt {receipt}: {_ATTEMPTS} times somebody else was quicker",
            code="lost-race",
            hint="run the same command again",
        )


def held_manifests(store: Store) -> set[str]:
    """Ids of the manifests that give back what cleanups took: roots for gc.

    Of originals that are held, being moved or being deleted, always. Of deleted ones as long as the name stands that
    they were taken in under, also where it has moved on to something else: they are nowhere but here. Who drops the
    name wants them gone.

    Raises:
        IntegrityError, FormatError: a receipt is damaged, so that nobody knows what it holds.
    """
    receipts = Receipts(store.storage)
    parts = [part for each in receipts.ids() for part in receipts.parts(each)]
    standing: dict[str, bool] = {}
    roots = set()
    for part in parts:
        if part.state in HOLDING:
            roots.add(part.manifest)
        elif part.state == "purged":
            if part.ref not in standing:
                standing[part.ref] = _stands(store, part.ref)
            if standing[part.ref]:
                roots.add(part.manifest)
    return roots


def _stands(store: Store, ref: str) -> bool:
    """Whether a name stands; in doubt it does."""
    try:
        newest = store.refs.newest(ref)
    except (IntegrityError, FormatError):
        return True
    return newest is not None and newest.target is not None


def _key(receipt: str, number: int) -> str:
    return f"{PREFIX}{receipt}/{number}.json"
