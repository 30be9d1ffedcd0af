"""Reading objects: every stored byte is checked before it is decoded, every copy is tried before one is missed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Final, Protocol

import blake3

from ckptfmt.digest import FRAME_BYTES, Buffer, checksum_of
from ckptfmt.errors import CkptfmtError, DigestMismatch, IncompleteStore, NotFound
from ckptfmt.format.shard import Stored, decoded_lengths
from ckptfmt.storage.protocol import Storage
from ckptfmt.store.catalog import Catalog, Location
from ckptfmt.store.shards import shard_key

_AHEAD: Final = 4


class OutsideObjects(Protocol):
    """Objects that lie outside the store: the files of a referenced base."""

    @property
    def name(self) -> str:
        """What to call them in errors."""
        ...

    def has(self, digest: str) -> bool:
        """Tell whether the object is recorded there."""
        ...

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A range of the object, as it is there now.

        Raises:
            CkptfmtError: it cannot be read.
        """
        ...


class Objects:
    """The objects of a store, by digest.

    Args:
        storage: holds the shards.
        catalog: says where to look. What it says is checked; what it does not know is not there.
        refresh: makes the catalog follow the store: called when what it says is not there.
        outside: where to look next.
    """

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        *,
        refresh: Callable[[], object],
        outside: OutsideObjects | None = None,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._refresh = refresh
        self._outside = outside

    def has(self, digest: str) -> bool:
        """Tell whether the object can be looked for: known to the catalog, or recorded outside."""
        return bool(self._catalog.find(digest)) or (self._outside is not None and self._outside.has(digest))

    def frames(self, digest: str, length: int, pool: Executor | None = None) -> Iterator[Buffer]:
        """The object's decoded frames, in order, each checked by its XXH3-128. With `pool`, read ahead there.

        Args:
            digest: the object.
            length: decoded bytes that it is recorded to have.
            pool: decodes while the caller works.

        Raises:
            IncompleteStore: no copy is there.
            DigestMismatch: no copy is sound. Nothing wrong is ever yielded from a shard; from outside the store, the
                frames are only proven after the last one.
        """
        copies = self._copies(digest, length)
        if not copies:
            yield from self._outside_frames(digest, length)
            return
        count = len(decoded_lengths(length))
        if pool is None or count < 2:
            for index in range(count):
                yield self._frame(digest, copies, index)
            return
        ahead: deque[Future[Buffer]] = deque()
        try:
            for index in range(count):
                ahead.append(pool.submit(self._frame, digest, copies, index))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def read(self, digest: str, length: int) -> bytes:
        """The whole of a small object, proven by its digest.

        Raises:
            IncompleteStore, DigestMismatch: as `frames`.
        """
        data = b"".join(self.frames(digest, length))
        if blake3.blake3(data).hexdigest() != digest:
            raise self._damaged(digest, "its content is not what its digest says")
        return data

    def verify(self, digest: str, length: int, pool: Executor | None = None) -> None:
        """Decode an object and compare its digest.

        Raises:
            IncompleteStore, DigestMismatch: as `frames`.
        """
        content = blake3.blake3()
        for frame in self.frames(digest, length, pool):
            content.update(frame)
        if content.hexdigest() != digest:
            raise self._damaged(digest, "its content is not what its digest says")

    def _copies(self, digest: str, length: int) -> list[Location]:
        copies = self._catalog.find(digest)
        if not copies and (self._outside is None or not self._outside.has(digest)):
            self._refresh()  # Another host may have written it since the catalog followed.
            copies = self._catalog.find(digest)
        fitting = [copy for copy in copies if copy.stored.length == length]
        if copies and not fitting:
            raise self._damaged(digest, f"it has {copies[0].stored.length} bytes where {length} are recorded")
        return fitting

    def _frame(self, digest: str, copies: list[Location], index: int) -> Buffer:
        """A frame from the first copy that is sound; before none is, the catalog follows the store once more."""
        problems: list[CkptfmtError] = []
        frame = self._first_sound(digest, copies, index, problems)
        if frame is None:
            self._refresh()
            moved = [copy for copy in self._copies(digest, copies[0].stored.length) if copy not in copies]
            frame = self._first_sound(digest, moved, index, problems)
        if frame is not None:
            return frame
        problem = next((error for error in problems if not isinstance(error, NotFound)), problems[0])
        if isinstance(problem, NotFound):
            raise IncompleteStore(
                f"object {digest[:16]}: {problem.message}", digest=digest, hint="ckptfmt fsck"
            ) from problem
        raise problem

    def _first_sound(
        self, digest: str, copies: list[Location], index: int, problems: list[CkptfmtError]
    ) -> Buffer | None:
        for copy in copies:
            try:
                return self._frame_of(digest, copy, index)
            except CkptfmtError as error:
                problems.append(error)
        return None

    def _frame_of(self, digest: str, copy: Location, index: int) -> Buffer:
        stored = copy.stored
        lengths = stored.frame_lengths()
        key = shard_key(copy.shard)
        begin = copy.begin + (sum(lengths[:index]) if stored.frames else index * FRAME_BYTES)
        data = self._storage.read(key, begin, lengths[index])
        if len(data) != lengths[index] or checksum_of(data) != stored.sum_of(index):
            raise self._damaged(digest, f"frame {index} in {key} is not what was stored")
        return _decoded(stored, index, data)

    def _outside_frames(self, digest: str, length: int) -> Iterator[Buffer]:
        outside = self._outside
        if outside is None or not outside.has(digest):
            raise IncompleteStore(
                f"object {digest[:16]} is not in the store", digest=digest, hint="ckptfmt verify --all"
            )
        content = blake3.blake3()
        for offset in range(0, length, FRAME_BYTES):
            frame = outside.read(digest, offset, min(FRAME_BYTES, length - offset))
            content.update(frame)
            yield frame
        if content.hexdigest() != digest:
            raise DigestMismatch(
                f"object {digest[:16]}: the copy in {outside.name} is not what was recorded",
                digest=digest,
                hint="ckptfmt base verify NAME --full, with the name that ckptfmt base ls gives it",
            )

    def _damaged(self, digest: str, what: str) -> DigestMismatch:
        return DigestMismatch(f"object {digest[:16]}: {what}", digest=digest, hint="ckptfmt verify --all")


def _decoded(stored: Stored, index: int, data: bytes) -> Buffer:
    length = min(FRAME_BYTES, stored.length - index * FRAME_BYTES)
    if len(data) == length:
        return data
    from ckptfmt.encodings.table import encoding_named  # noqa: PLC0415  (numpy: not for what only looks)

    return encoding_named(stored.encoding).decode(data, length, stored.element)
