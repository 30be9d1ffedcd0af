"""Where the objects of a file go: into a store, deduplicated, or nowhere, for their digests alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import blake3

from ckptfmt.digest import Buffer, checksum_of, frame_count
from ckptfmt.errors import IntegrityError
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.object_writer import Against, Incoming
from ckptfmt.store.shards import ShardWriter

_HELD_FRAMES: Final = 8
"""An object that may be a duplicate is kept in memory up to this many frames; a larger one is read again."""

Frames = Iterable[Buffer]

Place = tuple[str, int]
"""A file's path, and the index of one of its extents."""


@dataclass(frozen=True, slots=True)
class Holds:
    """What an object holds: element type and dimensions, and where in the checkpoint it stands; each if it is known."""

    dtype: str | None = None
    shape: tuple[int, ...] = ()
    place: Place | None = None


PLAIN: Final = Holds()
"""Nothing that has elements: a skeleton, a text, a file kept whole."""


class Sink(Protocol):
    """Takes objects, gives their digests."""

    def put(self, frames: Frames, length: int, again: Callable[[], Frames], holds: Holds = PLAIN) -> str:
        """Take an object of `length` bytes and return its digest.

        Args:
            frames: its frames, once.
            length: decoded bytes.
            again: the same frames once more.
            holds: what it holds, if that is known.
        """
        ...

    def settle(self) -> None:
        """Make what was put readable."""
        ...


class HashSink:
    """Keeps nothing: for a base that is only referenced."""

    def put(self, frames: Frames, length: int, again: Callable[[], Frames], holds: Holds = PLAIN) -> str:
        """See `Sink.put`."""
        return _digest(frames)

    def settle(self) -> None:
        """See `Sink.settle`: nothing was kept."""


class Referring(Protocol):
    """Says what an extent may be stored against."""

    def __call__(self, place: Place) -> Sequence[Against]:
        """What the extent in a place may be stored against, the likeliest first."""
        ...

    def took(self, place: Place, digest: str) -> None:
        """Take note of an extent's object that can be read from now on."""
        ...


class Unreferred:
    """Nothing is stored against anything."""

    def __call__(self, place: Place) -> Sequence[Against]:
        """See `Referring`."""
        return ()

    def took(self, place: Place, digest: str) -> None:
        """See `Referring`."""


class StoreSink:
    """Writes what the store does not have.

    Args:
        writer: appends to shards.
        catalog: nominates duplicates in the store.
        known: decides whether an object needs no writing.
        elsewhere: lengths of objects outside the store that may be duplicates.
        references: what the extent in a place may be stored against; told of those that were put.
    """

    def __init__(
        self,
        writer: ShardWriter,
        catalog: Catalog,
        known: Callable[[str], bool],
        elsewhere: frozenset[int],
        references: Referring,
    ) -> None:
        self._writer = writer
        self._catalog = catalog
        self._known = known
        self._elsewhere = elsewhere
        self._references = references
        self._unsettled: dict[Place, str] = {}
        self.new: dict[str, int] = {}

    def put(self, frames: Frames, length: int, again: Callable[[], Frames], holds: Holds = PLAIN) -> str:
        """See `Sink.put`. A nominated object is hashed first and written only if it is none of those known.

        Raises:
            IntegrityError: the second reading differs from the first.
        """
        digest = self._put(frames, length, again, holds)
        if holds.place is not None:
            self._unsettled[holds.place] = digest
        return digest

    def settle(self) -> None:
        """See `Sink.settle`."""
        self._writer.flush()
        for place, digest in self._unsettled.items():
            self._references.took(place, digest)
        self._unsettled = {}

    def _put(self, frames: Frames, length: int, again: Callable[[], Frames], holds: Holds) -> str:
        iterator = iter(frames)
        first = [frame for frame in (next(iterator, None),) if frame is not None]
        head = checksum_of(first[0] if first else b"")
        if frame_count(length) > 1 and not self._nominated(length, head):
            return self._write(_chain(first, iterator), length, again, holds)
        whole = frame_count(length) <= _HELD_FRAMES
        held = first + list(iterator) if whole else []
        digest = _digest(held if whole else _chain(first, iterator))
        if self._known(digest) or self._writer.has(digest):
            return digest
        if whole:
            return self._write(held, length, again, holds, digest)
        if self._write(again(), length, again, holds) != digest:
            raise IntegrityError(
                "a file changed while it was read",
                code="changed-while-read",
                hint="wait until it is written, then run the same command again",
            )
        return digest

    def _nominated(self, length: int, head: str) -> bool:
        return (
            length in self._elsewhere or self._writer.nominates(length, head) or self._catalog.nominates(length, head)
        )

    def _write(
        self, frames: Frames, length: int, again: Callable[[], Frames], holds: Holds, digest: str | None = None
    ) -> str:
        against = self._references(holds.place) if holds.place is not None else ()
        written = self._append(frames, Incoming(length, holds.dtype, holds.shape, digest, against))
        if written is None:
            written = self._append(again(), Incoming(length, holds.dtype, holds.shape))
        if written is None:
            raise ValueError("an object that is stored against nothing is always taken")
        self.new[written] = length
        return written

    def _append(self, frames: Frames, incoming: Incoming) -> str | None:
        target = self._writer.begin(incoming)
        for frame in frames:
            target.append(frame)
        return target.finish()


def _digest(frames: Frames) -> str:
    content = blake3.blake3()
    for frame in frames:
        content.update(frame)
    return content.hexdigest()


def _chain(first: Iterable[Buffer], rest: Iterable[Buffer]) -> Iterator[Buffer]:
    yield from first
    yield from rest
