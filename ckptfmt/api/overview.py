"""A store at a glance: what its checkpoints take as files, once deduplicated, and as they are encoded."""

from __future__ import annotations

import msgspec

from ckptfmt.api.results import Stored
from ckptfmt.api.shared import standing_refs, usage_of
from ckptfmt.format.refs import BASES
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store
from ckptfmt.store.usage import used_by_encoding


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
    standing = standing_refs(store, pass_over)
    usage = usage_of(store, standing, pass_over)
    readable = [item for item in standing if item.target in usage]
    checkpoints = [item for item in readable if not item.name.startswith(BASES)]
    by_encoding = {name: Stored(*sums) for name, sums in used_by_encoding(store.catalog()).items()}
    return Overview(
        checkpoints=len(checkpoints),
        bases=len(readable) - len(checkpoints),
        logical_bytes=sum(usage[item.target].summary.logical_bytes for item in checkpoints if item.target),
        distinct_bytes=sum(each.logical_bytes for each in by_encoding.values()),
        stored_bytes=sum(each.stored_bytes for each in by_encoding.values()),
        by_encoding=by_encoding,
    )
