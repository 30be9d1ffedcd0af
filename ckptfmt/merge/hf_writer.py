"""A merged model as Hugging Face reads it: safetensors in shards, with an index where there are several."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Final

from ckptfmt.digest import Buffer
from ckptfmt.format.dtypes import size_bytes
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.merge.plan import Output
from ckptfmt.storage import durable

SHARD_BYTES: Final = 5 << 30
INDEX: Final = "model.safetensors.index.json"
_ALIGNMENT: Final = 8


class HfWriter:
    """Writes `model.safetensors`, or `model-00001-of-000NN.safetensors` and their index, into a directory.

    Args:
        directory: it exists.
        outputs: all tensors, in the order they will come.
        shard_bytes: most bytes of tensors a file; a larger tensor has one of its own.
    """

    def __init__(self, directory: str, outputs: Sequence[Output], shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory
        self._shards = _shards(outputs, shard_bytes)
        self._next = 0
        self._left: list[str] = []
        self._file: durable.WriteFile | None = None
        self.files: list[str] = []

    def begin(self, name: str) -> None:
        """See `ModelWriter.begin`."""
        if not self._left:
            self._close()
            shard = self._shards[self._next]
            self._next += 1
            self._left = [item.name for item in shard]
            self._open(shard)
        if self._left.pop(0) != name:
            raise ValueError(f"tensor {name!r} came out of turn")

    def write(self, data: Buffer) -> None:
        """See `ModelWriter.write`."""
        if self._file is not None:
            self._file.write(data)

    def finish(self) -> None:
        """See `ModelWriter.finish`."""
        self._close()
        if len(self._shards) > 1:
            self._write_index()

    def abort(self) -> None:
        """Let go of the file that is open."""
        if self._file is not None:
            self._file.close()

    def _name(self, index: int) -> str:
        count = len(self._shards)
        return "model.safetensors" if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"

    def _open(self, shard: Sequence[Output]) -> None:
        name = self._name(self._next - 1)
        self.files.append(name)
        self._file = durable.WriteFile(os.path.join(self._directory, name))
        self._file.write(_header(shard))

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._file.sync()
            finally:
                self._file.close()
                self._file = None

    def _write_index(self) -> None:
        weight_map = {item.name: self._name(index) for index, shard in enumerate(self._shards) for item in shard}
        total = sum(_size(item) for shard in self._shards for item in shard)
        document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_file(os.path.join(self._directory, INDEX), json.dumps(document, indent=2).encode() + b"\n")
        self.files.append(INDEX)


def write_file(path: str, data: bytes) -> None:
    """Write a small file durably; it must not exist."""
    file = durable.WriteFile(path)
    try:
        file.write(data)
        file.sync()
    finally:
        file.close()


def _size(output: Output) -> int:
    return size_bytes(output.spec.dtype, output.spec.shape) or 0


def _shards(outputs: Sequence[Output], limit: int) -> list[list[Output]]:
    shards: list[list[Output]] = [[]]
    taken = 0
    for output in outputs:
        size = _size(output)
        if shards[-1] and taken + size > limit:
            shards.append([])
            taken = 0
        shards[-1].append(output)
        taken += size
    return shards


def _header(shard: Sequence[Output]) -> bytes:
    document: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for output in shard:
        end = position + _size(output)
        document[output.name] = {
            "dtype": output.spec.dtype,
            "shape": list(output.spec.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
