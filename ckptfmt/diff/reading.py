"""Tensors of a checkpoint, read in blocks of elements."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NoReturn

from ckptfmt.convert.checkpoint import Checkpoint
from ckptfmt.digest import Buffer
from ckptfmt.errors import BaseMismatch, DigestMismatch, IncompleteStore, IntegrityError
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.manifest import Tensor
from ckptfmt.merge.source import tensor_frames

Told = Callable[[int], object]
"""Told of bytes that were read; may raise to cancel."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two checkpoints.

    Attributes:
        label: "A" or "B".
        name: as it was given.
        checkpoint: its manifest and bytes.
        is_path: it lies in a directory, and may change meanwhile.
        is_base: it is a base of a store.
    """

    label: str
    name: str
    checkpoint: Checkpoint
    is_path: bool = False
    is_base: bool = False

    def frames(self, tensor: Tensor, told: Told, pool: Executor | None = None) -> Generator[Buffer, None, None]:
        """A tensor's bytes in C order. With `pool`, those that lie in shards are decoded ahead there.

        Raises:
            IntegrityError: they are not what was recorded, or not there; the message names checkpoint and tensor.
        """
        checkpoint = self.checkpoint
        try:
            for frame in tensor_frames(checkpoint.manifest, tensor, checkpoint.objects, pool):
                told(len(frame))
                yield frame
        except (DigestMismatch, IncompleteStore) as error:
            self._refuse(tensor, error)

    def read(self, tensor: Tensor, told: Told) -> bytes:
        """The whole of a small tensor; see `frames`."""
        return b"".join(self.frames(tensor, told))

    def _refuse(self, tensor: Tensor, error: DigestMismatch | IncompleteStore) -> NoReturn:
        what = f"{self.checkpoint.name}: tensor {tensor.name!r}: {error.message}"
        if self.is_path:
            raise IntegrityError(
                f"{self.checkpoint.name}: tensor {tensor.name!r} changed while it was read",
                code="changed-while-read",
                hint="compare it again when nobody writes there",
            ) from error
        if self.is_base:
            raise BaseMismatch(what, tensors=(tensor.name,), hint=error.hint) from error
        raise type(error)(what, digest=error.digest, hint=error.hint) from error


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return size_bytes(tensor.dtype, tensor.shape) or 0


def in_blocks(frames: Iterator[Buffer], size: int) -> Iterator[Buffer]:
    """Frames cut anew into parts of `size` bytes each, and a last one with the rest. Nothing that fits is copied."""
    rest: list[memoryview] = []
    held = 0
    for frame in frames:
        view = memoryview(frame).cast("B")
        while held + len(view) >= size:
            taken = size - held
            yield view[:taken] if not rest else b"".join([*rest, view[:taken]])
            rest, held, view = [], 0, view[taken:]
        if len(view):
            rest.append(view)
            held += len(view)
    if rest:
        yield rest[0] if len(rest) == 1 else b"".join(rest)
