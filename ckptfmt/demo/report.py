"""What the demonstration found out, as data."""

from __future__ import annotations

import msgspec


class DemoRow(msgspec.Struct, frozen=True):
    """One checkpoint: bytes on disk, bytes the store grew by, files, and how many came back the same."""

    kind: str
    ref: str
    path: str
    disk_bytes: int
    new_bytes: int
    files: int
    files_same: int
    differing: tuple[str, ...] = ()


class DemoReport(msgspec.Struct, frozen=True):
    """The demonstration as a whole.

    `disk_bytes` counts the base and the checkpoints, `store_bytes` all that the store takes on disk, its documents
    too. `ok` says that every object decoded to its digest and every file came back with its SHA-256.
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
    seconds: float
