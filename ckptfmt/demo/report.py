"""What the demonstration found out, as data."""

from __future__ import annotations

import msgspec


class DemoRow(msgspec.Struct, frozen=True):
    """One checkpoint: bytes on disk, bytes the store grew by, files, and how many came back the same.

    `merged`: a model into which an adapter was merged that the store had by then.
    """

    kind: str
    ref: str
    path: str
    disk_bytes: int
    new_bytes: int
    files: int
    files_same: int
    differing: tuple[str, ...] = ()
    merged: bool = False


class DemoMerge(msgspec.Struct, frozen=True):
    """A chain of stages merged in one pass: whether its bits are those of what PEFT saved stage by stage.

    `refused` is what merging onto a base with one changed bit said; None if it was not refused.
    """

    ref: str
    stages: int
    bytes: int
    seconds: float
    compared_with: str
    same_bits: bool
    refused: str | None


class DemoCleanup(msgspec.Struct, frozen=True):
    """Redundant originals taken away and put back, and what dropped names alone needed freed.

    `left_bytes` is what the checkpoints took while `held_bytes` were held, `planned_bytes` what the plan had said.
    `undone`: every file was back with its SHA-256. `sound`: every object that is needed decoded after gc.
    """

    files: int
    before_bytes: int
    left_bytes: int
    held_bytes: int
    planned_bytes: int
    refused: int
    undone: bool
    gc_freed_bytes: int
    sound: bool

    @property
    def ok(self) -> bool:
        """Whether it did what it said, and lost nothing."""
        return self.undone and self.sound and not self.refused and self.held_bytes == self.planned_bytes


class DemoReport(msgspec.Struct, frozen=True):
    """The demonstration as a whole.

    `disk_bytes` counts the base and the checkpoints, `store_bytes` all that the store takes on disk, its documents
    too. `ok` says that every object decoded to its digest, every file came back with its SHA-256, and merging
    and cleaning up did what they should.
    """

    ok: bool
    path: str
    store: str
    base: str
    base_bytes: int
    base_new_bytes: int
    rows: tuple[DemoRow, ...]
    disk_bytes: int
    store_bytes: int
    files: int
    files_same: int
    objects: int
    damaged: int
    merge: DemoMerge | None
    cleanup: DemoCleanup | None
    seconds: float
