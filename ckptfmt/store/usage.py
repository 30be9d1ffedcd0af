"""What each document of a store takes, and what only it needs, kept up to date in the catalog.

For every object the catalog counts the documents that use it and adds up their row ids; where the count is one, the
sum *is* the owner. So a document that comes or goes touches the rows of its own objects only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import BaseRecord, Binding, Json, Manifest, logical_bytes, objects_of
from ckptfmt.store.catalog import Catalog

_STAMP: Final = "usage-stamp"
_CHUNK: Final = 500
_BEGIN: Final = '{"encoding":"'
_SUMS: Final = """
SELECT encoding, count(*), sum(length), sum(stored_bytes) FROM (
    SELECT objects.length AS length, min(objects.stored_bytes) AS stored_bytes,
        substr(objects.stored, :begin, instr(substr(objects.stored, :begin), '"') - 1) AS encoding
    FROM uses JOIN objects ON objects.digest = uses.object GROUP BY uses.object
) GROUP BY encoding
"""
_PART_USES: Final = 200_000
"""So many uses are summed in memory at a time: 10,000 checkpoints that share most tensors touch few rows."""


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a list shows of a manifest (or, with `layout` 'base', of a base record)."""

    layout: str
    logical_bytes: int
    files: int
    tensors: int
    stage: int | None = None
    step: int | None = None
    parent: str | None = None
    base: str | None = None
    record: str | None = None
    binding: Binding = "none"
    metrics: dict[str, Json] = {}


@dataclass(frozen=True, slots=True)
class Used:
    """A document's summary and sizes: bytes stored, bytes that only it needs, and objects that no shard holds."""

    summary: Summary
    stored_bytes: int
    exclusive_bytes: int
    missing: int


def summary_of(document: Manifest | BaseRecord) -> Summary:
    """The summary of a document."""
    if isinstance(document, BaseRecord):
        return Summary("base", logical_bytes(document), len(document.files), len(document.tensors))
    base, lineage = document.base, document.lineage
    return Summary(
        layout=document.layout,
        logical_bytes=logical_bytes(document),
        files=len(document.files),
        tensors=len(document.tensors),
        stage=lineage.stage if lineage else None,
        step=document.step,
        parent=lineage.parent if lineage else None,
        base=base.name if base else None,
        record=base.record if base else None,
        binding=base.binding if base else "none",
        metrics=document.metrics,
    )


def follow(
    catalog: Catalog,
    live: Iterable[str],
    load: Callable[[str], Manifest | BaseRecord],
    damaged: Callable[[str, CkptfmtError], None] | None = None,
) -> dict[str, Used]:
    """Bring the usage up to date with the documents that are live, and give it.

    Args:
        catalog: in step with the store's shards.
        live: digests of the documents that refs name.
        load: reads one of them.
        damaged: told of those that cannot be read, which are left out; None: the first of them ends it.
    """
    wanted = set(live)
    stamp = digest_of("\n".join(sorted(catalog.shards())).encode())

    def work(connection: sqlite3.Connection) -> list[tuple[str, bytes, int, int, int]]:
        rows = connection.execute("SELECT digest, id, missing FROM documents").fetchall()
        old = {digest: row for digest, row, missing in rows if digest not in wanted}
        if not _stamped(connection, stamp):
            old |= {digest: row for digest, row, missing in rows if missing}
        if old and not _remove(connection, old, load):
            rows = []
        added = sorted(wanted - ({digest for digest, _, _ in rows} - old.keys()))
        if added:
            _add(connection, added, load, damaged)
        return connection.execute("SELECT digest, summary, stored, exclusive, missing FROM documents").fetchall()

    return {
        digest: Used(msgspec.json.decode(summary, type=Summary), stored, exclusive, missing)
        for digest, summary, stored, exclusive, missing in catalog.change(work)
    }


def used_by_encoding(catalog: Catalog) -> dict[str, tuple[int, int, int]]:
    """Of all objects that documents used when `follow` was asked last: how many, decoded bytes, stored bytes.

    Each counts once, by the encoding of its smallest copy; what lies in no shard is left out.
    """
    rows = catalog.look(lambda connection: connection.execute(_SUMS, {"begin": len(_BEGIN) + 1}).fetchall())
    return {encoding: (count, length, stored) for encoding, count, length, stored in rows}


def _stamped(connection: sqlite3.Connection, stamp: str) -> bool:
    """Tell whether the shards are those of the last time; objects that were missing then may be there now."""
    row = connection.execute("SELECT stamp FROM facts WHERE kind = ? AND key = ''", (_STAMP,)).fetchone()
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, '', ?, x'')", (_STAMP, stamp))
    return row is not None and row[0] == stamp


