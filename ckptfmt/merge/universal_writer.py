"""A merged model as a universal checkpoint: one `ckpt.pt` that `torch.load` reads with `weights_only`, streamed.

It holds `model`, a plain state dict, and as far as they are known `model_args`, `iter_num`, `best_val_loss` and
`config`. A tensor that the other format keeps transposed is written as it comes and transposed by its strides; tied
tensors share a storage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ckptfmt.containers.torch_zip_writer import StoredTensor, TorchZipWriter
from ckptfmt.digest import Buffer
from ckptfmt.merge.plan import Output
from ckptfmt.merge.universal_names import HEAD, Renaming
from ckptfmt.storage import durable

FILE: Final = "ckpt.pt"


class UniversalWriter:
    """Writes `ckpt.pt` into a directory. A `ModelWriter`: it is told the names of the plan, not those it writes.

    Args:
        directory: it exists.
        outputs: all tensors, in the order they will come.
        renaming: what they are called in the file.
        beside: what stands beside the model in the file.
    """

    def __init__(
        self, directory: str, outputs: Sequence[Output], renaming: Renaming, beside: Mapping[str, Any]
    ) -> None:
        self._renaming = renaming
        kept = [item.name for item in outputs if item.name in renaming.tensors]
        self._storage = {name: str(number) for number, name in enumerate(kept)}
        self._skipping = False
        self._file = durable.WriteFile(os.path.join(directory, FILE))
        try:
            self._archive = TorchZipWriter(self._file.write, {"model": self._state_dict(kept), **beside})
        except BaseException:
            self._file.close()
            raise

    def _state_dict(self, kept: Sequence[str]) -> dict[str, StoredTensor]:
        """The state dict, in the plan's order but for the head, which models have last."""
        tensors = {}
        for name in kept:
            placed = self._renaming.tensors[name]
            strides = (1, placed.spec.shape[0]) if placed.transposed else None
            tensors[placed.name] = StoredTensor(self._storage[name], placed.spec.dtype, placed.spec.shape, strides)
        for alias, name in self._renaming.aliases.items():
            tensors[alias] = tensors[name]
        if HEAD in tensors:
            tensors[HEAD] = tensors.pop(HEAD)
        return tensors

    def begin(self, name: str) -> None:
        """See `ModelWriter.begin`."""
        self._skipping = name not in self._storage
        if not self._skipping:
            self._archive.begin(self._storage[name])

    def write(self, data: Buffer) -> None:
        """See `ModelWriter.write`."""
        if not self._skipping:
            self._archive.write(data)

    def finish(self) -> None:
        """See `ModelWriter.finish`."""
        self._archive.finish()
        try:
            self._file.sync()
        finally:
            self._file.close()

    def abort(self) -> None:
        """Let go of the file."""
        self._file.close()
