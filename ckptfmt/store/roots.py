"""What gc starts from: the documents that must stay, whoever names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptfmt.digest import is_digest
from ckptfmt.errors import CkptfmtError, IntegrityError
from ckptfmt.format.refs import BASES
from ckptfmt.store.publish import PINS
from ckptfmt.store.store import Store

UNFINISHED_SECONDS: Final = 24 * 3600
"""Younger claims and unfinished writes are somebody's who may still be at work, whatever grace gc was given."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Digests of documents that must stay.

    Attributes:
        current: manifests that refs name now, or receipts hold: they must be there.
        earlier: manifests that refs named not long ago: they stay while they are there.
        claimed: manifests and base records that writers claim; they may not be there yet.
        records: base records that refs name, or named not long ago.
        kept: base records, named by a ref now or ever, whose bases were copied in: with all their objects.
    """

    current: frozenset[str]
    earlier: frozenset[str]
    claimed: frozenset[str]
    records: frozenset[str]
    kept: frozenset[str]


def list_roots(store: Store, *, now_ns: int, keep_history_seconds: float, held: frozenset[str] = frozenset()) -> Roots:
    """List the roots as they stand.

    Claims are listed first: a writer takes its claim back only when its ref is there, so it is seen in one of the two.
    What was superseded or dropped after `now_ns` counts as standing: a ref may be on its way to another name.

    Args:
        store: where.
        now_ns: when this began, by the storage's clock.
        keep_history_seconds: generations count as long after they were superseded or dropped.
        held: manifests that receipts of a cleanup hold.

    Raises:
        IntegrityError: a generation that may name something that must stay cannot be read.
    """
    claimed = _claimed(store, now_ns)
    since_ns = now_ns - int(keep_history_seconds * 1e9)
    current: set[str] = set(held)
    earlier: set[str] = set()
    records: set[str] = set()
    kept: set[str] = set()
    for name, numbers in store.refs.appeared().items():
        is_base = name.startswith(BASES)
        superseded_ns = None
        seen: set[str] = set()
        for number in sorted(numbers, reverse=True):
            young = superseded_ns is None or superseded_ns >= since_ns
            superseded_ns = numbers[number]
            if not young and not is_base:
                break
            try:
                generation = store.refs.read(name, number)
            except CkptfmtError as error:
                if not young:
                    continue
                raise IntegrityError(
                    f"nothing was freed: what ref {name!r} stands for, or stood for, cannot be read: {error.message}",
                    hint="ckptfmt fsck --repair",
                ) from error
            target = generation.target
            if target is None:
                continue
            if is_base:
                if young:
                    records.add(target)
                if generation.keep == "copy" and target not in seen:
                    kept.add(target)
                seen.add(target)
            else:
                (current if number == max(numbers) else earlier).add(target)
    return Roots(*map(frozenset, (current, earlier, claimed, records, kept)))


def _claimed(store: Store, now_ns: int) -> set[str]:
    """What pins claim, by their names: one that is torn claims as well."""
    found = set()
    for listed in store.storage.list(PINS):
        digest = listed.key[len(PINS) :].partition("-")[0]
        if is_digest(digest) and not is_unfinished_old(listed.modified_ns, now_ns):
            found.add(digest)
    return found


def is_unfinished_old(modified_ns: int, now_ns: int) -> bool:
    """Tell whether a claim or an unfinished write is so old that nobody can be at work on it. The future is young."""
    return now_ns - modified_ns > UNFINISHED_SECONDS * 1e9
