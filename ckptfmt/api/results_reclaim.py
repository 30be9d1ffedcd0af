"""What `scan` and `cleanup` give back: frozen data, whose fields are the keys of `--json`.

`bytes` are lengths of files. `reclaimable_bytes`, `held_bytes` and `freed_bytes` are what the file system gives back:
the blocks of files that lose their last name, without extents that they share as reflinks.
"""

from __future__ import annotations

import msgspec

from ckptfmt.reclaim.rows import KeepWeights, Kind, Proof


class ScannedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint that a scan saw. `resumes`: a Trainer resumes from it. `problem`: why it could not be read."""

    path: str
    layout: str
    files: int
    bytes: int
    resumes: bool
    problem: str | None = None


class RedundantFile(msgspec.Struct, frozen=True):
    """A redundant file: `bytes` of it are, for this `reason`.

    `proof` is how that is known: by `names`, by the `headers` of weight files, by `samples` of tensors, because all
    bytes are `identical`, by `links`. `goes_with` is the most that `--keep-weights` may keep for a cleanup to take
    it; null where none does. `checkpoint` is the path of the one that it belongs to; null where it is no part of any.
    """

    path: str
    bytes: int
    reason: str
    proof: Proof
    kind: Kind
    goes_with: KeepWeights | None
    checkpoint: str | None = None


class Unread(msgspec.Struct, frozen=True):
    """A path that was passed over, and why."""

    path: str
    reason: str


class ScanReport(msgspec.Struct, frozen=True):
    """What a scan found.

    `reclaimable_bytes` is what `cleanup` frees as it is by default, `reclaimable` the same for each choice of
    `--keep-weights`. `locked` are checkpoints with redundant files that cannot be moved: these are not counted there.
    """

    checkpoints: tuple[ScannedCheckpoint, ...]
    redundant: tuple[RedundantFile, ...]
    reclaimable_bytes: int
    reclaimable: dict[str, int]
    files: int
    unread: tuple[Unread, ...]
    seconds: float
    locked: tuple[Unread, ...] = ()


class PlannedFile(msgspec.Struct, frozen=True):
    """A file that a cleanup takes. `shared_bytes` of it are reflinks of others, which its going does not free."""

    path: str
    bytes: int
    reason: str
    shared_bytes: int = 0


class StayingFile(msgspec.Struct, frozen=True):
    """What a scan told of and a cleanup leaves, how many of its bytes are redundant or not judged, and why it stays."""

    path: str
    bytes: int
    reason: str


class PlannedCleanup(msgspec.Struct, frozen=True):
    """A checkpoint of a cleanup's plan.

    `ref` is the name it is taken in under; `files` what then goes, none where it is only taken in so that others take
    less. `resumes` tells whether a Trainer resumes from it afterwards; null where none does now. `note` says what else
    there is to know. `freed_bytes` is what the file system gives back for it alone; `known` whether the store has it
    under this name already. `base` is the base of the store that it is then bound to, as with `import --base`.
    """

    path: str
    ref: str
    files: tuple[PlannedFile, ...]
    most_bytes: int
    resumes: bool | None
    note: str | None = None
    freed_bytes: int = 0
    known: bool = False
    base: str | None = None


class PlannedBase(msgspec.Struct, frozen=True):
    """A referenced base that a cleanup copies in if a checkpoint needs it."""

    name: str
    most_bytes: int


class CleanupPlanned(msgspec.Struct, frozen=True):
    """What a cleanup would do.

    `needed_bytes` is the most that it may write into the store, `available_bytes` what is free there: it refuses to
    begin where that is less. `freed_bytes` is what the file system gives back at the end. `staying` are files that were
    found to be redundant and stay, and checkpoints that cannot be read.
    """

    directories: tuple[str, ...]
    keep_weights: KeepWeights
    hold_seconds: int
    base_stays_outside: bool
    checkpoints: tuple[PlannedCleanup, ...]
    bases: tuple[PlannedBase, ...]
    files: int
    needed_bytes: int
    available_bytes: int
    freed_bytes: int
    staying: tuple[StayingFile, ...] = ()


class RefusedFile(msgspec.Struct, frozen=True):
    """A path that stays, and why."""

    path: str
    reason: str


class CleanupReport(msgspec.Struct, frozen=True):
    """A cleanup: its plan, or what it did.

    `held_bytes` will be given back when the hold is over (`hold_until`, UTC), `freed_bytes` were. `grown_bytes` is
    what the store's directory takes more than before.
    """

    plan: CleanupPlanned | None
    receipt: str | None
    held_bytes: int
    freed_bytes: int
    hold_until: str | None
    refused: tuple[RefusedFile, ...]
    grown_bytes: int = 0
    refs: tuple[str, ...] = ()


class ReceiptRow(msgspec.Struct, frozen=True):
    """A receipt. `state`: `held`, `purged`, `undone`, `stopped` (a cleanup or a purge was stopped) or `mixed`."""

    receipt: str
    state: str
    created: str
    hold_until: str | None
    held_bytes: int
    freed_bytes: int
    files: int
    directories: tuple[str, ...]
    refs: tuple[str, ...]
    outside: tuple[str, ...]


class UndoReport(msgspec.Struct, frozen=True):
    """What an undo put back. `refs` are the names that the cleanup gave, and that still stand in the store."""

    receipt: str
    files: int
    refused: tuple[RefusedFile, ...]
    refs: tuple[str, ...] = ()


class PurgeReport(msgspec.Struct, frozen=True):
    """What a purge would delete (`plan`), or what it freed. `waiting` are receipts whose hold is not over."""

    plan: tuple[ReceiptRow, ...] | None
    freed_bytes: int
    receipts: tuple[str, ...]
    waiting: tuple[str, ...]
    refused: tuple[RefusedFile, ...]
