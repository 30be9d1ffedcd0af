"""Evidence: whether files and tensors hold the same bytes. Samples first; whole files only where samples agree."""

from __future__ import annotations

import fcntl
import math
import os
import struct
from typing import Final, Protocol

import blake3

from ckptfmt.reclaim.found import FileSeen, TensorSeen
from ckptfmt.storage.machine import file_system_of

_PROBE_BYTES: Final = 4096
_CHUNK_BYTES: Final = 4 << 20
_WHOLE_BYTES: Final = 8 * _PROBE_BYTES
"""Up to this length a tensor is compared whole."""
_TELLING: Final = 32
"""Different bytes that a sample must hold to tell anything: masks, zeros and ones are alike in all models."""

_CAST_ELEMENTS: Final = 2048
"""Elements of each sample where float types differ."""

_COPY_ON_WRITE: Final = frozenset({"btrfs", "xfs", "bcachefs", "ocfs2"})
_FIEMAP: Final = 0xC020660B
_FIEMAP_HEADER: Final = struct.Struct("=QQLLLL")
_FIEMAP_EXTENT: Final = struct.Struct("=QQQ2QL3L")
_FIEMAP_COUNT: Final = 256
_EXTENT_LAST: Final = 0x1
_EXTENT_SHARED: Final = 0x2000


class Evidence(Protocol):
    """Answers of what lies in files; a scan's rules ask for it and read nothing themselves."""

    def tensor(self, top: str, tensor: TensorSeen) -> str | None:
        """A fingerprint of a tensor's bytes; None where it tells nothing, or cannot be read."""
        ...

    def digest(self, top: str, tensor: TensorSeen) -> str | None:
        """BLAKE3-256 of a tensor's bytes; None where it cannot be read."""
        ...

    def same_cast(self, top: str, tensor: TensorSeen, other_top: str, other: TensorSeen) -> bool:
        """Whether one of two tensors is the other in another float type, as far as samples and a rounding tell."""
        ...

    def same_files(self, first: str, second: str) -> bool:
        """Whether two files, by absolute path, hold the same bytes."""
        ...

    def shared_bytes(self, path: str, file: FileSeen) -> int:
        """Bytes of a file that it shares with others as reflinks, as far as the file system tells."""
        ...

    def can_change(self, directory: str) -> bool:
        """Whether names in a directory can be made and taken away."""
        ...


