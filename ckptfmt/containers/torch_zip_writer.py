"""Writing files that `torch.load` reads with `weights_only`: a pickle of our own making, then one record a storage.

The pickle is made by opcodes from a plain tree; tensors stand in it by storage, shape and strides. Records follow as
they come, uncompressed and at multiples of 64 bytes, so that memory does not depend on how large they are. Sources:
PKWARE APPNOTE 6.3.10; `torch/serialization.py` and `caffe2/serialize/inline_container.cc` of torch 2.13.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptfmt.digest import Buffer
from ckptfmt.errors import InvalidInput
from ckptfmt.format.dtypes import size_bytes

ALIGNMENT: Final = 64
"""Records begin at multiples of this many bytes, as torch's own do, so that a mapped file can be viewed."""

_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF
_DESCRIBED: Final = 0x0008
_STORED: Final = 0
_VERSION: Final = 20
_VERSION64: Final = 45
_UNIX_FILE: Final = 0o100644 << 16

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")

_TYPED: Final[Mapping[str, str]] = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
    "C64": "ComplexFloatStorage",
    "C128": "ComplexDoubleStorage",
}
"""Dtypes that have a storage class of their own."""

_UNTYPED: Final[Mapping[str, str]] = {
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Dtypes that are views of untyped storages, by their names in torch."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Stands in the tree for a tensor on storage `storage`, which it fills in C order unless `strides` say otherwise.

    Tensors that name one storage share it, as tied parameters do. `strides` are in elements.
    """

    storage: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None


class TorchZipWriter:
    """Writes one file, from its start to its end, into whatever takes bytes.

    Every storage that the tree names is one record, in the order in which the tree names them: `begin`, `write` its
    bytes, and at the end `finish`.

    Args:
        sink: takes the file's bytes in order.
        tree: dicts (also ordered ones), lists, tuples, None, booleans, numbers, strings and `StoredTensor`.
        archive: name of the directory inside the file.

    Raises:
        InvalidInput: a dtype that torch does not have.
    """

    def __init__(self, sink: Callable[[Buffer], None], tree: object, *, archive: str = "archive") -> None:
        self._sink = sink
        self._archive = archive
        self._at = 0
        self._entries: list[_Entry] = []
        self._open: _Entry | None = None
        pickle = _Pickle()
        pickle.value(tree)
        self._left = dict(pickle.storages)
        self._small("data.pkl", pickle.done())
        self._small(".format_version", b"1")
        self._small(".storage_alignment", str(ALIGNMENT).encode())
        self._small("byteorder", b"little")

    def storages(self) -> tuple[str, ...]:
        """The storages that have not begun, in the order of the tree."""
        return tuple(self._left)

    def begin(self, storage: str) -> None:
        """The next bytes are those of this storage.

        Raises:
            ValueError: it was written before, the tree does not name it, or the one before it is not whole.
        """
        self._close()
        if storage not in self._left:
            raise ValueError(f"storage {storage!r} is not in the tree, or was written already")
        self._begin(f"data/{storage}", self._left.pop(storage))

    def write(self, data: Buffer) -> None:
        """Append bytes of the storage that was begun."""
        entry = self._open
        if entry is None:
            raise ValueError("bytes without a storage")
        view = memoryview(data).cast("B")
        entry.crc = zlib.crc32(view, entry.crc)
        entry.written += len(view)
        self._put(view)

    def finish(self) -> None:
        """Write the directory: nothing comes after it.

        Raises:
            ValueError: a storage is missing, or not whole.
        """
        self._close()
        if self._left:
            raise ValueError(f"storage {next(iter(self._left))!r} was not written")
        self._small("version", b"3\n")
        begin = self._at
        for entry in self._entries:
            self._put(_central_header(entry))
        self._put(_end_records(len(self._entries), begin, self._at))

    def _small(self, name: str, data: bytes) -> None:
        self._begin(name, len(data))
        self.write(data)
        self._close()

    def _begin(self, name: str, length: int) -> None:
        entry = _Entry(f"{self._archive}/{name}".encode(), length, self._at)
        self._entries.append(entry)
        self._open = entry
        self._put(_local_header(entry))

    def _close(self) -> None:
        entry, self._open = self._open, None
        if entry is None:
            return
        if entry.written != entry.length:
            raise ValueError(f"{entry.name.decode()}: {entry.written} bytes came, {entry.length} are due")
        self._put(_descriptor(entry))

    def _put(self, data: Buffer) -> None:
        self._sink(data)
        self._at += len(data)


@dataclass(slots=True)
class _Entry:
    """A file of the archive; `header` is the byte offset of its local header."""

    name: bytes
    length: int
    header: int
    crc: int = 0
    written: int = 0

    @property
    def is_large(self) -> bool:
        return self.length >= _MAX32


def _local_header(entry: _Entry) -> bytes:
    """Sizes are known before and stand here, the CRC follows in the descriptor; a field of `Z` pads to the data."""
    extra = struct.pack("<HHQQ", 1, 16, entry.length, entry.length) if entry.is_large else b""
    data_begin = entry.header + _LOCAL.size + len(entry.name) + len(extra) + 4
    padding = -data_begin % ALIGNMENT
    extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
    size = _MAX32 if entry.is_large else entry.length
    version = _VERSION64 if entry.is_large else _VERSION
    fields = (version, _DESCRIBED, _STORED, 0, 0, 0, size, size, len(entry.name), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", *fields) + entry.name + extra


def _descriptor(entry: _Entry) -> bytes:
    form = "<4sIQQ" if entry.is_large else "<4sIII"
    return struct.pack(form, b"PK\x07\x08", entry.crc, entry.length, entry.length)


def _central_header(entry: _Entry) -> bytes:
    large = ([entry.length] * 2 if entry.is_large else []) + ([entry.header] if entry.header >= _MAX32 else [])
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    size = _MAX32 if entry.is_large else entry.length
    version = _VERSION64 if large else _VERSION
    fields = (version, version, _DESCRIBED, _STORED, 0, 0, entry.crc, size, size, len(entry.name), len(extra))
    place = min(entry.header, _MAX32)
    return _CENTRAL.pack(b"PK\x01\x02", *fields, 0, 0, 0, _UNIX_FILE, place) + entry.name + extra


def _end_records(count: int, begin: int, end: int) -> bytes:
    """The zip64 end record and its locator, which torch writes whatever the size, and the end record."""
    length = end - begin
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, _VERSION64, _VERSION64, 0, 0, count, count, length, begin)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    few = min(count, _MAX16)
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, min(length, _MAX32), min(begin, _MAX32), 0)
    return end64 + locator + last


class _Pickle:
    """The opcodes of a tree, protocol 2. `storages` are those that it names, with their bytes."""

    def __init__(self) -> None:
        self.storages: dict[str, int] = {}
        self._parts: list[bytes] = [b"\x80\x02"]

    def done(self) -> bytes:
        return b"".join([*self._parts, b"."])

    def value(self, value: Any) -> None:
        if value is None or isinstance(value, bool):
            self._put({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self._put(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, StoredTensor):
            self._tensor(value)
        elif isinstance(value, Mapping):
            self._mapping(value)
        elif isinstance(value, list | tuple):
            self._sequence(value)
        else:
            raise TypeError(f"{type(value).__name__} has no place in a checkpoint")

    def _put(self, *parts: bytes) -> None:
        self._parts += parts

    def _global(self, module: str, name: str) -> None:
        self._put(f"c{module}\n{name}\n".encode())

    def _integer(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._put(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self._put(b"\x8a" + bytes([len(data)]) + data)

    def _text(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self._put(b"X" + struct.pack("<I", len(data)) + data)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        if isinstance(value, OrderedDict):
            self._global("collections", "OrderedDict")
            self._put(b")R")
        else:
            self._put(b"}")
        self._put(b"(")
        for key, item in value.items():
            self.value(key)
            self.value(item)
        self._put(b"u")

    def _sequence(self, value: Sequence[Any]) -> None:
        self._put(b"(" if isinstance(value, tuple) else b"](")
        for item in value:
            self.value(item)
        self._put(b"t" if isinstance(value, tuple) else b"e")

    def _tensor(self, tensor: StoredTensor) -> None:
        typed = _TYPED.get(tensor.dtype)
        if typed is None and tensor.dtype not in _UNTYPED:
            raise InvalidInput(f"storage {tensor.storage!r}: torch has no dtype {tensor.dtype}")
        length = size_bytes(tensor.dtype, tensor.shape) or 0
        if self.storages.setdefault(tensor.storage, length) != length:
            raise ValueError(f"storage {tensor.storage!r} is given two lengths")
        self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self._put(b"((")
        self._text("storage")
        self._global(*(("torch", typed) if typed else ("torch.storage", "UntypedStorage")))
        self._text(tensor.storage)
        self._text("cpu")
        self._integer(math.prod(tensor.shape) if typed else length)
        self._put(b"tQ")
        self._integer(0)
        self._sequence(tensor.shape)
        self._sequence(tensor.strides if tensor.strides is not None else c_strides(tensor.shape))
        self._put(b"\x89")
        self._global("collections", "OrderedDict")
        self._put(b")R")
        if typed is None:
            self._global("torch", _UNTYPED[tensor.dtype])
        self._put(b"tR")


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of C order, in elements; those of torch for tensors without elements too."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
