"""The bases of a store as the rules of a scan take them."""

from __future__ import annotations

import os

from ckptfmt.format.manifest import tensor_digest
from ckptfmt.reclaim.claims import KnownBase
from ckptfmt.store.bases import Base, all_bases, places_of
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store


def known_bases(store: Store) -> tuple[KnownBase, ...]:
    """Every base that can be read; a damaged one is no evidence."""
    return tuple(_known(store, base) for base in all_bases(store, pass_over))


def _known(store: Store, base: Base) -> KnownBase:
    places = tuple(dict.fromkeys(os.path.realpath(place) for place in places_of(store, base.digest)))
    return KnownBase(
        name=base.name,
        record=base.digest,
        tensors={
            (tensor.name, tensor.dtype, tensor.shape): tensor_digest(base.record, tensor)
            for tensor in base.record.tensors
            if tensor.role == "model"
        },
        places=places,
        files=frozenset(os.path.realpath(f"{place}/{file.path}") for place in places for file in base.record.files),
    )