def _needed(connection: sqlite3.Connection, document: Manifest | BaseRecord) -> list[bytes]:
    """Every object that a document needs, and those that these are stored against, by any copy."""
    needed = dict.fromkeys(map(bytes.fromhex, objects_of(document)))
    fresh = list(needed)
    while fresh:
        against: dict[bytes, None] = {}
        for start in range(0, len(fresh), _CHUNK):
            chunk = fresh[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT DISTINCT dependency FROM edges WHERE object IN ({marks})"  # noqa: S608
            against.update((row[0], None) for row in connection.execute(query, chunk))
        fresh = [each for each in against if each not in needed]
        needed.update(dict.fromkeys(fresh))
    return list(needed)


def _moving(connection: sqlite3.Connection, objects: Iterable[tuple[bytes, int]]) -> None:
    connection.execute("DROP TABLE IF EXISTS temp.moving")
    connection.execute("CREATE TEMP TABLE moving (object BLOB NOT NULL, document INTEGER NOT NULL)")
    connection.executemany("INSERT INTO moving VALUES (?, ?)", objects)


def _add(
    connection: sqlite3.Connection,
    digests: list[str],
    load: Callable[[str], Manifest | BaseRecord],
    damaged: Callable[[str, CkptfmtError], None] | None,
) -> None:
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM documents").fetchone()[0]
    touched = set(range(first, first + len(digests)))
    part: dict[int, list[bytes]] = {}
    uses = 0
    for row, digest in enumerate(digests, first):
        try:
            document = load(digest)
        except CkptfmtError as error:
            if damaged is None:
                raise
            damaged(digest, error)
            continue
        connection.execute(
            "INSERT INTO documents (id, digest, summary) VALUES (?, ?, ?)",
            (row, digest, msgspec.json.encode(summary_of(document))),
        )
        part[row] = _needed(connection, document)
        uses += len(part[row])
        if uses >= _PART_USES:
            touched |= _add_uses(connection, part)
            part, uses = {}, 0
    touched |= _add_uses(connection, part)
    _exclusive(connection, touched)


def _add_uses(connection: sqlite3.Connection, part: dict[int, list[bytes]]) -> set[int]:
    """Count what the documents of one part use, summed here before it goes into the table.

    Returns:
        Row ids of the documents that alone used some of these objects until now.
    """
    counts: dict[bytes, int] = {}
    owners: dict[bytes, int] = {}
    for row, objects in part.items():
        for item in objects:
            counts[item] = counts.get(item, 0) + 1
            owners[item] = owners.get(item, 0) + row
    wanted = sorted(counts)
    sizes: dict[bytes, int] = {}
    alone: set[int] = set()
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        marks = ",".join("?" * len(chunk))
        sizes.update(
            connection.execute(
                f"SELECT digest, min(stored_bytes) FROM objects WHERE digest IN ({marks}) GROUP BY digest",  # noqa: S608
                chunk,
            )
        )
        alone.update(
            row
            for (row,) in connection.execute(
                f"SELECT owners FROM uses WHERE count = 1 AND object IN ({marks})",  # noqa: S608
                chunk,
            )
        )
    connection.executemany(
        "INSERT INTO uses VALUES (?, ?, ?, ?) "
        "ON CONFLICT (object) DO UPDATE SET count = count + excluded.count, owners = owners + excluded.owners",
        ((item, counts[item], owners[item], sizes.get(item)) for item in wanted),
    )
    connection.executemany(
        "UPDATE documents SET stored = ?, missing = ? WHERE id = ?",
        (
            (sum(sizes.get(item, 0) for item in objects), sum(item not in sizes for item in objects), row)
            for row, objects in part.items()
        ),
    )
    return alone


def _remove(connection: sqlite3.Connection, old: dict[str, int], load: Callable[[str], Manifest | BaseRecord]) -> bool:
    """Forget documents; False where one of them cannot be read any more, and so all were forgotten."""
    try:
        objects = [(item, row) for digest, row in old.items() for item in _needed(connection, load(digest))]
    except CkptfmtError:
        connection.execute("DELETE FROM uses")
        connection.execute("DELETE FROM documents")
        return False
    _moving(connection, objects)
    connection.execute(
        "WITH sums AS (SELECT object, count(*) AS count, sum(document) AS owners FROM moving GROUP BY object) "
        "UPDATE uses SET count = uses.count - sums.count, owners = uses.owners - sums.owners "
        "FROM sums WHERE sums.object = uses.object"
    )
    connection.execute("DELETE FROM uses WHERE object IN (SELECT object FROM moving) AND count = 0")
    alone = connection.execute(
        "SELECT DISTINCT owners FROM moving JOIN uses ON uses.object = moving.object WHERE count = 1"
    ).fetchall()
    connection.executemany("DELETE FROM documents WHERE id = ?", ((row,) for row in old.values()))
    _exclusive(connection, {row[0] for row in alone})
    return True


def _exclusive(connection: sqlite3.Connection, rows: Iterable[int]) -> None:
    connection.executemany(
        "UPDATE documents SET exclusive = "
        "(SELECT coalesce(sum(stored), 0) FROM uses WHERE count = 1 AND owners = documents.id) WHERE id = ?",
        ((row,) for row in rows),
    )
