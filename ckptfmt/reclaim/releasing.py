"""Ending a hold: everything back in its place, or, after another proof, deleted."""

from __future__ import annotations

import os
from dataclasses import dataclass

from msgspec import structs

from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.receipt import HeldFile, Receipt
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
    """Finish a move that was stopped: what is in the hold is held, what is not stayed where it was."""
    if part.state != "moving":
        return part
    held = holding.moved(part)
    holding.restore_times(part)
    holding.tidy(part, part.files)
    state = structs.replace(part, state="held" if held else "undone", files=held)
    return receipts.append(state)


def settle_all(receipts: Receipts) -> None:
    """Finish every move that was stopped, of directories that are there."""
    for each in receipts.ids():
        for part in receipts.parts(each):
            if part.state == "moving" and os.path.isdir(part.top):
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
        if part.state not in ("held", "purging"):
            continue
        left = []
        for file in part.files:
            try:
                holding.give_back(part, file)
                returned += 1
            except holding.Doubt as doubt:
                refused.append(Refused(holding.own_place(part, file), str(doubt)))
                left.append(file)
        try:
            holding.keep_times(part, holding.directories_of(part))
            holding.tidy(part, part.files)
        except StorageError as error:
            refused.append(Refused(part.top, f"put back, but not all is as it was: {error.message}; undo again"))
            left = left or list(part.files[:1])
        if left:
            receipts.append(structs.replace(part, state=part.state, files=tuple(left)))
        else:
            receipts.append(structs.replace(part, state="undone"))
    return Released(0, returned, tuple(refused))


def purge(store: Store, part: Receipt, prover: Prover) -> Released:
    """Delete what a part holds, after its checkpoint was once more rebuilt and compared with the held files."""
    receipts = Receipts(store.storage)
    if not os.path.isdir(part.top):
        return Released(0, 0, (Refused(part.top, "the directory is not there: nobody knows what became of its files"),))
    part = settle(receipts, part)
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
        part = receipts.append(structs.replace(part, state="purging"))
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
        try:
            receipts.append(structs.replace(part, state="purged", freed_bytes=(part.freed_bytes or 0) + freed))
        except CkptfmtError as error:
            refused.append(Refused(holding.hold_of(part), f"deleted, but not noted: {error.message}; purge again"))
    return Released(freed, 0, tuple(refused))
