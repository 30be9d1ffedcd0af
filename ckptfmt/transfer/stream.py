"""One pass over a file: its SHA-256 in one thread while its bytes go wherever they go in another."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import Final

from ckptfmt.allocation import keep_freed_memory
from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.errors import IntegrityError
from ckptfmt.progress import Progress
from ckptfmt.store.stat_cache import stamp_of
from ckptfmt.transfer.walk import reading_errors

_AHEAD: Final = 6


class Sha256:
    """SHA-256 of what it is fed, computed in order on a pool of one thread while the feeder goes on."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()

    def update(self, data: Buffer) -> None:
        """Take `data`, which must not change afterwards."""
        self._waiting.append(self._pool.submit(self._hash.update, data))
        while len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        """The hash of all that was taken, 64 hex digits."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.hexdigest()


class FileStream:
    """A file read once, from its start to its end, and hashed on the way.

    Args:
        path: the file; it is opened without following a link.
        stamp: what it was when the directory was walked; None: whatever it is now.
        pool: one thread for SHA-256.
        progress: told of each byte that is passed.

    Raises:
        IntegrityError: the file is not the one that was walked (`changed-while-read`).
    """

    def __init__(self, path: str, stamp: str | None, pool: Executor, progress: Progress) -> None:
        keep_freed_memory()
        self.path = path
        self._sha = Sha256(pool)
        self._progress = progress
        self._passed = 0
        with reading_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self.opened = os.fstat(self._descriptor)
        self.size = self.opened.st_size
        self._stamp = stamp or stamp_of(self.opened)
        if stamp_of(self.opened) != self._stamp:
            self.close()
            raise self._changed()

    def next(self, length: int) -> bytes:
        """The next `length` bytes; they count for the file's hash."""
        data = self.again(self._passed, length)
        self._passed += length
        self._sha.update(data)
        self._progress.advance(length)
        return data

    def frames(self, length: int) -> Iterator[bytes]:
        """The next `length` bytes in frames of 4 MiB."""
        for offset in range(0, length, FRAME_BYTES):
            yield self.next(min(FRAME_BYTES, length - offset))

    def frames_again(self, offset: int, length: int) -> Iterator[bytes]:
        """`length` bytes from byte `offset` in frames, once more: they were hashed before."""
        for done in range(0, length, FRAME_BYTES):
            yield self.again(offset + done, min(FRAME_BYTES, length - done))

    def again(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset`, outside the count.

        Raises:
            IntegrityError: the file has become shorter.
        """
        with reading_errors(self.path):
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length:
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    raise self._changed()
                data += more
        return data

    @property
    def position(self) -> int:
        """Bytes passed so far."""
        return self._passed

    def finish(self) -> str:
        """The file's SHA-256, after all of it was passed.

        Raises:
            IntegrityError: the file changed since it was opened.
        """
        if self._passed != self.size or stamp_of(os.fstat(self._descriptor)) != self._stamp:
            raise self._changed()
        return self._sha.hexdigest()

    def close(self) -> None:
        """Close the file, once."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _changed(self) -> IntegrityError:
        return IntegrityError(
            f"{self.path}: changed while it was read",
            code="changed-while-read",
            hint="wait until it is written, then run the same command again",
        )
