"""Storage in a directory of a file system, local or shared."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from ckptfmt.digest import Buffer
from ckptfmt.errors import NotFound
from ckptfmt.storage import durable
from ckptfmt.storage.protocol import Listed

TEMPORARY: Final = "tmp"
NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""What `link` answers on file systems without hard links, or where a file has too many."""

_RETRIES: Final = 3


class LocalStorage:
    """Keys are paths below `root`. Nothing rests on a lock: exclusive creation is a `link`.

    Args:
        root: the directory, which exists. Reading never writes into it.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._known_directories: set[str] = set()

    def path(self, key: str) -> str:
        """Where the value of `key` lies."""
        return f"{self.root}/{key}"

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Storage.read`."""
        with durable.storage_errors(self.path(key)):
            for attempt in range(_RETRIES):
                try:
                    return self._read(key, offset, length)
                except FileNotFoundError:
                    raise NotFound(f"{self.path(key)}: no such file in the store") from None
                except OSError as error:
                    if error.errno != errno.ESTALE or attempt == _RETRIES - 1:
                        raise
        raise AssertionError("unreachable")

    def _read(self, key: str, offset: int, length: int) -> bytes:
        descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            # No more than there is: room for what is asked is taken before anything is read.
            length = min(length, max(os.fstat(descriptor).st_size - offset, 0))
            data = os.pread(descriptor, length, offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(descriptor)

    def size(self, key: str) -> int | None:
        """See `Storage.size`."""
        with durable.storage_errors(self.path(key)):
            try:
                return os.stat(self.path(key)).st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, key: str, data: Buffer) -> None:
        """See `Storage.put`: temporary, fsync, rename, fsync of the directory."""
        with durable.storage_errors(self.path(key)):
            temporary = self._temporary(data)
            try:
                self.directory_for(key)
                durable.rename(temporary, self.path(key))
            except BaseException:
                _discard(temporary)
                raise
            durable.fsync_directory(os.path.dirname(self.path(key)))

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `Storage.put_if_absent`: temporary, fsync, link, fsync of the directory."""
        target = self.path(key)
        with durable.storage_errors(target):
            temporary = self._temporary(data)
            try:
                self.directory_for(key)
                created = self._link(temporary, target)
            finally:
                _discard(temporary)
            durable.fsync_directory(os.path.dirname(target))
            return created

    def _link(self, temporary: str, target: str) -> bool:
        """Link, then look at the link count: over NFS an answer may be lost and repeated as EEXIST."""
        try:
            durable.link(temporary, target)
        except FileExistsError:
            return os.stat(temporary).st_nlink == 2
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._create_exclusively(temporary, target)
        return True

    def _create_exclusively(self, temporary: str, target: str) -> bool:
        """For file systems without hard links: O_EXCL on the name itself, then the bytes."""
        with open(temporary, "rb") as source:
            data = source.read()
        try:
            file = durable.WriteFile(target)
        except FileExistsError:
            return False
        try:
            file.write(data)
            file.sync()
        except BaseException:
            _discard(target)
            raise
        finally:
            file.close()
        return True

    def upload(self, reserve: int) -> LocalUpload:
        """See `Storage.upload`."""
        with durable.storage_errors(self.root):
            return LocalUpload(self, self._temporary_path(), reserve)

    def settle(self, keys: Iterable[str]) -> None:
        """See `Storage.settle`."""
        for directory in sorted({os.path.dirname(key) for key in keys}):
            with durable.storage_errors(self.path(directory)):
                self.directory_for(f"{directory}/x")
                durable.fsync_directory(self.path(directory))

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Storage.list`."""
        with durable.storage_errors(self.path(prefix)):
            yield from self._walk(prefix.rstrip("/"))

    def _walk(self, directory: str) -> Iterator[Listed]:
        for entry in _scan(self.path(directory)):
            key = f"{directory}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(key)
                continue
            found = _stat(entry)
            if found is not None:
                yield Listed(key, found.st_size, found.st_mtime_ns)

    def directories(self, prefix: str) -> Iterator[Listed]:
        """See `Storage.directories`."""
        with durable.storage_errors(self.path(prefix)):
            for entry in _scan(self.path(prefix)):
                if entry.is_dir(follow_symlinks=False):
                    found = _stat(entry)
                    if found is not None:
                        yield Listed(prefix + entry.name, 0, found.st_mtime_ns)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with durable.storage_errors(self.path(key)):
            try:
                durable.unlink(self.path(key))
            except FileNotFoundError:
                return
            durable.fsync_directory(os.path.dirname(self.path(key)))

    def move(self, key: str, target: str) -> bool:
        """See `Storage.move`. The directory of `target` is never made: whoever took it over must not be joined."""
        with durable.storage_errors(self.path(key)):
            try:
                durable.rename(self.path(key), self.path(target))
            except FileNotFoundError:
                return False
            return True

    def link(self, key: str, target: str) -> bool:
        """See `Storage.link`."""
        with durable.storage_errors(self.path(target)):
            self.directory_for(target)
            try:
                durable.link(self.path(key), self.path(target))
            except FileExistsError:
                return True
            except FileNotFoundError:
                return os.path.exists(self.path(target))
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return self._move_back(key, target)
            return True

    def _move_back(self, key: str, target: str) -> bool:
        """For file systems without hard links. What appears at `target` meanwhile has the same content by its name."""
        there = self.path(target)
        return os.path.exists(there) or self.move(key, target) or os.path.exists(there)

    def take_over(self, prefix: str, target: str) -> bool:
        """See `Storage.take_over`."""
        source, target = self.path(prefix.rstrip("/")), self.path(target.rstrip("/"))
        with durable.storage_errors(source):
            try:
                durable.rename(source, target)
            except FileNotFoundError:
                return False
            return True

    def discard(self, keys: Iterable[str]) -> None:
        """See `Storage.discard`. Directories that are empty then go too."""
        directories: dict[str, None] = {}
        for key in keys:
            with durable.storage_errors(self.path(key)), suppress(FileNotFoundError):
                directories[os.path.dirname(key)] = None
                durable.unlink(self.path(key))
        for directory in directories:
            try:
                durable.rmdir(self.path(directory))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                    raise durable.storage_error(error, self.path(directory)) from error

    def now_ns(self) -> int:
        """See `Storage.now_ns`: the time of a file that was just made."""
        with durable.storage_errors(self.path(TEMPORARY)):
            path = self._temporary_path()
            descriptor = durable.create(path)
            try:
                return os.fstat(descriptor).st_mtime_ns
            finally:
                os.close(descriptor)
                _discard(path)

    def _temporary_path(self) -> str:
        self.directory_for(f"{TEMPORARY}/x")
        return self.path(f"{TEMPORARY}/{durable.unique_name()}")

    def _temporary(self, data: Buffer) -> str:
        """A durable temporary file that holds `data`."""
        path = self._temporary_path()
        file = durable.WriteFile(path)
        try:
            file.write(data)
            file.sync()
        except BaseException:
            _discard(path)
            raise
        finally:
            file.close()
        return path

    def directory_for(self, key: str) -> None:
        """Make the directory that `key` lies in. Those that somebody else made may not be durable: they are now."""
        directory = os.path.dirname(self.path(key))
        if directory in self._known_directories and os.path.isdir(directory):
            return
        made = durable.make_directories(directory)
        while directory != self.root and directory not in self._known_directories:
            above = os.path.dirname(directory)
            if directory not in made:
                durable.fsync_directory(above)
            self._known_directories.add(directory)
            directory = above


