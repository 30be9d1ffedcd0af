"""Storage in a dictionary: the plain model that the real ones are compared with, and a store for tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator

from ckptfmt.digest import Buffer
from ckptfmt.errors import NotFound
from ckptfmt.storage.protocol import Listed


class MemoryStorage:
    """Values by key. Its clock counts writes."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}
        self._clock = itertools.count(1)
        self._lock = threading.Lock()

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Storage.read`."""
        with self._lock:
            if key not in self._values:
                raise NotFound(f"{key}: no such key in the store")
            return self._values[key][0][offset : offset + length]

    def size(self, key: str) -> int | None:
        """See `Storage.size`."""
        with self._lock:
            found = self._values.get(key)
            return None if found is None else len(found[0])

    def put(self, key: str, data: Buffer) -> None:
        """See `Storage.put`."""
        with self._lock:
            self._values[key] = (bytes(data), next(self._clock))

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `Storage.put_if_absent`."""
        with self._lock:
            if key in self._values:
                return False
            self._values[key] = (bytes(data), next(self._clock))
            return True

    def upload(self, reserve: int) -> MemoryUpload:
        """See `Storage.upload`."""
        return MemoryUpload(self, reserve)

    def settle(self, keys: Iterable[str]) -> None:
        """See `Storage.settle`."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Storage.list`."""
        with self._lock:
            found = [
                Listed(key, len(data), time) for key, (data, time) in self._values.items() if key.startswith(prefix)
            ]
        yield from found

    def directories(self, prefix: str) -> Iterator[Listed]:
        """See `Storage.directories`."""
        newest: dict[str, int] = {}
        for listed in self.list(prefix):
            part, slash, _ = listed.key[len(prefix) :].partition("/")
            if slash:
                newest[part] = max(newest.get(part, 0), listed.modified_ns)
        for part, time in newest.items():
            yield Listed(prefix + part, 0, time)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with self._lock:
            self._values.pop(key, None)

    def move(self, key: str, target: str) -> bool:
        """See `Storage.move`."""
        beside = target.rpartition("/")[0] + "/"
        with self._lock:
            if key not in self._values or not any(other.startswith(beside) for other in self._values):
                return False
            self._values[target] = self._values.pop(key)
            return True

    def link(self, key: str, target: str) -> bool:
        """See `Storage.link`."""
        with self._lock:
            if target not in self._values and key in self._values:
                self._values[target] = self._values[key]
            return target in self._values

    def take_over(self, prefix: str, target: str) -> bool:
        """See `Storage.take_over`."""
        with self._lock:
            moved = [key for key in self._values if key.startswith(prefix)]
            for key in moved:
                self._values[target + key[len(prefix) :]] = self._values.pop(key)
            return bool(moved)

    def discard(self, keys: Iterable[str]) -> None:
        """See `Storage.discard`."""
        for key in keys:
            self.delete(key)

    def now_ns(self) -> int:
        """See `Storage.now_ns`."""
        return next(self._clock)


class MemoryUpload:
    """An upload that appears when it is finished."""

    def __init__(self, storage: MemoryStorage, reserve: int) -> None:
        self._storage = storage
        self._reserve = reserve
        self._parts: list[bytes] = []

    def write(self, data: Buffer) -> None:
        """See `Upload.write`."""
        self._parts.append(bytes(data))

    def finish(self, head: Buffer, key: str) -> None:
        """See `Upload.finish`."""
        if len(head) != self._reserve:
            raise ValueError(f"{len(head)} bytes of head for {self._reserve} reserved")
        self._storage.put(key, b"".join([bytes(head), *self._parts]))
        self._parts.clear()

    def abort(self) -> None:
        """See `Upload.abort`."""
        self._parts.clear()
