"""The catalog: where each object lies, read from the shards' headers and kept beside the store, on local disk.

It can be thrown away at any time and is never believed where it matters: it nominates, shards decide. It is keyed by
host, store id, and the device, inode and real path of `store.json`, so that a copied store has a catalog of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError, Conflict, InvalidInput
from ckptfmt.format.shard import ShardObject, Stored
from ckptfmt.storage.machine import cache_directory, host_name

Result = TypeVar("Result")

SCHEMA_VERSION: Final = 2
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
CREATE TABLE edges (object BLOB NOT NULL, shard INTEGER NOT NULL, dependency BLOB NOT NULL,
    PRIMARY KEY (object, shard, dependency)) WITHOUT ROWID;
CREATE INDEX edges_by_shard ON edges (shard);
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


class _Encoding(msgspec.Struct):
    """What `Catalog.encodings` reads of a `Stored`."""

    encoding: str


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

    A file that turns out to be damaged, full or locked for long is given up: the catalog goes on in memory.

    Args:
        path: its file; None keeps it in memory.
        refill: called after it was given up and begun afresh.
    """

    def __init__(self, path: str | None, refill: Callable[[], object] = lambda: None) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._refill = refill
        self._still = False
        self._closed = False
        self._connection = _open(path)

    def close(self) -> None:
        """Close the file, once no other thread reads it any more: SQLite would go on in memory that is freed."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def change(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do all of `work` or nothing, while other processes wait; again where the file has to be given up."""

        def whole(connection: sqlite3.Connection) -> Result:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                return work(connection)

        return self._do(whole)

    def look(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Read with queries of one's own, once more where the file has to be given up."""
        return self._do(work)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let other threads wait: what is done within seems one step to them."""
        with self._lock:
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """What is read within is of one moment, whatever other processes change meanwhile. Nothing is written within.

        Raises:
            Conflict: the file turned out to be damaged, and what was read of it is not what the new one says.
        """
        with self._lock:
            self._do(_begin)
            self._still = True
            try:
                yield
            finally:
                self._still = False
                if self._connection.in_transaction:
                    self._connection.rollback()

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._lock:
            if self._closed:
                raise InvalidInput("the store was closed, and is asked again", hint="open it again")
            try:
                return work(self._connection)
            except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
                if self._path is None or isinstance(error, sqlite3.ProgrammingError):
                    raise
                self._give_up(error)
                if self._still:
                    raise Conflict(
                        "the catalog was damaged, and was begun afresh", hint="run the same command again"
                    ) from error
            return work(self._connection)

    def _give_up(self, error: Exception) -> None:
        path, self._path = self._path, None
        self._connection.close()
        if path is not None and not isinstance(error, sqlite3.OperationalError):
            _remove(path)
        self._connection = _open(None)
        self._refill()

    def clear(self) -> None:
        """Forget every shard, and what was counted of them."""

        def work(connection: sqlite3.Connection) -> None:
            for table in ("objects", "edges", "shards", "uses", "documents"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608

        self.change(work)

    def shards(self) -> dict[str, int]:
        """The shards it knows, with their size in bytes."""
        return self._do(lambda connection: dict(connection.execute("SELECT digest, size FROM shards")))

    def add_shard(self, shard: str, size: int, objects: Iterable[ShardObject]) -> None:
        """Take in the objects of a shard."""
        items = list(objects)

        def work(connection: sqlite3.Connection) -> None:
            cursor = connection.execute("INSERT OR IGNORE INTO shards (digest, size) VALUES (?, ?)", (shard, size))
            if cursor.rowcount:
                row = cursor.lastrowid
                connection.executemany(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
                    sorted(_row(item, row) for item in items),  # In the table's own order: fewer pages to touch.
                )
                connection.executemany("INSERT OR IGNORE INTO edges VALUES (?, ?, ?)", _edges(items, row))
                smaller = connection.execute(
                    "SELECT 1 FROM objects AS o JOIN uses ON uses.object = o.digest "
                    "WHERE o.shard = ? AND (uses.stored > o.stored_bytes OR EXISTS "
                    "(SELECT 1 FROM edges WHERE edges.object = o.digest AND edges.shard = o.shard)) LIMIT 1",
                    (row,),
                )
                if smaller.fetchone() is not None:
                    _forget_usage(connection)

        self.change(work)

    def forget_shard(self, shard: str) -> None:
        """Drop a shard that is gone."""

        def work(connection: sqlite3.Connection) -> None:
            for table in ("objects", "edges"):
                query = f"DELETE FROM {table} WHERE shard = (SELECT id FROM shards WHERE digest = ?)"  # noqa: S608
                connection.execute(query, (shard,))
            connection.execute("DELETE FROM shards WHERE digest = ?", (shard,))
            _forget_usage(connection)

        self.change(work)

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

        def work(connection: sqlite3.Connection) -> dict[str, list[Location]]:
            found: dict[str, list[Location]] = {}
            for part in _parts(wanted):
                rows = connection.execute(
                    "SELECT objects.digest, shards.digest, begin, stored FROM objects "  # noqa: S608
                    f"JOIN shards ON shards.id = objects.shard WHERE objects.digest IN ({_marks(part)}) "
                    "ORDER BY stored_bytes",
                    part,
                )
                for digest, shard, begin, stored in rows:
                    location = Location(shard, begin, msgspec.json.decode(stored, type=Stored))
                    found.setdefault(digest.hex(), []).append(location)
            return found

        return self._do(work)

    def stored_bytes(self, digests: Iterable[str]) -> dict[str, int]:
        """Bytes that the smallest copy of each known object takes."""
        wanted = [bytes.fromhex(digest) for digest in digests]

        def work(connection: sqlite3.Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for part in _parts(wanted):
                rows = connection.execute(
                    "SELECT digest, min(stored_bytes) FROM objects "  # noqa: S608
                    f"WHERE digest IN ({_marks(part)}) GROUP BY digest",
                    part,
                )
                found.update((digest.hex(), size) for digest, size in rows)
            return found

        return self._do(work)

    def encodings(self, digests: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Encoding of the smallest copy of each known object, and the bytes that it takes."""
        wanted = [bytes.fromhex(digest) for digest in digests]
        decoder = msgspec.json.Decoder(_Encoding)

        def work(connection: sqlite3.Connection) -> dict[str, tuple[str, int]]:
            found: dict[str, tuple[str, int]] = {}
            for part in _parts(wanted):
                # Of a row with an aggregate min(), SQLite gives the other columns of the row that has it.
                rows = connection.execute(
                    "SELECT digest, stored, min(stored_bytes) FROM objects "  # noqa: S608
                    f"WHERE digest IN ({_marks(part)}) GROUP BY digest",
                    part,
                )
                found.update((digest.hex(), (decoder.decode(stored).encoding, size)) for digest, stored, size in rows)
            return found

        return self._do(work)

    def dependencies(self, digests: Iterable[str]) -> dict[str, frozenset[str]]:
        """What any copy of each object depends on directly; objects that depend on none are left out."""
        wanted = [bytes.fromhex(digest) for digest in digests]

        def work(connection: sqlite3.Connection) -> dict[str, frozenset[str]]:
            found: dict[str, set[str]] = {}
            for part in _parts(wanted):
                rows = connection.execute(
                    f"SELECT object, dependency FROM edges WHERE object IN ({_marks(part)})",  # noqa: S608
                    part,
                )
                for item, dependency in rows:
                    found.setdefault(item.hex(), set()).add(dependency.hex())
            return {digest: frozenset(needed) for digest, needed in found.items()}

        return self._do(work)

    def objects_in(self, shard: str) -> tuple[ShardObject, ...]:
        """The objects of a shard, by their places; what dtype and shape its header gives them is not known here."""
        query = (
            "SELECT objects.digest, begin, stored FROM objects JOIN shards ON shards.id = objects.shard "
            "WHERE shards.digest = ? ORDER BY begin"
        )

        def work(connection: sqlite3.Connection) -> tuple[ShardObject, ...]:
            found = []
            for digest, begin, text in connection.execute(query, (shard,)):
                stored = msgspec.json.decode(text, type=Stored)
                found.append(ShardObject(digest.hex(), stored, begin, "U8", (stored.stored_bytes(),)))
            return tuple(found)

        return self._do(work)

    def outlines(self) -> dict[str, tuple[int, ...]]:
        """Of each shard its size and what its objects come to: what two catalogs of the same shards agree on."""
        query = (
            "SELECT shards.digest, size, count(objects.digest), total(begin), total(length), total(stored_bytes), "
            "total(length(stored)) FROM shards LEFT JOIN objects ON shards.id = objects.shard GROUP BY shards.id"
        )
        return self._do(lambda connection: {row[0]: tuple(map(int, row[1:])) for row in connection.execute(query)})

    def rows(self) -> dict[int, str]:
        """The shards it knows, by the number that `every_copy` gives them."""
        return self._do(lambda connection: dict(connection.execute("SELECT id, digest FROM shards")))

    def every_copy(self, take: Callable[[bytes, int, int], None]) -> None:
        """Give every copy of every object: digest, number of the shard, bytes it takes; the copies of one in a row."""

        def work(connection: sqlite3.Connection) -> None:
            for digest, shard, size in connection.execute(
                "SELECT digest, shard, stored_bytes FROM objects ORDER BY digest"
            ):
                take(digest, shard, size)

        self._do(work)

    def every_edge(self) -> dict[tuple[bytes, int], tuple[bytes, ...]]:
        """What each copy is stored against, by digest and number of the shard; none for copies that need nothing."""

        def work(connection: sqlite3.Connection) -> dict[tuple[bytes, int], tuple[bytes, ...]]:
            found: dict[tuple[bytes, int], tuple[bytes, ...]] = {}
            for item, shard, dependency in connection.execute("SELECT object, shard, dependency FROM edges"):
                found[item, shard] = (*found.get((item, shard), ()), dependency)
            return found

        return self._do(work)

    def dependents(self, digests: Collection[bytes]) -> set[bytes]:
        """Objects of which some copy is stored against one of these directly."""

        def work(connection: sqlite3.Connection) -> set[bytes]:
            rows = connection.execute("SELECT object, dependency FROM edges")
            return {item for item, dependency in rows if dependency in digests}

        return self._do(work)

    def nominates(self, length: int, head: str) -> bool:
        """Tell whether some object of `length` bytes begins with a frame whose XXH3-128 is `head`."""
        query = "SELECT 1 FROM objects WHERE length = ? AND head = ? LIMIT 1"
        row = self._do(lambda connection: connection.execute(query, (length, bytes.fromhex(head))).fetchone())
        return row is not None

    def fact(self, kind: str, key: str, stamp: str) -> bytes | None:
        """A value put by `remember`, if it was put with the same `stamp`."""
        query = "SELECT value FROM facts WHERE kind = ? AND key = ? AND stamp = ?"
        row = self._do(lambda connection: connection.execute(query, (kind, key, stamp)).fetchone())
        return None if row is None else bytes(row[0])

    def facts(self, kind: str) -> dict[str, tuple[str, bytes]]:
        """Every value of a kind: key to stamp and value."""
        query = "SELECT key, stamp, value FROM facts WHERE kind = ?"
        rows = self._do(lambda connection: connection.execute(query, (kind,)).fetchall())
        return {key: (stamp, bytes(value)) for key, stamp, value in rows}

    def remember(self, kind: str, values: Iterable[tuple[str, str, bytes]]) -> None:
        """Keep derived values: key, the stamp of what they were derived from, value."""
        rows = [(kind, key, stamp, value) for key, stamp, value in values]
        self.change(lambda connection: connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows))


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM shards LIMIT 1").fetchone()  # The moment is that of the first read.


