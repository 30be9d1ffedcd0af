"""Where a container's bytes come from: a file read by position, or bytes in memory."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from ckptfmt.digest import Buffer
from ckptfmt.errors import FormatError, NotFound, StorageError


class FileSource:
    """A regular file read with `pread`, so that readers in several threads share one descriptor.

    A path is opened here and closed by `close` or the end of a `with` block; a descriptor stays the caller's.
    The size is taken once: a file that shrinks afterwards ends in `FormatError`, not in a signal as with mmap.
    """

    def __init__(self, file: int | str | os.PathLike[str], *, where: str | None = None) -> None:
        """Open `file`, a path or an open descriptor; `where` is what errors call it (default: the path).

        Raises:
            NotFound: there is no such file.
            StorageError: it cannot be opened.
        """
        self._owned = not isinstance(file, int)
        self._where = where if where is not None else f"descriptor {file}" if isinstance(file, int) else os.fspath(file)
        try:
            self._descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size
        except FileNotFoundError:
            raise NotFound(f"{self._where}: no such file") from None
        except OSError as error:
            hint = "make it readable, or run as its owner" if isinstance(error, PermissionError) else None
            raise StorageError(f"{self._where}: {error.strerror or error}", hint=hint) from error

    @property
    def where(self) -> str:
        """What errors call the file."""
        return self._where

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `offset`.

        Raises:
            FormatError: the file is shorter than that.
            StorageError: the file system refused.
        """
        _check_inside(self, offset, length)
        parts = []
        position, end = offset, offset + length
        while position < end:
            try:
                part = os.pread(self._descriptor, end - position, position)
            except OSError as error:
                raise StorageError(f"{self._where}: byte {position}: {error.strerror or error}") from error
            if not part:
                raise FormatError(f"{self._where}: the file ends at byte {position}, {end - position} bytes too early")
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the descriptor if it was opened here."""
        if self._owned:
            self._owned = False
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BytesSource:
    """Bytes in memory as a `ByteSource`."""

    def __init__(self, data: Buffer, *, where: str = "memory") -> None:
        self._data = bytes(data)
        self._where = where

    @property
    def where(self) -> str:
        """What errors call the bytes."""
        return self._where

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `offset`.

        Raises:
            FormatError: there are fewer.
        """
        _check_inside(self, offset, length)
        return self._data[offset : offset + length]


def _check_inside(source: FileSource | BytesSource, offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > source.size:
        raise FormatError(
            f"{source.where}: {length} bytes at byte {offset} reach outside the file ({source.size} bytes)"
        )
