"""When a file counts as read before: only if nothing at all speaks for a change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ckptfmt.store import stat_cache
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.stat_cache import StatCache, stamp_of

SHA256 = "ab" * 32


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is ten seconds old, by a clock that runs ahead."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    now = time.time_ns
    monkeypatch.setattr(stat_cache.time, "time_ns", lambda: now() + 10_000_000_000)
    return path


def test_what_was_put_is_there(old: Path) -> None:
    cache = StatCache(Catalog(None))
    assert cache.get(str(old)) is None
    cache.put(str(old), old.stat(), SHA256)
    assert cache.get(str(old)) == SHA256
    (old.parent / "link").symlink_to(old)
    assert cache.get(str(old.parent / "link")) == SHA256


def test_a_young_file_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    cache = StatCache(Catalog(None))
    cache.put(str(path), path.stat(), SHA256)
    assert cache.get(str(path)) is None
    os.utime(path, ns=(1, 1_600_000_000_000_000_000))  # An old mtime says nothing: the ctime is young.
    cache.put(str(path), path.stat(), SHA256)
    assert cache.get(str(path)) is None


def test_any_change_is_noticed(old: Path) -> None:
    cache = StatCache(Catalog(None))
    before = old.stat()

    def same_length() -> None:
        old.write_bytes(b"CONTENT")

    def mtime_put_back() -> None:
        old.write_bytes(b"CONTENT")
        os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))

    def replaced() -> None:
        other = old.with_name("other")
        other.write_bytes(b"CONTENT")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(old)

    for change in (same_length, mtime_put_back, replaced, lambda: old.write_bytes(b"longer content"), old.unlink):
        if not old.exists():
            old.write_bytes(b"content")
        cache.put(str(old), old.stat(), SHA256)
        assert cache.get(str(old)) == SHA256
        time.sleep(0.02)  # Longer than the clock of a file system ticks.
        change()
        assert cache.get(str(old)) is None


def test_a_change_while_it_was_read_is_noticed(old: Path) -> None:
    cache = StatCache(Catalog(None))
    before = old.stat()
    time.sleep(0.02)
    old.write_bytes(b"CHANGED")
    cache.put(str(old), before, SHA256)
    assert cache.get(str(old)) is None


def test_nothing_is_remembered_over_a_network(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stat_cache, "is_network", lambda path: True)
    cache = StatCache(Catalog(None))
    cache.put(str(old), old.stat(), SHA256)
    assert cache.get(str(old)) is None


def test_a_stamp_tells_all(old: Path) -> None:
    found = old.stat()
    assert stamp_of(found).split(":") == [
        str(part) for part in (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    ]
