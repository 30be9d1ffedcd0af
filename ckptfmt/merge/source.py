"""Tensors as a stream of bytes, each proven by its digest as it passes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import blake3
import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.errors import BaseMismatch, DigestMismatch, IncompleteStore
from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.format.manifest import BaseRecord, Extent, Manifest, Tensor, tensor_digest
from ckptfmt.merge.buffers import Block, Buffers
from ckptfmt.merge.protocol import Spec
from ckptfmt.storage import durable
from ckptfmt.store.bases import BaseFiles
from ckptfmt.store.objects import Objects, cut_out


@dataclass(frozen=True, slots=True)
class Outside:
    """The files of a base that is referenced, and the digests of those of its objects that no shard holds."""

    files: BaseFiles
    digests: frozenset[str]


class TensorSource:
    """Tensors of a base record or of a manifest: those of its model, or of one adapter.

    Args:
        name: what to call their owner in errors.
        document: says which tensors there are and what their digests are.
        objects: gives their bytes.
        adapter: name of the adapter whose tensors are meant; None for the model's.
        outside: what is read from files of the base itself, into the reader's own memory.
    """

    def __init__(
        self,
        name: str,
        document: BaseRecord | Manifest,
        objects: Objects,
        *,
        adapter: str | None = None,
        outside: Outside | None = None,
    ) -> None:
        self.name = name
        self.document = document
        self._objects = objects
        self._wanted = ("model", None) if adapter is None else ("adapter", adapter)
        self._outside = outside

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        role, part = self._wanted
        return {
            tensor.name: tensor
            for tensor in self.document.tensors
            if tensor.role == role and (part is None or tensor.part == part)
        }

    def specs(self) -> dict[str, Spec]:
        """Dtype and shape of every tensor, in the order in which they lie in the files."""
        placed = sorted(self._tensors.values(), key=lambda item: (item.file, item.extent, item.offset, item.name))
        return {tensor.name: Spec(tensor.dtype, tensor.shape) for tensor in placed}

    def digest(self, name: str) -> str:
        """Digest of a tensor's bytes in C order."""
        return tensor_digest(self.document, self._tensors[name])

    def frames(self, name: str, pool: Executor | None = None) -> Iterator[Buffer]:
        """A tensor's bytes in C order, in parts. What was yielded is proven once the iterator ends.

        Raises:
            BaseMismatch: they are not what was recorded, or they are not there; the message names the tensor.
        """
        tensor = self._tensors[name]
        content = blake3.blake3()
        try:
            for part in tensor_frames(self.document, tensor, self._objects, pool):
                content.update(part)
                yield part
        except (DigestMismatch, IncompleteStore) as error:
            raise self._mismatch(name, error.message) from error
        if content.hexdigest() != self.digest(name):
            raise self._mismatch(name, "its content differs from what was recorded")

    def blocks(self, name: str, rows: int | None, buffers: Buffers, pool: Executor | None = None) -> Iterator[Block]:
        """A tensor in blocks of whole rows, or of bytes without regard to rows. All is proven once the iterator ends.

        Args:
            name: the tensor.
            rows: of a block, see `row_cuts`; None for blocks of `buffers.usual_bytes`.
            buffers: gives the memory; whoever is done with a block gives it back.
            pool: decodes ahead what lies in shards.

        Raises:
            BaseMismatch: as `frames`.
        """
        tensor = self._tensors[name]
        size = size_bytes(tensor.dtype, tensor.shape) or 0
        if rows is None:
            count, width, rows = size, 1, buffers.usual_bytes
        else:
            count = tensor.shape[0] if tensor.shape else 1
            width = size // count if count else 0
        extent = self.document.files[tensor.file].extents[tensor.extent]
        whole = tensor.strides is None and not tensor.offset and size == extent.length
        if self._outside is not None and whole and extent.digest in self._outside.digests:
            path = f"{self._outside.files.directory}/{self.document.files[tensor.file].path}"
            blocks = (buffers.take(begin, (end - begin) * width) for begin, end in row_cuts(count, rows))
            yield from self._outside_blocks(tensor, path, extent.offset, blocks)
        else:
            yield from row_blocks(self.frames(name, pool), row_cuts(count, rows), width, buffers)

    def _outside_blocks(self, tensor: Tensor, path: str, offset: int, blocks: Iterator[Block]) -> Iterator[Block]:
        """Fill blocks with a tensor that is a whole extent of a base's file, from byte `offset` of it."""
        content = blake3.blake3()
        for block in blocks:
            with durable.storage_errors(path):
                try:
                    filled = _read_into(path, offset, block.view)
                except FileNotFoundError as error:
                    raise self._mismatch(tensor.name, f"{path} is not there any more") from error
            if filled != len(block.view):
                raise self._mismatch(tensor.name, f"{path} is shorter than was recorded")
            offset += filled
            content.update(block.view)
            yield block
        if content.hexdigest() != self.digest(tensor.name):
            raise self._mismatch(tensor.name, "its content differs from what was recorded")

    def _mismatch(self, name: str, what: str) -> BaseMismatch:
        return BaseMismatch(
            f"{self.name}: tensor {name!r}: {what}", tensors=(name,), hint="ckptfmt base ls; ckptfmt verify --all"
        )


