"""Comparing what came back with what was there: file by file, by SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Compared:
    """Every file of either side, and of those the ones that are not the same on both."""

    names: tuple[str, ...]
    differing: tuple[str, ...]


def compare(original: Path, restored: Path) -> Compared:
    """Compare a checkpoint with what was restored of it into the directory `restored`.

    Where the checkpoint is one file, what was restored beside it is compared with what lies beside the original.
    """
    if original.is_dir():
        before, root = files_below(original), original
    else:
        before, root = files_below(restored) | {original.name}, original.parent
    names = tuple(sorted(before | files_below(restored)))
    return Compared(names, tuple(name for name in names if not _same(root / name, restored / name)))


def files_below(directory: Path) -> set[str]:
    """Every file below `directory`, relative to it, with '/'."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum((path / name).stat().st_size for name in files_below(path))


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and _sha256(one) == _sha256(other)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
