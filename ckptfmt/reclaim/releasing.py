"""Ending a hold: everything back in its place, or, after another proof, deleted."""

from __future__ import annotations

import os
from dataclasses import dataclass

from msgspec import structs

from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.receipt import HOLDING, HeldFile, Receipt
from ckptfmt.reclaim import holding
from ckptfmt.reclaim.found import Identity
from ckptfmt.reclaim.planning import Refused
from ckptfmt.reclaim.proving import ProofRequest, Prover
from ckptfmt.store.outside import all_outside
from ckptfmt.store.publish import confirm, confirm_documents
from ckptfmt.store.receipts import Receipts
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store


@dataclass(frozen=True, slots=True)
class Released:
    """What came of parts of receipts: the bytes that were given back, and the files that stay held."""

    freed_bytes: int
    returned: int
    refused: tuple[Refused, ...]


def settle(receipts: Receipts, part: Receipt) -> Receipt:
    """Finish a move that was stopped: what is in the hold is held, what is not stayed where it was.

    Whoever moves may not have been stopped at all: then they go on, and their entry, which comes later, counts. If they
    are stopped after that, what they moved lies in the hold of a part that has ended: it is held again.
    """
    while (moved := _to_settle(receipts, part)) is not None:
        holding.restore_times(part)
        holding.tidy(part, part.files)
        settled = receipts.follow(part, structs.replace(part, state="held" if moved else "undone", files=moved))
        part = settled or receipts.last(part)
        if settled is not None:
            break
    return part


def _to_settle(receipts: Receipts, part: Receipt) -> tuple[HeldFile, ...] | None:
    """The files that a part holds which is to be settled; None where none is."""
    if part.state == "moving":
        return holding.moved(part)
    if part.state not in ("undone", "purged") or not os.path.isdir(holding.hold_of(part)):
        return None
    first = next(each for each in receipts.entries(part.receipt) if each.part == part.part)
    return tuple(holding.places(first).values()) or None


def settle_all(receipts: Receipts) -> None:
    """Finish every move that was stopped, of directories that are there."""
    for each in receipts.ids():
        for part in receipts.parts(each):
            if os.path.isdir(part.top):
                settle(receipts, part)


def undo(store: Store, receipt: str) -> Released:
    """Put back everything that a receipt holds.

    Returns:
        What could not be put back is refused and stays held.
    """
    receipts = Receipts(store.storage)
    refused: list[Refused] = []
    returned = 0
    # The last first: of a directory that several parts took from, the first knows the mtime.
    for found in reversed(receipts.parts(receipt)):
        part = settle(receipts, found)
        done = set[str]()
        while part.state in ("held", "purging"):
            left = _give_back(part)
            done |= {file.path for file in part.files} - {file.path for file, _ in left}
            doubts = [Refused(holding.own_place(part, file), reason) for file, reason in left]
            files = tuple(file for file, _ in left)
            try:
                holding.keep_times(part, holding.directories_of(part))
                holding.tidy(part, part.files)
            except StorageError as error:
                doubts.append(Refused(part.top, f"put back, but not all is as it was: {error.message}; undo again"))
                files = files or part.files[:1]
            if receipts.follow(
                part, structs.replace(part, state=part.state if files else "undone", files=files or part.files)
            ):
                refused += doubts
                break
            part = settle(receipts, receipts.last(part))  # Whoever moves was not stopped, or another purges.
        returned += len(done)
    return Released(0, returned, tuple(refused))


def _give_back(part: Receipt) -> list[tuple[HeldFile, str]]:
    """Put back the files of a part; those that were not, and why."""
    left = []
    for file in part.files:
        try:
            holding.give_back(part, file)
        except holding.Doubt as doubt:
            left.append((file, str(doubt)))
    return left


