"""A checkpoint in two looks: what it holds, at once; then how that is stored. Both scale to 100,000 tensors."""

from __future__ import annotations

import math

import msgspec

from ckptfmt.api.results import NeedsBase, Stored
from ckptfmt.api.shared import needs_base, no_collector, standing_refs, sum_encodings, usage_of
from ckptfmt.errors import FormatError
from ckptfmt.format.check import check_document
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import Manifest, Tensor, objects_of
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store, manifest_key


class Contents(msgspec.Struct, frozen=True):
    """What a checkpoint holds. Of its tensors only the places were checked; `kept` checks the rest."""

    ref: str | None
    generation: int | None
    labels: tuple[str, ...]
    pinned: bool
    created: str | None
    id: str
    manifest: Manifest


class Kept(msgspec.Struct, frozen=True):
    """How a checkpoint is stored.

    Attributes:
        tensors: of each tensor, in the manifest's order, the encoding of its object (None where that lies in a
            referenced base) and the bytes that it takes.
        encodings: sums by encoding; what lies in a referenced base counts as `base`.
        logical_bytes: what its files take.
        stored_bytes: what its objects take, and those that they are stored against.
        exclusive_bytes: what only it needs; None where no ref stands for it.
        needs_base: the base without whose files it cannot be restored.
    """

    tensors: tuple[tuple[str | None, int], ...]
    encodings: dict[str, Stored]
    logical_bytes: int
    stored_bytes: int
    exclusive_bytes: int | None
    needs_base: NeedsBase | None


def contents(store: Store, name: str) -> Contents:
    """What a checkpoint holds, as quickly as it can be read.

    Raises:
        NotFound, InvalidInput: there is no such checkpoint.
        IntegrityError, FormatError: its manifest is damaged, or not one.
    """
    digest, generation = store.resolve(name)
    with no_collector():
        manifest = store.manifest_uncached(digest)
    counts = [len(file.extents) for file in manifest.files]
    files = len(counts)
    for index, tensor in enumerate(manifest.tensors):
        if not (0 <= tensor.file < files and 0 <= tensor.extent < counts[tensor.file]):
            raise FormatError(
                f"{manifest_key(digest)}: tensors[{index}]: no such file or extent", code="malformed-document"
            )
    return Contents(
        ref=generation.name if generation else None,
        generation=generation.number if generation else None,
        labels=generation.labels if generation else (),
        pinned=generation.pinned if generation else False,
        created=generation.time if generation else None,
        id=digest,
        manifest=manifest,
    )


def kept(store: Store, held: Contents) -> Kept:
    """How a checkpoint is stored.

    Raises:
        FormatError: its manifest says what cannot be.
        CkptfmtError: the store cannot be read.
    """
    manifest = held.manifest
    check_document(manifest, where=manifest_key(held.id))
    objects = objects_of(manifest)
    found = store.catalog().encodings(objects)
    rows = [
        (found[digest][0], length, found[digest][1]) if digest in found else ("base", length, 0)
        for digest, length in objects.items()
    ]
    standing = standing_refs(store, pass_over)
    usage = usage_of(store, standing, pass_over).get(held.id)
    named = [item for item in standing if item.target == held.id]
    return Kept(
        tensors=tuple(
            found.get(manifest.files[tensor.file].extents[tensor.extent].digest, (None, 0))
            for tensor in manifest.tensors
        ),
        encodings=sum_encodings(rows),
        logical_bytes=sum(file.size for file in manifest.files),
        stored_bytes=usage.stored_bytes if usage else sum(size for _, _, size in rows),
        exclusive_bytes=None if usage is None else usage.exclusive_bytes if len(named) == 1 else 0,
        needs_base=needs_base(store, manifest) if usage is None or usage.missing else None,
    )


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor's elements take, dense; rounded up where its bits fill no whole byte."""
    return -(-BITS.get(tensor.dtype, 0) * math.prod(tensor.shape) // 8)