def tensor_frames(
    document: BaseRecord | Manifest, tensor: Tensor, objects: Objects, pool: Executor | None = None
) -> Iterator[Buffer]:
    """A tensor's bytes in C order, in parts, as `Objects.frames` gives them: a view is not compared with its digest.

    Raises:
        IncompleteStore, DigestMismatch: as `Objects.frames`.
    """
    extent = document.files[tensor.file].extents[tensor.extent]
    size = size_bytes(tensor.dtype, tensor.shape) or 0
    if tensor.strides is not None:
        yield _gathered(tensor, extent, objects)
    elif size == extent.length and not tensor.offset:
        yield from objects.frames(extent.digest, extent.length, pool)
    else:
        yield from cut_out(objects.frames(extent.digest, extent.length, pool), tensor.offset, tensor.offset + size)


def _gathered(tensor: Tensor, extent: Extent, objects: Objects) -> bytes:
    """A strided view in C order. Rare (a saved transpose), so the storage is held whole."""
    width = BITS[tensor.dtype] // 8
    data = np.frombuffer(b"".join(objects.frames(extent.digest, extent.length)), np.uint8)
    strides = (*(stride * width for stride in tensor.strides or ()), 1)
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], (*tensor.shape, width), strides, writeable=False)
    return np.ascontiguousarray(view).tobytes()


def _read_into(path: str, offset: int, data: memoryview) -> int:
    """Fill `data` from byte `offset` of a file; the number of bytes that were there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        filled = 0
        while filled < len(data):
            read = os.preadv(descriptor, [data[filled:]], offset + filled)
            if not read:
                break
            filled += read
        return filled
    finally:
        os.close(descriptor)


def row_cuts(count: int, rows: int) -> list[tuple[int, int]]:
    """Begin and end of blocks of `rows` rows each; a shorter rest is joined to the last."""
    begins = range(0, max(count - rows, 0) + 1, rows) if count else range(0)
    return [(begin, begin + rows if begin + 2 * rows <= count else count) for begin in begins]


def row_blocks(
    frames: Iterator[Buffer], cuts: Sequence[tuple[int, int]], row_bytes: int, buffers: Buffers
) -> Iterator[Block]:
    """Join frames to blocks of whole rows, each in memory of its own."""
    iterator = iter(frames)
    rest = memoryview(b"")
    for begin, end in cuts:
        block = buffers.take(begin, (end - begin) * row_bytes)
        filled = 0
        while filled < len(block.view):
            if not rest:
                rest = memoryview(next(iterator)).cast("B")
            taken = min(len(rest), len(block.view) - filled)
            np.copyto(block.data[filled : filled + taken], np.frombuffer(rest[:taken], np.uint8))
            rest = rest[taken:]
            filled += taken
        yield block
    for _ in iterator:  # Nothing is left: this asks for the proof that comes with the end.
        pass
