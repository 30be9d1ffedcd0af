"""Every system call that changes a file system, and nothing else: the seam of the project.

All writing goes through these functions, so that a test can watch, stop or fail each single call (`observed`) and
know that none was forgotten. What is durable is said by name: data by `fsync`, names by `fsync_directory`.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from ckptfmt.digest import Buffer
from ckptfmt.errors import StorageError

Result = TypeVar("Result")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_WRITEBACK_BYTES: Final = 64 << 20
_WRITE_BYTES: Final = 1 << 20
"""Bytes of one write. The kernel puts larger ones into blocks of 2 MiB, which a virtual machine may first have to get
back from its host: four times slower than writing the same bytes a MiB at a time."""
_UNIQUE_NAME: Final = re.compile(r"[0-9]+-[0-9a-f]{32}")


class Observer(Protocol):
    """Sees each mutating call before and after it; may raise, or end the process."""

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        """`call` is about to be made."""
        ...

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        """`call` was made and gave `result`."""
        ...


_observer: Observer | None = None


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let `observer` see every mutating call of this process meanwhile. For tests."""
    global _observer  # noqa: PLW0603
    outer, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = outer


def _mutate(call: str, function: Callable[..., Result], *arguments: object) -> Result:
    observer = _observer
    if observer is None:
        return function(*arguments)
    observer.before(call, arguments)
    result = function(*arguments)
    observer.after(call, arguments, result)
    return result


@contextmanager
def storage_errors(what: str, *, instead: str = "another --store") -> Iterator[None]:
    """Turn an `OSError` about `what` (a path, said as the user knows it) into the error a person can act on.

    Args:
        what: the path.
        instead: what to choose where it may not be written.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, what, instead=instead) from error


def storage_error(error: OSError, what: str, *, instead: str = "another --store") -> StorageError:
    """The `StorageError` that stands for `error`; see `storage_errors`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return StorageError(
            f"{what}: {reason}", code="disk-full", hint="free some space and run the same command again"
        )
    if error.errno in _READ_ONLY:
        return StorageError(f"{what}: {reason}", code="read-only", hint=f"check the permissions, or choose {instead}")
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return StorageError(
            f"{what}: {reason}: a file stands where a directory is needed", code="io", hint="choose another path"
        )
    return StorageError(f"{what}: {reason}", code="io")


def create(path: str, mode: int = 0o666) -> int:
    """Create a file that must not exist and open it for reading and writing; no link is followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return _mutate("create", lambda p, m: os.open(p, flags, m), path, mode)


def write(descriptor: int, data: Buffer) -> None:
    """Write all of `data` at the descriptor's position."""
    view = memoryview(data).cast("B")
    while view:
        view = view[_mutate("write", os.write, descriptor, view[:_WRITE_BYTES]) :]


def pwrite(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at byte `offset`."""
    view = memoryview(data).cast("B")
    while view:
        done = _mutate("pwrite", os.pwrite, descriptor, view, offset)
        view, offset = view[done:], offset + done


def fsync(descriptor: int) -> None:
    """Make a file's data durable. When this fails the file is lost: it is never called again on it."""
    _mutate("fsync", os.fsync, descriptor)


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _mutate("fsync_directory", lambda _path, fd=descriptor: os.fsync(fd), path)
    except OSError as error:
        # Some network file systems cannot sync a directory; they make names durable themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def rename(source: str, target: str) -> None:
    """Move a name, replacing what is there."""
    _mutate("rename", os.rename, source, target)


def link(source: str, target: str) -> None:
    """Give a file a second name, which must not exist."""
    _mutate("link", os.link, source, target)


def unlink(path: str) -> None:
    """Remove a name."""
    _mutate("unlink", os.unlink, path)


def mkdir(path: str, mode: int = 0o777) -> None:
    """Make one directory, which must not exist."""
    _mutate("mkdir", os.mkdir, path, mode)


def rmdir(path: str) -> None:
    """Remove an empty directory."""
    _mutate("rmdir", os.rmdir, path)


def symlink(target: str, path: str) -> None:
    """Make a symbolic link."""
    _mutate("symlink", os.symlink, target, path)


def chmod(path: str, mode: int) -> None:
    """Set permission bits of what is no link."""
    _mutate("chmod", os.chmod, path, mode)


def set_mtime(path: str, mtime_ns: int) -> None:
    """Set the modification time (and the access time with it), of a link itself too."""
    _mutate("set_mtime", lambda p, t: os.utime(p, ns=(t, t), follow_symlinks=False), path, mtime_ns)


def begin_writeback(descriptor: int, offset: int, length: int) -> None:
    """Ask the kernel to start writing a range, so that the `fsync` at the end finds little left to do. Only a hint."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


class WriteFile:
    """A new file written from its start to its end, with writeback running behind the writer."""

    def __init__(self, path: str, mode: int = 0o666) -> None:
        self.path = path
        self.descriptor = create(path, mode)
        self.length = 0
        self._flushed = 0

    def write(self, data: Buffer) -> None:
        """Append `data`."""
        write(self.descriptor, data)
        self.length += len(data)
        if self.length - self._flushed >= _WRITEBACK_BYTES:
            begin_writeback(self.descriptor, self._flushed, self.length - self._flushed)
            self._flushed = self.length

    def sync(self) -> None:
        """Check the length that the file system has, and make the data durable.

        Raises:
            OSError: it is not as long as what was written.
        """
        found = os.fstat(self.descriptor).st_size
        if found != self.length:
            raise OSError(errno.EIO, f"{found} bytes are there after {self.length} were written", self.path)
        fsync(self.descriptor)

    def close(self) -> None:
        """Close the descriptor, once."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


def make_directories(path: str) -> list[str]:
    """Make `path` and what it needs above it; return what was made, whose names are durable then."""
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        try:
            mkdir(directory)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
        fsync_directory(os.path.dirname(directory) or ".")
    return missing


def unique_name() -> str:
    """A name that no other process, host or thread uses: for temporary files."""
    return f"{os.getpid()}-{uuid.uuid4().hex}"


def is_unique_name(name: str) -> bool:
    """Tell whether `name` is one that `unique_name` gives."""
    return _UNIQUE_NAME.fullmatch(name) is not None


def remove_tree(path: str) -> None:
    """Remove a directory of one's own and all below it, following no link. What vanishes meanwhile is fine."""
    try:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            chmod(path, 0o700)
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            _ignore_missing(unlink, entry.path)
    _ignore_missing(rmdir, path)


def _ignore_missing(function: Callable[[str], None], path: str) -> None:
    try:
        function(path)
    except FileNotFoundError:
        return
