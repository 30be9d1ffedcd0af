"""Tensors as a stream of bytes, each proven by its digest as it passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from functools import cached_property

import blake3
import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.errors import BaseMismatch, DigestMismatch, IncompleteStore
from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.format.manifest import BaseRecord, Extent, Manifest, Tensor, tensor_digest
from ckptfmt.merge.protocol import Spec
from ckptfmt.store.objects import Objects


class TensorSource:
    """Tensors of a base record or of a manifest: those of its model, or of one adapter.

    Args:
        name: what to call their owner in errors.
        document: says which tensors there are and what their digests are.
        objects: gives their bytes.
        adapter: name of the adapter whose tensors are meant; None for the model's.
    """

    def __init__(
        self, name: str, document: BaseRecord | Manifest, objects: Objects, *, adapter: str | None = None
    ) -> None:
        self.name = name
        self.document = document
        self._objects = objects
        self._wanted = ("model", None) if adapter is None else ("adapter", adapter)

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
            for part in self._parts(tensor, pool):
                content.update(part)
                yield part
        except (DigestMismatch, IncompleteStore) as error:
            raise self._mismatch(name, error.message) from error
        if content.hexdigest() != self.digest(name):
            raise self._mismatch(name, "its content differs from what was recorded")

    def _mismatch(self, name: str, what: str) -> BaseMismatch:
        return BaseMismatch(
            f"{self.name}: tensor {name!r}: {what}", tensors=(name,), hint="ckptfmt base ls; ckptfmt verify --all"
        )

    def _parts(self, tensor: Tensor, pool: Executor | None) -> Iterator[Buffer]:
        extent = self.document.files[tensor.file].extents[tensor.extent]
        size = size_bytes(tensor.dtype, tensor.shape) or 0
        if tensor.strides is not None:
            yield self._gathered(tensor, extent)
        elif size == extent.length and not tensor.offset:
            yield from self._objects.frames(extent.digest, extent.length, pool)
        else:
            yield from _cut_out(self._objects.frames(extent.digest, extent.length, pool), tensor.offset, size)

    def _gathered(self, tensor: Tensor, extent: Extent) -> bytes:
        """A strided view in C order. Rare (a saved transpose), so the storage is held whole."""
        width = BITS[tensor.dtype] // 8
        data = np.frombuffer(b"".join(self._objects.frames(extent.digest, extent.length)), np.uint8)
        strides = (*(stride * width for stride in tensor.strides or ()), 1)
        view = np.lib.stride_tricks.as_strided(data[tensor.offset :], (*tensor.shape, width), strides, writeable=False)
        return np.ascontiguousarray(view).tobytes()


def _cut_out(frames: Iterator[Buffer], offset: int, size: int) -> Iterator[Buffer]:
    """Bytes `offset` to `offset + size` of what `frames` yields."""
    position = 0
    for frame in frames:
        begin, end = max(offset - position, 0), min(offset + size - position, len(frame))
        if begin < end:
            yield memoryview(frame)[begin:end]
        position += len(frame)


def row_blocks(
    frames: Iterator[Buffer], shape: tuple[int, ...], row_bytes: int, rows: int
) -> Iterator[tuple[int, bytearray]]:
    """Join frames to blocks of whole rows: `rows` each, a shorter rest joined to the last.

    Yields:
        The index of a block's first row, and its bytes in a buffer of its own.
    """
    count = shape[0] if shape else 1
    begin = 0
    rest: list[memoryview] = []
    held = 0
    iterator = iter(frames)
    while begin < count:
        taken = rows if count - begin >= 2 * rows else count - begin
        block = bytearray(taken * row_bytes)
        filled = 0
        while filled < len(block):
            if not held:
                view = memoryview(next(iterator)).cast("B")
                rest, held = [view], len(view)
            view = rest.pop()
            part = view[: len(block) - filled]
            block[filled : filled + len(part)] = part
            filled += len(part)
            held -= len(part)
            if held:
                rest.append(view[len(part) :])
        yield begin, block
        begin += taken
    for _ in iterator:  # Nothing is left: this asks for the proof that comes with the end.
        pass
