"""What a storage is: immutable bytes by key, small enough that a bucket can stand behind it.

Keys are relative paths with '/', of `[A-Za-z0-9._,-]` parts, none of them empty, '.' or '..'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ckptfmt.digest import Buffer


@dataclass(frozen=True, slots=True)
class Listed:
    """A key that is there: its `size` in bytes, and when it appeared, in nanoseconds of the storage's own clock."""

    key: str
    size: int
    modified_ns: int


class Upload(Protocol):
    """A large value that is written once, from start to end, below the room that was reserved for its head."""

    def write(self, data: Buffer) -> None:
        """Append `data`."""
        ...

    def finish(self, head: Buffer, key: str) -> None:
        """Put `head` into the reserved room, make all of it durable and give it its key."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. Harmless after `finish`."""
        ...


class Storage(Protocol):
    """Bytes at rest. Every method raises `StorageError` where the machine below refuses."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from byte `offset`; fewer only at the end of the value.

        Raises:
            NotFound: there is no such key.
        """
        ...

    def size(self, key: str) -> int | None:
        """Bytes of a value, None where there is none."""
        ...

    def put(self, key: str, data: Buffer) -> None:
        """Make `data` durable as `key`. Used only where a key determines its value: both of two writers are right."""
        ...

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """Make `data` durable as `key` if nothing is there; False where something is. Exactly one of many wins."""
        ...

    def upload(self, reserve: int) -> Upload:
        """Begin a large value whose first `reserve` bytes are written last."""
        ...

    def settle(self, keys: Iterable[str]) -> None:
        """Make keys that are there durable: who put one may have been stopped before its name was."""
        ...

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every key that begins with `prefix`, which ends with '/', in no order."""
        ...

    def directories(self, prefix: str) -> Iterator[Listed]:
        """The next parts below `prefix`, which ends with '/': key without a trailing '/', size 0."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key; absent is fine."""
        ...

    def move(self, key: str, target: str) -> bool:
        """Give a value another key, beside one that is there already; durable only after `settle`.

        Returns:
            False where nothing is at `key`, or nothing is left beside `target`: somebody took all of that over.
        """
        ...

    def link(self, key: str, target: str) -> bool:
        """Let a value be at `target` too, where nothing is there yet; durable only after `settle`.

        Returns:
            Whether something is at `target` now.
        """
        ...

    def take_over(self, prefix: str, target: str) -> bool:
        """Give everything below `prefix` keys below `target` instead, in one step. Both end with '/'.

        Returns:
            False where nothing is below `prefix` (any more): exactly one of many succeeds.
        """
        ...

    def discard(self, keys: Iterable[str]) -> None:
        """Remove many keys in this order; absent ones are fine. Not durable at once: they may come back."""
        ...

    def now_ns(self) -> int:
        """The time by the clock that `modified_ns` is told by, which may be another machine's. Writes a value."""
        ...


class Readable(Protocol):
    """What is needed to read values."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Storage.read`."""
        ...

    def size(self, key: str) -> int | None:
        """See `Storage.size`."""
        ...
