"""Space: what taking checkpoints in may need at most, and what directories take."""

from __future__ import annotations

import os
from typing import Final

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.shard import header_estimate
from ckptfmt.reclaim.found import CheckpointSeen

STEP_BYTES: Final = 128 << 10
"""Of each checkpoint: names, receipts, directories, and the ends of blocks."""
_TENSOR_BYTES: Final = 1024
"""Of a tensor or a file in a manifest, a receipt and a generation."""


def most_needed(seen: CheckpointSeen) -> int:
    """The most bytes that taking a checkpoint in may add to a store, as if nothing of it were there already."""
    total = STEP_BYTES
    for file in seen.files:
        total += file.size + _TENSOR_BYTES + header_estimate(file.size, 1)
        try:
            with FileSource(f"{seen.top}/{file.path}") as source:
                cut = cut_file(source, file.path)
        except (CkptfmtError, OSError):
            continue  # The import will say it.
        if isinstance(cut, Cut):
            total += sum(header_estimate(span.length, len(span.shape)) for span in cut.extents)
            total += _TENSOR_BYTES * len(cut.tensors)
    return total


def available(path: str) -> int:
    """Bytes that this user may still write where `path` lies."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def allocated_below(path: str) -> int:
    """Bytes that the file system holds for all files and directories at and below `path`."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for directory, _, names in os.walk(path):
        for name in (".", *names):
            try:
                found = os.lstat(f"{directory}/{name}")
            except FileNotFoundError:
                continue
            node = (found.st_dev, found.st_ino)
            if node not in seen:
                seen.add(node)
                total += found.st_blocks * 512
    return total
