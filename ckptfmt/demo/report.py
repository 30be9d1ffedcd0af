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


class DemoReport(msgspec.Struct, frozen=True):
    """The demonstration as a whole.

    `disk_bytes` counts the base and the checkpoints, `store_bytes` all that the store takes on disk, its documents
    too. `ok` says that every object decoded to its digest, every file came back with its SHA-256, and merging did
    what it should.
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
    seconds: float
