"""One tensor: figures of its elements, and where its bytes live."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from ckptfmt.api.contents import tensor_bytes
from ckptfmt.api.results_tensor import Against, Copy, Figures, Holder, Outside, TensorLook
from ckptfmt.api.shared import standing_refs
from ckptfmt.digest import Buffer
from ckptfmt.errors import CkptfmtError, NotFound
from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import BaseRecord, Manifest, Tensor
from ckptfmt.format.refs import BASES
from ckptfmt.progress import SILENT, Progress
from ckptfmt.store.catalog import Location
from ckptfmt.store.objects import cut_out
from ckptfmt.store.outside import Bases, all_outside
from ckptfmt.store.refs import pass_over
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import Store, manifest_key, record_key

_MOST_HOLDERS: Final = 200
_MOST_AGAINST: Final = 16
_GATHER_BYTES: Final = 1 << 28
"""Elements that overlap in memory are gathered at once, up to so many bytes."""


def look_at(store: Store, name: str, index: int, *, progress: Progress = SILENT) -> TensorLook:
    """Read one tensor whole, frame by frame, and find out where its bytes live.

    Args:
        store: where.
        name: the checkpoint.
        index: of the tensor in its manifest.
        progress: told of decoded bytes, then of documents that are searched; may raise to stop.

    Raises:
        NotFound: there is no such checkpoint or tensor.
        IncompleteStore, DigestMismatch, BaseMismatch: its bytes cannot be had.
    """
    digest, _ = store.resolve(name)
    manifest = store.manifest(digest)
    if not 0 <= index < len(manifest.tensors):
        raise NotFound(f"{name} has no tensor {index}, of {len(manifest.tensors)}", hint=f"ckptfmt show {name}")
    tensor = manifest.tensors[index]
    file = manifest.files[tensor.file]
    extent = file.extents[tensor.extent]
    outside = all_outside(store, manifest.base)
    from ckptfmt.api.figures import why_not  # noqa: PLC0415 - numpy: only where elements are read

    unread = why_not(tensor.dtype, dense=tensor.strides is None or _is_dense(tensor.shape, tensor.strides))
    figures = None
    if unread is None:
        progress.begin(f"read {tensor.name}", extent.length)
        figures = _figures(store, outside, manifest, tensor, progress)
        progress.end()
    copies = store.catalog().find(extent.digest)
    wanted = {extent.digest, *(each for copy in copies for each in copy.stored.dependencies[:_MOST_AGAINST])}
    holders = _holders(store, wanted, progress)
    own = Holder(name.partition("@")[0], tensor.name)
    others = [holder for holder in holders.get(extent.digest, []) if holder != own]
    return TensorLook(
        ref=name,
        name=tensor.name,
        role=tensor.role,
        part=tensor.part,
        dtype=tensor.dtype,
        shape=tensor.shape,
        size_bytes=tensor_bytes(tensor),
        file=file.path,
        key=tensor.key or tensor.name,
        object=extent.digest,
        object_bytes=extent.length,
        offset=tensor.offset,
        figures=figures,
        unread=unread,
        copies=tuple(_copy(copy, holders) for copy in copies),
        outside=_outside(outside, extent.digest),
        holders=tuple(others[:_MOST_HOLDERS]),
        holding=len(others),
    )


def _figures(store: Store, outside: Bases, manifest: Manifest, tensor: Tensor, progress: Progress) -> Figures:
    from ckptfmt.api.figures import Gathering  # noqa: PLC0415 - as above

    gathering = Gathering(tensor.dtype)
    extent = manifest.files[tensor.file].extents[tensor.extent]
    frames = _told(store.objects(outside).frames(extent.digest, extent.length), progress)
    if not all(tensor.shape):
        for _ in frames:
            pass
        return gathering.figures()
    if tensor.strides is None or _is_dense(tensor.shape, tensor.strides):
        begin, end = tensor.offset, tensor.offset + tensor_bytes(tensor)
        for data in cut_out(frames, begin, end):
            gathering.add(data)
        return gathering.figures()
    from ckptfmt.api.strided import strided_elements  # noqa: PLC0415 - as above

    width = BITS[tensor.dtype] // 8
    span = (1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))) * width
    pieces = cut_out(frames, tensor.offset, tensor.offset + span)
    for elements in strided_elements(pieces, tensor.shape, tensor.strides, width, most=_GATHER_BYTES):
        gathering.take(elements)
    return gathering.figures()


def _told(frames: Iterator[Buffer], progress: Progress) -> Iterator[Buffer]:
    for data in frames:
        yield data
        progress.advance(len(data))


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements fill one run without a gap, in whatever order."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return expected == math.prod(shape)


def _copy(copy: Location, holders: dict[str, list[Holder]]) -> Copy:
    stored = copy.stored
    against = [Against(each, next(iter(holders.get(each, ())), None)) for each in stored.dependencies[:_MOST_AGAINST]]
    return Copy(
        shard=shard_key(copy.shard),
        begin=copy.begin,
        stored_bytes=stored.stored_bytes(),
        encoding=stored.encoding,
        element=stored.element,
        reference=stored.reference,
        against=tuple(against),
        dependencies=len(stored.dependencies),
    )


def _outside(outside: Bases, digest: str) -> Outside | None:
    holder = outside.holder(digest)
    if holder is None:
        return None
    path, offset = holder.place(digest)
    there = holder.is_there
    return Outside(holder.base, f"{holder.directory}/{path}" if there else path, offset, there)


def _holders(store: Store, digests: set[str], progress: Progress) -> dict[str, list[Holder]]:
    """Whose tensors and files some objects are. Documents are searched as bytes, and read where one stands in them."""
    standing = standing_refs(store, pass_over)
    names: dict[tuple[str, bool], list[str]] = {}
    for item in standing:
        names.setdefault((item.target or "", item.name.startswith(BASES)), []).append(item.name)
    wanted = {digest.encode() for digest in digests}
    found: dict[str, list[Holder]] = {}
    progress.begin("look for it in the other checkpoints", None)
    # Bases first: what a copy is stored against is called by the name people know best.
    for (target, is_base), refs in sorted(names.items(), key=lambda each: (not each[0][1], each[1])):
        key = record_key(target) if is_base else manifest_key(target)
        try:
            data = store.document_bytes(key)
            progress.advance(len(data))
            if not any(digest in data for digest in wanted):
                continue
            document = store.record(target) if is_base else store.manifest(target)
        except CkptfmtError:
            continue
        for digest, tensor in _places(document, digests):
            found.setdefault(digest, []).extend(Holder(ref, tensor) for ref in refs)
    progress.end()
    return found


def _places(document: Manifest | BaseRecord, digests: set[str]) -> Iterator[tuple[str, str | None]]:
    for tensor in document.tensors:
        digest = document.files[tensor.file].extents[tensor.extent].digest
        if digest in digests:
            yield digest, tensor.name
    for file in document.files:
        for whole in (file.content, file.skeleton):
            if whole in digests and whole is not None:
                yield whole, None
