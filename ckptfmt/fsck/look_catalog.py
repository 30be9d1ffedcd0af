"""This host's index against what shards say themselves. It is never believed, but a wrong one costs time."""

from __future__ import annotations

from ckptfmt.fsck.look_shards import Shards
from ckptfmt.fsck.problem import REPAIR, Problem
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.shards import shard_key


def look_at_catalog(shards: Shards, known: Catalog) -> list[Problem]:
    """Compare what this host's index says of sound shards with what their headers say."""
    truth, said = shards.truth.outlines(), known.outlines()
    wrong = sorted(shard for shard in truth.keys() - shards.bad.keys() if said.get(shard, truth[shard]) != truth[shard])
    if not wrong:
        return []
    what = f"this host's index says other things of {len(wrong)} shards than their headers do; it is not believed"
    return [Problem("catalog", shard_key(wrong[0]), what, (), REPAIR)]
