"""A writer in other names: tensors are renamed, transposed, left out, and zeros written where the target has more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from ckptfmt.digest import Buffer
from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.merge.pipeline import ModelWriter
from ckptfmt.merge.plan import Output
from ckptfmt.merge.universal_names import Placed, Renaming
from ckptfmt.storage import durable

HELD_BYTES: Final = 256 << 20
"""A tensor up to this size is transposed in memory; a larger one by way of a file, in blocks of a quarter of this."""


def renamed_outputs(outputs: Sequence[Output], renaming: Renaming) -> list[Output]:
    """What is written, in its order: the widest elements first, as in the plan, zeros after tensors of their width."""
    kept = [renaming.tensors[item.name] for item in outputs if item.name in renaming.tensors]
    found = [Output(placed.name, placed.spec, None) for placed in kept]
    found += [Output(name, spec, None) for name, spec in sorted(renaming.zeros.items())]
    return sorted(found, key=lambda item: -BITS[item.spec.dtype])


class RenamedWriter:
    """A `ModelWriter` that is told the names of a plan and tells another writer those of `renamed_outputs`.

    Args:
        inner: takes the result.
        outputs: the plan's, in the order they will come.
        renaming: what becomes of each.
        scratch: a directory for a file that is gone at the end.
        held_bytes: see `HELD_BYTES`.
    """

    def __init__(
        self,
        inner: ModelWriter,
        outputs: Sequence[Output],
        renaming: Renaming,
        *,
        scratch: str,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._inner = inner
        self._renaming = renaming
        self._turns = renamed_outputs(outputs, renaming)
        self._scratch = os.path.join(scratch, ".transposing")
        self._held_bytes = held_bytes
        self._placed: Placed | None = None
        self._held = bytearray()
        self._file: durable.WriteFile | None = None

    def begin(self, name: str) -> None:
        """See `ModelWriter.begin`."""
        self._flush()
        self._placed = self._renaming.tensors.get(name)
        if self._placed is None:
            return
        self._pass_zeros(self._placed.name)
        self._inner.begin(self._placed.name)
        if self._placed.transposed and _size(self._placed) > self._held_bytes:
            self._file = durable.WriteFile(self._scratch)

    def write(self, data: Buffer) -> None:
        """See `ModelWriter.write`."""
        if self._placed is None:
            return
        if not self._placed.transposed:
            self._inner.write(data)
        elif self._file is not None:
            self._file.write(data)
        else:
            self._held += memoryview(data).cast("B")

    def finish(self) -> None:
        """See `ModelWriter.finish`."""
        self._flush()
        self._placed = None
        self._pass_zeros(None)
        self._inner.finish()

    def abort(self) -> None:
        """Let go of the scratch file."""
        self._drop_file()

    def _pass_zeros(self, name: str | None) -> None:
        while self._turns and self._turns[0].name != name:
            zeros = self._turns.pop(0)
            if zeros.name not in self._renaming.zeros:
                raise ValueError(f"tensor {zeros.name!r} did not come")
            self._inner.begin(zeros.name)
            self._inner.write(bytes(size_bytes(zeros.spec.dtype, zeros.spec.shape) or 0))
        if name is not None:
            self._turns.pop(0)

    def _flush(self) -> None:
        placed = self._placed
        if placed is None or not placed.transposed:
            return
        columns, rows = placed.spec.shape
        width = BITS[placed.spec.dtype] // 8
        if self._file is None:
            block = np.frombuffer(self._held, f"V{width}").reshape(rows, columns) if self._held else None
            if block is not None:
                self._inner.write(np.ascontiguousarray(block.T).view(np.uint8).data.cast("B"))
            self._held = bytearray()
            return
        for data in _turned(self._file.descriptor, rows, columns, width, self._held_bytes // 4):
            self._inner.write(data)
        self._drop_file()

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            durable.unlink(self._scratch)


def _turned(descriptor: int, rows: int, columns: int, width: int, block_bytes: int) -> Iterator[Buffer]:
    """The transpose of a matrix in a file, in blocks of whole columns."""
    count = max(1, block_bytes // (rows * width))
    for begin in range(0, columns, count):
        taken = min(count, columns - begin)
        block = np.empty((rows, taken), f"V{width}")
        for row in range(rows):
            data = os.pread(descriptor, taken * width, (row * columns + begin) * width)
            block[row] = np.frombuffer(data, f"V{width}")
        yield np.ascontiguousarray(block.T).view(np.uint8).data.cast("B")


def _size(placed: Placed) -> int:
    return size_bytes(placed.spec.dtype, placed.spec.shape) or 0