def _forget_usage(connection: sqlite3.Connection) -> None:
    """What was counted of objects that are gone, or are smaller now, is counted afresh (store/usage.py)."""
    connection.execute("DELETE FROM uses")
    connection.execute("DELETE FROM documents")


def _parts(wanted: list[bytes]) -> list[list[bytes]]:
    return [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]


def _marks(part: list[bytes]) -> str:
    return ",".join("?" * len(part))


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


def _edges(items: Iterable[ShardObject], shard: int | None) -> list[tuple[bytes, int | None, bytes]]:
    return [
        (bytes.fromhex(item.digest), shard, bytes.fromhex(dependency))
        for item in items
        for dependency in item.stored.dependencies
    ]


def _open(path: str | None) -> sqlite3.Connection:
    """Open the catalog file; one that is unusable or of another version is thrown away and begun afresh."""
    if path is not None:
        for _ in range(2):
            try:
                return _prepare(sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False))
            except sqlite3.OperationalError:
                break
            except (sqlite3.DatabaseError, UnicodeDecodeError):  # The words of an error may quote rotten bytes.
                _remove(path)
    return _prepare(sqlite3.connect(":memory:", check_same_thread=False))


def _remove(path: str) -> None:
    # Outside the durable seam on purpose: this is a cache on local disk, no part of a store.
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
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