class FileEvidence:
    """Evidence read from the files themselves. What cannot be read is no evidence."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, str, int, int], str | None] = {}
        self._digests: dict[tuple[str, str, int, int], str | None] = {}
        self._systems: dict[int, str] = {}
        self.read_bytes = 0

    def tensor(self, top: str, tensor: TensorSeen) -> str | None:
        """See `Evidence.tensor`."""
        key = (top, tensor.path, tensor.offset, tensor.length)
        if key not in self._tensors:
            self._tensors[key] = self._sampled(f"{top}/{tensor.path}", tensor.offset, tensor.length)
        return self._tensors[key]

    def _sampled(self, path: str, offset: int, length: int) -> str | None:
        if length <= _WHOLE_BYTES:
            ranges = [(offset, length)]
        else:
            steps = 5
            last = length - _PROBE_BYTES
            ranges = [(offset + last * step // (steps - 1), _PROBE_BYTES) for step in range(steps)]
        content = blake3.blake3()
        values: set[int] = set()
        try:
            descriptor = _open(path)
            try:
                for begin, size in ranges:
                    data = os.pread(descriptor, size, begin)
                    if len(data) != size:
                        return None
                    content.update(data)
                    values.update(data)
                    self.read_bytes += size
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return content.hexdigest() if len(values) >= _TELLING else None

    def digest(self, top: str, tensor: TensorSeen) -> str | None:
        """See `Evidence.digest`."""
        key = (top, tensor.path, tensor.offset, tensor.length)
        if key not in self._digests:  # A base is compared with each of its copies.
            self._digests[key] = self._whole(f"{top}/{tensor.path}", tensor)
        return self._digests[key]

    def _whole(self, path: str, tensor: TensorSeen) -> str | None:
        content = blake3.blake3()
        try:
            descriptor = _open(path)
            try:
                for begin in range(0, tensor.length, _CHUNK_BYTES):
                    size = min(_CHUNK_BYTES, tensor.length - begin)
                    data = os.pread(descriptor, size, tensor.offset + begin)
                    if len(data) != size:
                        return None
                    content.update(data)
                    self.read_bytes += size
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return content.hexdigest()

    def same_cast(self, top: str, tensor: TensorSeen, other_top: str, other: TensorSeen) -> bool:
        """See `Evidence.same_cast`."""
        # numpy: not for scans that have no two types of one model.
        import numpy as np  # noqa: PLC0415

        from ckptfmt.encodings.casts import CASTS, WIDTHS  # noqa: PLC0415

        if (tensor.dtype, other.dtype) not in CASTS:
            return False
        count = tensor.length // WIDTHS[tensor.dtype]
        if count != other.length // WIDTHS[other.dtype] or not self.tensor(top, tensor):
            return False
        starts = {0, max(0, count - _CAST_ELEMENTS), max(0, count // 2 - _CAST_ELEMENTS)}
        one = b"".join(self._elements(top, tensor, start) for start in sorted(starts))
        two = b"".join(self._elements(other_top, other, start) for start in sorted(starts))
        here, there = (
            np.frombuffer(data, f"<u{WIDTHS[dtype]}") for data, dtype in ((one, tensor.dtype), (two, other.dtype))
        )
        if not len(here) or len(here) != len(there):
            return False
        forth, back = CASTS[tensor.dtype, other.dtype](here), CASTS[other.dtype, tensor.dtype](there)
        return bool((forth == there).all() or (back == here).all())

    def _elements(self, top: str, tensor: TensorSeen, start: int) -> bytes:
        """Some elements from `start` on; nothing where they cannot be read."""
        width = tensor.length // max(1, math.prod(tensor.shape))
        begin = start * width
        try:
            descriptor = _open(f"{top}/{tensor.path}")
            try:
                return os.pread(descriptor, min(_CAST_ELEMENTS * width, tensor.length - begin), tensor.offset + begin)
            finally:
                os.close(descriptor)
        except OSError:
            return b""

    def same_files(self, first: str, second: str) -> bool:
        """See `Evidence.same_files`."""
        try:
            one, other = _open(first), -1
            try:
                other = _open(second)
                return self._same(one, other)
            finally:
                os.close(one)
                if other >= 0:
                    os.close(other)
        except OSError:
            return False

    def _same(self, one: int, other: int) -> bool:
        size = os.fstat(one).st_size
        if size != os.fstat(other).st_size:
            return False
        # The end and the middle first: files of one form differ there, if anywhere.
        probes = [max(0, size - _PROBE_BYTES), size // 2]
        for begin in probes:
            if os.pread(one, _PROBE_BYTES, begin) != os.pread(other, _PROBE_BYTES, begin):
                return False
        for begin in range(0, size, _CHUNK_BYTES):
            here = os.pread(one, _CHUNK_BYTES, begin)
            self.read_bytes += 2 * len(here)
            if len(here) != min(_CHUNK_BYTES, size - begin) or here != os.pread(other, _CHUNK_BYTES, begin):
                return False
        return True

    def can_change(self, directory: str) -> bool:
        """See `Evidence.can_change`."""
        return os.access(directory, os.W_OK | os.X_OK)

    def shared_bytes(self, path: str, file: FileSeen) -> int:
        """See `Evidence.shared_bytes`: asked of the file systems that can share, by FIEMAP."""
        if file.device not in self._systems:
            self._systems[file.device] = file_system_of(os.path.realpath(path))
        if self._systems[file.device] not in _COPY_ON_WRITE:
            return 0
        try:
            descriptor = _open(path)
            try:
                return min(file.allocated, shared_extents(descriptor))
            finally:
                os.close(descriptor)
        except OSError:
            return 0


def shared_extents(descriptor: int) -> int:
    """Bytes of a file whose extents are shared with other files, by the ioctl FIEMAP.

    Raises:
        OSError: the file system does not know it.
    """
    start = shared = 0
    while True:
        request = bytearray(_FIEMAP_HEADER.size + _FIEMAP_COUNT * _FIEMAP_EXTENT.size)
        _FIEMAP_HEADER.pack_into(request, 0, start, (1 << 64) - 1 - start, 0, 0, _FIEMAP_COUNT, 0)
        fcntl.ioctl(descriptor, _FIEMAP, request)
        mapped = _FIEMAP_HEADER.unpack_from(request, 0)[3]
        if not mapped:
            return shared
        for index in range(mapped):
            extent = _FIEMAP_EXTENT.unpack_from(request, _FIEMAP_HEADER.size + index * _FIEMAP_EXTENT.size)
            logical, length, flags = extent[0], extent[2], extent[5]
            shared += length if flags & _EXTENT_SHARED else 0
            start = logical + length
        if flags & _EXTENT_LAST:
            return shared


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
