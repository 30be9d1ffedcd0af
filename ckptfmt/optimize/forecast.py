"""What finding lost adapters again would save, told from a few rows, without looking for any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import Manifest
from ckptfmt.format.shard import Stored
from ckptfmt.optimize.probe import probe
from ckptfmt.store.basis import BasisOf
from ckptfmt.store.outside import all_outside
from ckptfmt.store.store import Store
from ckptfmt.transfer.matching import Filling
from ckptfmt.transfer.references import DELTA, standing

_PROBED: Final = 3
_ROWS: Final = 512
_LEAST_ELEMENTS: Final = 1 << 16
_FACTOR_BYTES: Final = 2.0
_RESIDUAL_BITS: Final = 0.05
_WORTH_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `optimize` would probably save: bytes, by how many tensors, of which rank the updates seem to be."""

    saved_bytes: int
    tensors: int
    rank: int


def forecast(store: Store, manifest: Manifest) -> Forecast | None:
    """Probe some tensors of a checkpoint that are stored as differences; None where little would be saved.

    The first one that says no ends it: an import should not take longer for what it does not have.
    """
    objects = store.objects(all_outside(store, manifest.base))
    subject = standing(manifest, objects)
    matrices = {subject.taken[place]: filling for place, filling in subject.tensors.items() if filling.is_matrix}
    copies = store.catalog().find_many(matrices)
    coded = {
        digest: found[0].stored
        for digest, found in copies.items()
        if found[0].stored.encoding == DELTA and matrices[digest].length >= 2 * _LEAST_ELEMENTS
    }
    ranks = []
    for digest in _typical(coded, matrices):
        stored, filling = coded[digest], matrices[digest]
        row_bytes = filling.length // filling.shape[0]
        rows = min(filling.shape[0], _ROWS, max(1, FRAME_BYTES // row_bytes))
        word = "<u4" if filling.dtype == "F32" else "<u2"
        what = BasisOf(stored.encoding, stored.reference, stored.dependencies, stored.length)
        try:
            merged = bytes(next(objects.frames(digest, filling.length)))[: rows * row_bytes]
            base = bytes(objects.basis(what)(0, len(merged)).words)
        except CkptfmtError:
            continue
        shape = (rows, filling.shape[1])
        seen = probe(
            np.frombuffer(base, word).reshape(shape), np.frombuffer(merged, word).reshape(shape), filling.dtype
        )
        if not seen.low_rank:
            return None
        ranks.append(seen.rank)
    if not ranks:
        return None
    rank = max(ranks)
    saved = 0
    for digest, stored in coded.items():
        rows, columns = matrices[digest].shape
        needed = rank * (rows + columns) * _FACTOR_BYTES + rows * columns * _RESIDUAL_BITS / 8
        saved += max(0, stored.stored_bytes() - int(needed))
    return Forecast(saved, len(coded), rank) if saved >= _WORTH_BYTES else None


def _typical(coded: Mapping[str, Stored], matrices: Mapping[str, Filling]) -> list[str]:
    """One tensor of each of the shapes that take most together: an embedding alone is not what adapters are put on."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for digest in sorted(coded):
        by_shape.setdefault(matrices[digest].shape, []).append(digest)
    sizes = {shape: sum(coded[digest].stored_bytes() for digest in digests) for shape, digests in by_shape.items()}
    most = sorted(by_shape, key=lambda shape: (len(by_shape[shape]) == 1, -sizes[shape], shape))[:_PROBED]
    return [by_shape[shape][len(by_shape[shape]) // 2] for shape in most]
