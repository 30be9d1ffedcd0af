"""Rows: what is redundant, why, how that is known, and what it takes to free it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ckptfmt.reclaim.found import FileSeen

KeepWeights = Literal["full", "adapter", "none"]
KEEPS: Final[tuple[KeepWeights, ...]] = get_args(KeepWeights)
"""What may stay in the tree, from most to least."""
DEFAULT_KEEP: Final[KeepWeights] = "adapter"

Kind = Literal[
    "beside-adapter",
    "base-copy",
    "duplicate",
    "export",
    "merged-stage",
    "old-optimizer",
    "shared-tensors",
    "hard-link",
    "partial-save",
]

Proof = Literal["names", "headers", "samples", "identical", "links"]
"""How a row is known: by names; by the names, shapes and dtypes of tensors; by sampled bytes of tensors; by all bytes;
by inodes. None of them is relied on for deletion: that takes a rebuilding from the store."""


@dataclass(frozen=True, slots=True)
class Row:
    """A redundant file.

    Attributes:
        path: absolute.
        file: as it was seen.
        bytes: how many of its bytes are redundant.
        kind: what makes it so.
        reason: the same in words.
        proof: how it is known.
        goes: the most that `--keep-weights` may keep for a cleanup to take it away; None: it is only reported.
        shared: bytes that it shares with other files as reflinks: they stay.
        checkpoint: index of its checkpoint in the survey; None where it belongs to none.
    """

    path: str
    file: FileSeen
    bytes: int
    kind: Kind
    reason: str
    proof: Proof
    goes: KeepWeights | None
    shared: int = 0
    checkpoint: int | None = None


def goes_under(goes: KeepWeights | None, keep: KeepWeights) -> bool:
    """Tell whether a cleanup that keeps `keep` takes away what `goes` under another."""
    return goes is not None and KEEPS.index(goes) <= KEEPS.index(keep)


def freed_by(names: Iterable[tuple[str, FileSeen, int]]) -> int:
    """Bytes that the file system gives back when these names go: those of files that lose their last name.

    Args:
        names: each absolute path, with its file and the bytes that this shares as reflinks.
    """
    going: dict[tuple[int, int], set[str]] = {}
    files: dict[tuple[int, int], tuple[FileSeen, int]] = {}
    for path, file, shared in names:
        going.setdefault(file.node, set()).add(path)
        files[file.node] = (file, shared)
    return sum(file.allocated - shared for node, (file, shared) in files.items() if len(going[node]) >= file.links)
