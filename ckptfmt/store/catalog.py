"""The catalog: where each object lies, read from the shards' headers and kept beside the store, on local disk.

It can be thrown away at any time and is never believed where it matters: it nominates, shards decide. It is keyed by
host, store id, and the device, inode and real path of `store.json`, so that a copied store has a catalog of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.shard import ShardObject, Stored
from ckptfmt.storage.machine import cache_directory, host_name

SCHEMA_VERSION: Final = 1
_BUSY_SECONDS: Final = 30
_CHUNK: Final = 500
_CACHE_KIB: Final = 32 << 10

_SCHEMA: Final = """
CREATE TABLE shards (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, size INTEGER NOT NULL);
CREATE TABLE objects (
    digest BLOB NOT NULL, shard INTEGER NOT NULL, begin INTEGER NOT NULL, length INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL, head BLOB NOT NULL, stored TEXT NOT NULL,
    PRIMARY KEY (digest, shard)
) WITHOUT ROWID;
CREATE INDEX by_head ON objects (length, head);
CREATE INDEX by_shard ON objects (shard);
CREATE TABLE documents (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, summary BLOB NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0, exclusive INTEGER NOT NULL DEFAULT 0, missing INTEGER NOT NULL DEFAULT 0);
CREATE TABLE uses (object BLOB PRIMARY KEY, count INTEGER NOT NULL, owners INTEGER NOT NULL, stored INTEGER)
    WITHOUT ROWID;
