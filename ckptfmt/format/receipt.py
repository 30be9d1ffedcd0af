"""Receipts: what a cleanup took from a directory, which manifest gives it back, and how far it came."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

RECEIPT_TAG: Final = "ckptfmt/receipt"

State = Literal["moving", "held", "purging", "purged", "undone"]
"""How far a part of a cleanup came. `moving`: its files are being moved into the hold; `held`: they lie there;
`purging`: they are being deleted; `purged`: they are gone; `undone`: they are back in their places."""

HOLDING: Final[frozenset[str]] = frozenset({"moving", "held", "purging"})
"""States in which the originals are not, or not all, where they were: the manifest is a root for gc."""

_ID: Final = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{12}")


class HeldFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that a cleanup takes: what it was when it was compared with what the store gives back.

    `path` is relative to the receipt's `top`; `allocated` are the bytes that the file system gives back for it.
    """

    path: str
    size: int
    sha256: str
    device: int
    inode: int
    mtime_ns: int
    mode: int
    allocated: int


class HeldDirectory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory that files are taken from, as it was before: `path` relative to `top`, '.' for itself."""

    path: str
    mode: int
    mtime_ns: int


class Receipt(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="format", tag=RECEIPT_TAG
):
    """Entry `number` of receipt `receipt`: where part `part` of one cleanup stands. The last entry of a part counts.

    Attributes:
        top: absolute path of the directory that was cleaned; the hold lies in it.
        root: the checkpoint's directory relative to `top`, '' for itself.
        manifest: what gives the files back.
        ref: the name it was taken in under.
        keep: what was kept in the tree.
        hold_seconds: how long the files are held, from the time that the storage gives the first `held` entry.
        outside: names of the bases without whose own files the manifest cannot be restored.
        freed_bytes: of a purged part, what the file system gave back.
    """

    version: int
    receipt: str
    number: int
    part: int
    state: State
    time: str
    host: str
    top: str
    root: str
    manifest: str
    ref: str
    keep: Literal["full", "adapter", "none"]
    hold_seconds: int
    files: tuple[HeldFile, ...]
    directories: tuple[HeldDirectory, ...]
    outside: tuple[str, ...] = ()
    freed_bytes: int | None = None


def is_receipt_id(text: str) -> bool:
    """Tell whether `text` is a receipt's id: UTC date and time, and 12 hex digits: microseconds (5) and chance (7)."""
    return _ID.fullmatch(text) is not None