def purge(store: Store, part: Receipt, prover: Prover) -> Released:
    """Delete what a part holds, after its checkpoint was once more rebuilt and compared with the held files."""
    receipts = Receipts(store.storage)
    if not os.path.isdir(part.top):
        return Released(0, 0, (Refused(part.top, "the directory is not there: nobody knows what became of its files"),))
    part = settle(receipts, part)
    if part.state not in HOLDING:
        return Released(0, 0, ())  # Nothing was moved, or somebody else was quicker.
    there = holding.places(part)
    missing = [file for file in part.files if file.path not in there]
    if part.state == "held" and missing and any(map(os.path.lexists, _own(part, missing))):
        paths = [path for path in _own(part, missing) if os.path.lexists(path)]
        return Released(0, 0, tuple(Refused(path, "it is in its place and not in the hold") for path in paths))
    if (reason := _unnamed(store, part)) is not None:
        return Released(0, 0, (Refused(f"{part.top}/{part.root}".rstrip("/"), reason),))
    prefix = f"{part.root}/" if part.root else ""
    names = tuple(sorted(path[len(prefix) :] for path in there))
    root = f"{holding.hold_of(part)}/{part.root}".rstrip("/")
    proof = prover(ProofRequest(store.path or "", part.manifest, root, names, outside=bool(part.outside)))
    if proof.problem is not None:
        return Released(0, 0, (Refused(f"{part.top}/{part.root}".rstrip("/"), proof.problem),))
    doubts = tuple(Refused(f"{part.top}/{prefix}{f.path}", f.reason) for f in proof.files if f.reason is not None)
    if doubts:
        return Released(0, 0, doubts)
    return unlink(receipts, part, {prefix + file.path: file.identity for file in proof.files})


def _own(part: Receipt, files: list[HeldFile]) -> list[str]:
    return [holding.own_place(part, file) for file in files]


def _unnamed(store: Store, part: Receipt) -> str | None:
    """Why what would be left in the store may be taken away by gc; None where a name stands for it."""
    if any(generation.target == part.manifest for generation in store.refs.manifests(pass_over)):
        return None
    return f"no name stands for it in the store any more: ckptfmt log {part.ref}, or undo the receipt"


def unkept(store: Store, part: Receipt) -> str | None:
    """Why the store may not keep what it was just proven to hold; None where it does.

    For whoever deletes without another proof. From the receipt on it is a root of gc; but gc may have let it go between
    the proof and the receipt, if its name was dropped.
    """
    if (reason := _unnamed(store, part)) is not None:
        return reason
    try:
        manifest = store.manifest(part.manifest)
        confirm_documents(store, part.manifest, manifest)
        outside = all_outside(store, manifest.base) if part.outside else None
        confirm(store, objects_of(manifest), part.ref, outside=outside, again=lambda vanished: None)
    except CkptfmtError as error:
        return f"the store does not hold it any more: {error.message}"
    return None


def unlink(receipts: Receipts, part: Receipt, identities: dict[str, Identity]) -> Released:
    """Delete files that were compared a moment ago."""
    if part.state != "purging":
        purging = receipts.follow(part, structs.replace(part, state="purging"))
        if purging is None:
            where = f"{part.top}/{part.root}".rstrip("/")
            return Released(0, 0, (Refused(where, "somebody else undoes or purges it: nothing was deleted here"),))
        part = purging
    # An error of the receipt's last entry is told with what was freed: the files are gone.
    freed = 0
    refused = []
    for file in part.files:
        try:
            freed += holding.delete(part, file, identities.get(file.path))
        except holding.Doubt as doubt:
            refused.append(Refused(holding.own_place(part, file), str(doubt)))
    try:
        holding.tidy(part, part.files)
    except StorageError as error:
        refused.append(Refused(holding.hold_of(part), f"deleted, but not tidied up: {error.message}; purge again"))
    if not refused:
        purged = structs.replace(part, state="purged", freed_bytes=(part.freed_bytes or 0) + freed)
        try:
            if receipts.follow(part, purged) is None and receipts.last(part).state != "purged":
                refused.append(Refused(holding.hold_of(part), "somebody else went on with it meanwhile; purge again"))
        except CkptfmtError as error:
            refused.append(Refused(holding.hold_of(part), f"deleted, but not noted: {error.message}; purge again"))
    return Released(freed, 0, tuple(refused))