CREATE INDEX by_owner ON uses (owners, stored) WHERE count = 1;
CREATE TABLE facts (kind TEXT NOT NULL, key TEXT NOT NULL, stamp TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Location:
    """A copy of an object: `begin` is the byte offset in shard `shard` of its first stored byte."""

    shard: str
    begin: int
    stored: Stored


def catalog_path(store_id: str, document_path: str) -> str | None:
    """The catalog file of the store whose `store.json` lies at `document_path`; None where there is no place for it."""
    directory = cache_directory()
    if directory is None:
        return None
    found = os.stat(document_path)
    identity = (host_name(), store_id, found.st_dev, found.st_ino, os.path.realpath(document_path))
    return os.path.join(directory, f"catalog-v{SCHEMA_VERSION}-{digest_of(repr(identity).encode())[:32]}.sqlite")


class Catalog:
    """An index of shards, and a cache of facts derived from documents.

    Args:
        path: its file; None keeps it in memory.
    """

    def __init__(self, path: str | None) -> None:
        self._lock = threading.RLock()
        self._connection = _open(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done inside, or nothing; other processes wait."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def shards(self) -> dict[str, int]:
        """The shards it knows, with their size in bytes."""
        with self._lock:
            return dict(self._connection.execute("SELECT digest, size FROM shards"))

    def add_shard(self, shard: str, size: int, objects: Iterable[ShardObject]) -> None:
        """Take in the objects of a shard."""
        with self.transaction() as connection:
            cursor = connection.execute("INSERT OR IGNORE INTO shards (digest, size) VALUES (?, ?)", (shard, size))
            if cursor.rowcount:
                row = cursor.lastrowid
                connection.executemany(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
                    sorted(_row(item, row) for item in objects),  # In the table's own order: fewer pages to touch.
                )

    def forget_shard(self, shard: str) -> None:
        """Drop a shard that is gone."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE shard = (SELECT id FROM shards WHERE digest = ?)", (shard,))
            connection.execute("DELETE FROM shards WHERE digest = ?", (shard,))
            # What was counted of objects that are gone is worth nothing: it is counted afresh (store/usage.py).
            connection.execute("DELETE FROM uses")
            connection.execute("DELETE FROM documents")

    def sync(self, present: dict[str, int], headers: Callable[[str], Sequence[ShardObject]]) -> dict[str, CkptfmtError]:
        """Follow the store: `present` are its shards with their sizes, `headers` reads one.

        Returns:
            The shards that cannot be read, with the reason. Their objects are unknown until they can.
        """
        known = self.shards()
        unreadable = {}
        for shard in known.keys() - present.keys():
            self.forget_shard(shard)
        for shard in sorted(present.keys() - known.keys()):
            try:
                self.add_shard(shard, present[shard], headers(shard))
            except CkptfmtError as error:
                unreadable[shard] = error
        return unreadable

    def find(self, digest: str) -> list[Location]:
        """Every copy of an object, the smallest first."""
        return self.find_many([digest]).get(digest, [])

    def find_many(self, digests: Iterable[str]) -> dict[str, list[Location]]:
        """Every copy of each object that is known; the smallest first."""
        wanted = [bytes.fromhex(digest) for digest in digests]
        found: dict[str, list[Location]] = {}
        with self._lock:
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    "SELECT objects.digest, shards.digest, begin, stored FROM objects "  # noqa: S608
                    f"JOIN shards ON shards.id = objects.shard WHERE objects.digest IN ({marks}) ORDER BY stored_bytes",
                    part,
                )
                for digest, shard, begin, stored in rows:
                    location = Location(shard, begin, msgspec.json.decode(stored, type=Stored))
                    found.setdefault(digest.hex(), []).append(location)
        return found

    def stored_bytes(self, digests: Iterable[str]) -> dict[str, int]:
        """Bytes that the smallest copy of each known object takes."""
        wanted = [bytes.fromhex(digest) for digest in digests]
        found: dict[str, int] = {}
        with self._lock:
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT digest, min(stored_bytes) FROM objects WHERE digest IN ({marks}) GROUP BY digest",  # noqa: S608
                    part,
                )
                found.update((digest.hex(), size) for digest, size in rows)
        return found

    def nominates(self, length: int, head: str) -> bool:
        """Tell whether some object of `length` bytes begins with a frame whose XXH3-128 is `head`."""
        with self._lock:
            row = self._connection.execute(
                "SELECT 1 FROM objects WHERE length = ? AND head = ? LIMIT 1", (length, bytes.fromhex(head))
            ).fetchone()
        return row is not None

    def fact(self, kind: str, key: str, stamp: str) -> bytes | None:
        """A value put by `remember`, if it was put with the same `stamp`."""
        with self._lock:
            row = self._connection.execute(
                "SELECT value FROM facts WHERE kind = ? AND key = ? AND stamp = ?", (kind, key, stamp)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def facts(self, kind: str) -> dict[str, tuple[str, bytes]]:
        """Every value of a kind: key to stamp and value."""
        with self._lock:
            rows = self._connection.execute("SELECT key, stamp, value FROM facts WHERE kind = ?", (kind,))
            return {key: (stamp, bytes(value)) for key, stamp, value in rows}

    def remember(self, kind: str, values: Iterable[tuple[str, str, bytes]]) -> None:
        """Keep derived values: key, the stamp of what they were derived from, value."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)",
                ((kind, key, stamp, value) for key, stamp, value in values),
            )


def _row(item: ShardObject, shard: int | None) -> tuple[object, ...]:
    stored = item.stored
    return (
        bytes.fromhex(item.digest),
        shard,
        item.begin,
        stored.length,
        stored.stored_bytes(),
        bytes.fromhex(stored.head_sum()),
        msgspec.json.encode(stored).decode(),
    )


def _open(path: str | None) -> sqlite3.Connection:
    """Open the catalog file; one that is unusable or of another version is thrown away and begun afresh."""
    if path is not None:
        for _ in range(2):
            try:
                return _prepare(sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False))
            except sqlite3.OperationalError:
                break
            except sqlite3.DatabaseError:
                _remove(path)
    return _prepare(sqlite3.connect(":memory:", check_same_thread=False))


def _remove(path: str) -> None:
    # Outside the durable seam on purpose: this is a cache on local disk, no part of a store.
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def _prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"catalog version {version}")
    return connection
