"""The plain parts of a pickled checkpoint of the store: its settings and counters, read from objects and never run."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut, CutTensor, Inert, TensorAt
from ckptfmt.digest import Buffer
from ckptfmt.errors import FormatError
from ckptfmt.format.manifest import BaseRecord, File, Manifest
from ckptfmt.layouts.pickled import is_state_dict
from ckptfmt.layouts.statedict import MODEL_KEYS
from ckptfmt.store.elsewhere import Called
from ckptfmt.store.objects import Objects

_CARRIED: Final = ("model_args", "iter_num", "best_val_loss", "config")
_NUMBERS: Final = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}
_NOTHING: Final = object()


class ObjectSource:
    """One file of a checkpoint as a container reads it (a `ByteSource`), put together from its objects."""

    def __init__(self, file: File, objects: Objects) -> None:
        self.where = file.path
        self.size = file.size
        self._file = file
        self._objects = objects
        cut = sum(extent.length for extent in file.extents)
        whole = file.content or file.skeleton
        self._skeleton = objects.read(whole, file.size - cut) if whole else b""

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(f"{self.where}: {length} bytes at byte {offset} reach outside the file")
        parts: list[Buffer] = []
        position = taken = 0
        end = offset + length
        for extent in self._file.extents:
            gap = extent.offset - position
            parts.append(_overlap(self._skeleton[taken : taken + gap], position, offset, end))
            taken += gap
            position = extent.offset + extent.length
            if extent.offset < end and position > offset:
                parts += self._within(extent.digest, extent.length, extent.offset, offset, end)
            if position >= end:
                return b"".join(parts)
        parts.append(_overlap(self._skeleton[taken:], position, offset, end))
        return b"".join(parts)

    def _within(self, digest: str, length: int, begin: int, offset: int, end: int) -> list[Buffer]:
        """The part of an extent that lies between `offset` and `end`; of what goes before, nothing is kept."""
        parts = []
        position = begin
        for frame in self._objects.frames(digest, length):
            if part := _overlap(frame, position, offset, end):
                parts.append(part)
            position += len(frame)
            if position >= end:
                break
        return parts


def _overlap(data: Buffer, at: int, offset: int, end: int) -> Buffer:
    """The part of `data`, which lies at byte `at`, that lies between `offset` and `end`."""
    return memoryview(data)[max(offset - at, 0) : max(end - at, 0)]


class PlacedFiles(Protocol):
    """Objects that lie in the files of one directory (`OutsideObjects`)."""

    @property
    def name(self) -> str:
        """What to call them in errors."""
        ...

    @property
    def directory(self) -> str:
        """Where the files are."""
        ...

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        ...

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        ...

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        ...

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`."""
        ...


class WithSkeletons:
    """The files of a base or checkpoint that no store holds, with what lies between their tensors (`OutsideObjects`).

    Args:
        files: gives the tensors and the opaque files.
        document: says where the tensors lie.
    """

    def __init__(self, files: PlacedFiles, document: Manifest | BaseRecord) -> None:
        self.name = files.name
        self._files = files
        self._skeletons = {file.skeleton: file for file in document.files if file.skeleton is not None}

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        return self._files.called(digest)

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        return self._files.has(digest) or digest in self._skeletons

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        if self._files.has(digest):
            return self._files.length(digest)
        return sum(end - begin for begin, end in _gaps(self._skeletons[digest]))

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`."""
        if self._files.has(digest):
            return self._files.read(digest, offset, length)
        file = self._skeletons[digest]
        with FileSource(f"{self._files.directory}/{file.path}") as source:
            parts = [source.read(begin, end - begin) for begin, end in _gaps(file)]
        return b"".join(parts)[offset : offset + length]


def _gaps(file: File) -> Iterator[tuple[int, int]]:
    position = 0
    for extent in file.extents:
        yield position, extent.offset
        position = extent.offset + extent.length
    yield position, file.size


@dataclass(frozen=True, slots=True)
class PickledDocument:
    """A `.pt` with a model under one of its keys: `tree` is its top-level dict, `cut` where its tensors lie."""

    path: str
    source: ObjectSource
    cut: Cut
    tree: Mapping[Any, Any]
    model_key: str

    def carried(self) -> dict[str, Any]:
        """Its settings and counters as plain values: what universal checkpoints say beside their tensors."""
        found = {key: self.plain(self.tree.get(key, _NOTHING)) for key in _CARRIED}
        return {key: value for key, value in found.items() if value is not _NOTHING}

    def plain(self, value: Any) -> Any:
        """`value` without what is no plain data; a tensor of one element is its number."""
        if isinstance(value, Inert) or value is _NOTHING:
            return _NOTHING
        if isinstance(value, TensorAt):
            tensor = self.cut.tensors[value.index]
            return self._number(tensor) if math.prod(tensor.shape) == 1 else _NOTHING
        if isinstance(value, Mapping):
            items = {key: self.plain(item) for key, item in value.items()}
            return {key: item for key, item in items.items() if item is not _NOTHING}
        if isinstance(value, list | tuple):
            return [item for item in map(self.plain, value) if item is not _NOTHING]
        return value

    def _number(self, tensor: CutTensor) -> Any:
        begin = self.cut.extents[tensor.extent].offset + tensor.offset
        if tensor.dtype == "BF16":
            return struct.unpack("<f", b"\0\0" + self.source.read(begin, 2))[0]
        code = _NUMBERS.get(tensor.dtype)
        return struct.unpack(code, self.source.read(begin, struct.calcsize(code)))[0] if code else _NOTHING


def pickled_document(document: Manifest | BaseRecord, objects: Objects) -> PickledDocument | None:
    """The `.pt` that a checkpoint's model lies in, under one key of several; None where it lies otherwise."""
    files = {tensor.file for tensor in document.tensors if tensor.role == "model"}
    if len(files) != 1:
        return None
    file = document.files[next(iter(files))]
    if file.container != "torch-zip":
        return None
    source = ObjectSource(file, objects)
    cut = cut_file(source, file.path)
    if not isinstance(cut, Cut) or not isinstance(cut.tree, Mapping):
        return None
    key = next((key for key in MODEL_KEYS if is_state_dict(cut.tree.get(key))), None)
    return PickledDocument(file.path, source, cut, cut.tree, key) if key is not None else None
