"""Looking at directories from outside: what a restore must give back, and what a store holds."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ckptfmt import Store

_OLD_NS = 1_600_000_000_123_456_789


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def photograph(root: Path, *, attributes: bool = True) -> dict[str, tuple[Any, ...]]:
    """Every entry below `root`, and '.': kind, content, and (but for links) mode and mtime."""
    seen: dict[str, tuple[Any, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        found = path.lstat()
        more = (stat.S_IMODE(found.st_mode), found.st_mtime_ns) if attributes else ()
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            seen[name] = ("link", os.readlink(path))
        elif path.is_dir():
            seen[name] = ("directory", *more)
        else:
            seen[name] = ("file", sha256(path), found.st_size, *more)
    return seen


def files_of(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, links followed, by relative path."""
    return {p.relative_to(root).as_posix(): sha256(p) for p in sorted(root.rglob("*")) if p.is_file()}


def age(root: Path) -> None:
    """Give every entry below `root` a mode and an mtime of its own, long ago and odd in every digit."""
    modes = (0o640, 0o444, 0o755, 0o600, 0o664)
    paths = sorted(root.rglob("*"), key=lambda path: -len(path.parts))
    for number, path in enumerate([*paths, root]):
        if path.is_symlink():
            continue
        path.chmod(0o750 if path.is_dir() and number % 2 else 0o755 if path.is_dir() else modes[number % len(modes)])
        when = _OLD_NS + number * 1_000_000_007
        os.utime(path, ns=(when, when))


def store_files(store: Path) -> dict[str, bytes]:
    """Every file of a store with its bytes: nothing of it may change when something fails."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def nothing_unfinished(store: Path) -> bool:
    """No temporary file, no pin, no trash: whatever went wrong left nothing behind."""
    return not [p for part in ("tmp", "pins", "trash") for p in (store / part).rglob("*") if p.is_file()]


def objects_in(store: Path) -> Counter[str]:
    """How often each object is stored, told by safetensors' own reader."""
    found: Counter[str] = Counter()
    for shard in (store / "shards").rglob("*.safetensors"):
        with safe_open(shard, framework="numpy") as opened:
            found.update(key for key in opened.keys() if not key.startswith("pad-"))  # noqa: SIM118
    return found


def shard_bytes(store: Path) -> int:
    return sum(shard.stat().st_size for shard in (store / "shards").rglob("*.safetensors"))


def there_and_back(store: Store, source: Path, target: Path, name: str = "back", **options: Any) -> Any:
    """Import one checkpoint, restore it, compare everything, and return the import's report."""
    before = photograph(source)
    report = store.import_checkpoint(source, name, **options)
    done = store.restore(name, target)
    assert photograph(target) == before
    assert photograph(source) == before
    files = [entry for entry in before.values() if entry[0] == "file"]
    assert (done.files, done.bytes, done.verified) == (len(files), sum(entry[2] for entry in files), True)
    assert report.files == done.files and report.logical_bytes == done.bytes
    return report
