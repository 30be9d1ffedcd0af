"""A store at a glance: what its checkpoints take as files, once deduplicated, and as they are encoded."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from ckptfmt.api.results import Stored
from ckptfmt.api.shared import standing_refs, usage_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.refs import BASES
from ckptfmt.store.store import Store

_BEGIN: Final = '{"encoding":"'
_SUMS: Final = """
SELECT encoding, count(*), sum(length), sum(stored_bytes) FROM (
    SELECT objects.length AS length, min(objects.stored_bytes) AS stored_bytes,
        substr(objects.stored, :begin, instr(substr(objects.stored, :begin), '"') - 1) AS encoding
    FROM uses JOIN objects ON objects.digest = uses.object GROUP BY uses.object
) GROUP BY encoding
"""


class Overview(msgspec.Struct, frozen=True):
    """The whole of a store.

    Attributes:
        checkpoints, bases: refs that stand and can be read.
        logical_bytes: what all files of all checkpoints take.
        distinct_bytes: the same with every object counted once, those of kept bases and what others are stored
            against too; what lies in the files of a referenced base is left out.
        stored_bytes: what these objects take in the store.
        by_encoding: the same by the encoding of the smallest copy.
    """

    checkpoints: int
    bases: int
    logical_bytes: int
    distinct_bytes: int
    stored_bytes: int
    by_encoding: dict[str, Stored]


def overview(store: Store) -> Overview:
    """The whole of a store, from the catalog; what cannot be read is left out.

    Raises:
        CkptfmtError: the store cannot be read.
    """
    standing = standing_refs(store, _pass_over)
    usage = usage_of(store, standing, _pass_over)
    readable = [item for item in standing if item.target in usage]
    checkpoints = [item for item in readable if not item.name.startswith(BASES)]

    def work(connection: sqlite3.Connection) -> list[tuple[str, int, int, int]]:
        return connection.execute(_SUMS, {"begin": len(_BEGIN) + 1}).fetchall()

    by_encoding = {name: Stored(count, length, stored) for name, count, length, stored in store.catalog().look(work)}
    return Overview(
        checkpoints=len(checkpoints),
        bases=len(readable) - len(checkpoints),
        logical_bytes=sum(usage[item.target].summary.logical_bytes for item in checkpoints if item.target),
        distinct_bytes=sum(each.logical_bytes for each in by_encoding.values()),
        stored_bytes=sum(each.stored_bytes for each in by_encoding.values()),
        by_encoding=by_encoding,
    )


def _pass_over(name: str, error: CkptfmtError) -> None:
    """Whoever lists the refs is told of it."""
