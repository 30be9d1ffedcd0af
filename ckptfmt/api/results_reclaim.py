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
    it; null where none does.
    """

    path: str
    bytes: int
    reason: str
    proof: Proof
    kind: Kind
    goes_with: KeepWeights | None


class Unread(msgspec.Struct, frozen=True):
    """A path that was passed over, and why."""

    path: str
    reason: str


class ScanReport(msgspec.Struct, frozen=True):
    """What a scan found.

    `reclaimable_bytes` is what `cleanup` frees as it is by default, `reclaimable` the same for each choice of
    `--keep-weights`.
    """

    checkpoints: tuple[ScannedCheckpoint, ...]
    redundant: tuple[RedundantFile, ...]
    reclaimable_bytes: int
    reclaimable: dict[str, int]
    files: int
    unread: tuple[Unread, ...]
    seconds: float
