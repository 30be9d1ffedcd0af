"""The model root: one digest for a model's content, whatever its sharding, file format or tensor order.

It is the BLAKE3-256 of one canonical JSON line a tensor, `[name,dtype,shape,digest]` and a newline, sorted by
name as UTF-8 bytes; tied aliases appear once, under the first of their names in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from ckptfmt.digest import digest_of


@dataclass(frozen=True, slots=True)
class RootLeaf:
    """One model tensor: `digest` of its bytes in logical C order; `tie` is equal for tensors that share storage."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    tie: object = None


def model_root(leaves: Iterable[RootLeaf]) -> str:
    """The root of a model, 64 hex digits."""
    lines = [msgspec.json.encode([leaf.name, leaf.dtype, leaf.shape, leaf.digest]) for leaf in root_leaves(leaves)]
    return digest_of(b"".join(line + b"\n" for line in lines))


def root_leaves(leaves: Iterable[RootLeaf]) -> list[RootLeaf]:
    """The tensors that count: sorted by name, each tie under its first name."""
    seen: set[object] = set()
    counted = []
    for leaf in sorted(leaves, key=lambda leaf: leaf.name.encode()):
        if leaf.tie is not None:
            if leaf.tie in seen:
                continue
            seen.add(leaf.tie)
        counted.append(leaf)
    return counted
