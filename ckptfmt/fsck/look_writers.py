"""What writers and cleanups leave: pins, receipts, unfinished writes, and files that are no part of a store."""

from __future__ import annotations

from typing import Final

from ckptfmt.digest import is_digest
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format import documents
from ckptfmt.format.refs import Pin, TrashMarker
from ckptfmt.fsck.problem import REPAIR, Problem
from ckptfmt.storage.local import TEMPORARY
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.publish import PINS
from ckptfmt.store.receipts import PREFIX as RECEIPTS
from ckptfmt.store.receipts import Receipts
from ckptfmt.store.roots import is_unfinished_old
from ckptfmt.store.trash import MARKER, TRASH

ASIDE: Final = "damaged/"
"""Where a repair puts damaged files that the store no longer needs."""

_KNOWN: Final = ("shards", "manifests", "bases", "refs", "pins", "receipts", "trash", TEMPORARY, ASIDE[:-1])
_MAX_BYTES: Final = 256 << 20


def look_at_writers(storage: Storage, now_ns: int) -> list[Problem]:
    """Look at pins, unfinished writes, the trash's markers, what was set aside, and unknown directories."""
    problems = [*_pins(storage, now_ns)]
    for listed in storage.list(f"{TEMPORARY}/"):
        if is_unfinished_old(listed.modified_ns, now_ns):
            problems.append(Problem("unfinished", listed.key, "an unfinished write; gc removes it", (), "ckptfmt gc"))
    for listed in storage.list(TRASH):
        if listed.key.rpartition("/")[2] == MARKER and (why := _unsealed(storage, listed.key, TrashMarker)):
            problems.append(Problem("stray", listed.key, f"{why}; its age is its file's all the same"))
    for listed in storage.list(ASIDE):
        problems.append(Problem("set-aside", listed.key, "a damaged file that a repair replaced; nothing needs it"))
    return problems


def look_at_receipts(storage: Storage) -> list[Problem]:
    """Look at every entry of every receipt."""
    problems = []
    receipts = Receipts(storage)
    for receipt in receipts.ids():
        try:
            receipts.entries(receipt)
        except NotFound:
            continue
        except CkptfmtError as error:
            hint = "put the file back from a copy of the store: gc and cleanup do nothing until it can be read"
            problems.append(Problem("receipt-damaged", f"{RECEIPTS}{receipt}", error.message, (), hint))
    return problems


def _pins(storage: Storage, now_ns: int) -> list[Problem]:
    problems = []
    for listed in storage.list(PINS):
        name = listed.key[len(PINS) :]
        old = is_unfinished_old(listed.modified_ns, now_ns)
        if not is_digest(name.partition("-")[0]):
            problems.append(Problem("stray", listed.key, "no pin: it has another name"))
        elif why := _unsealed(storage, listed.key, Pin):
            what = f"{why}; it claims what its name says" + ("" if old else " until it is 24 h old")
            problems.append(Problem("pin-damaged", listed.key, what, (), REPAIR if old else None))
        elif old:
            what = "a claim of a writer that is gone; gc removes it"
            problems.append(Problem("pin-left", listed.key, what, (), "ckptfmt gc"))
    return problems


def _unsealed(storage: Storage, key: str, kind: type[Pin | TrashMarker]) -> str | None:
    """Why a sealed document cannot be read; None where it can, or is gone."""
    try:
        documents.unseal(storage.read(key, 0, _MAX_BYTES), kind, where=key)
    except NotFound:
        return None
    except CkptfmtError as error:
        return error.message
    return None