class LocalUpload:
    """An upload into a temporary file of the same file system."""

    def __init__(self, storage: LocalStorage, path: str, reserve: int) -> None:
        self._storage = storage
        self._path = path
        self._reserve = reserve
        self._file = durable.WriteFile(path)
        self._open = True
        try:
            self._file.write(bytes(reserve))
        except BaseException:
            self.abort()
            raise

    def write(self, data: Buffer) -> None:
        """See `Upload.write`."""
        with durable.storage_errors(self._storage.root):
            self._file.write(data)

    def finish(self, head: Buffer, key: str) -> None:
        """See `Upload.finish`."""
        if len(head) != self._reserve:
            raise ValueError(f"{len(head)} bytes of head for {self._reserve} reserved")
        target = self._storage.path(key)
        with durable.storage_errors(target):
            durable.pwrite(self._file.descriptor, head, 0)
            self._file.sync()
            self._file.close()
            self._storage.directory_for(key)
            durable.rename(self._path, target)
            self._open = False
            durable.fsync_directory(os.path.dirname(target))

    def abort(self) -> None:
        """See `Upload.abort`."""
        self._file.close()
        if self._open:
            self._open = False
            _discard(self._path)


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _discard(path: str) -> None:
    """Remove a temporary; that it cannot be removed never hides what went wrong before."""
    try:
        durable.unlink(path)
    except OSError:
        return
