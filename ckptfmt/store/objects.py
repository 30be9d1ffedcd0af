"""Reading objects: every stored byte is checked before it is decoded, every copy is tried before one is missed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import blake3

from ckptfmt.digest import FRAME_BYTES, Buffer, checksum_of
from ckptfmt.errors import CkptfmtError, DigestMismatch, FormatError, IncompleteStore, NotFound
from ckptfmt.format.shard import MAX_DEPTH, decoded_lengths
from ckptfmt.storage.protocol import Readable
from ckptfmt.store.basis import BasisOf, BasisReader
from ckptfmt.store.catalog import Catalog, Location
from ckptfmt.store.elsewhere import OutsideObjects, ProvenFrames, differing
from ckptfmt.store.shards import shard_key

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis

_AHEAD: Final = 4


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
        storage: Readable,
        catalog: Catalog,
        *,
        refresh: Callable[[], object],
        outside: OutsideObjects | None = None,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._refresh = refresh
        self._outside = outside
        self._proven = ProvenFrames(outside) if outside is not None else None
        self._basis = BasisReader(self._dependency_frame, self._dependency_length)
        self._failing = threading.local()

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
            DigestMismatch: no copy is sound. Nothing wrong is ever yielded from a shard; of an object outside the
                store, the frames are only proven after the last one.
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

    def basis(self, what: BasisOf) -> Callable[[int, int], Basis]:
        """What gives the basis of any range of an object that is to be stored so.

        Raises:
            FormatError: the reference is none, or does not fit.
            IncompleteStore: an object that it is made of is nowhere.
        """
        self._basis.prepare(what)

        def basis(begin: int, end: int) -> Basis:
            self._forget_failures()
            return self._basis.basis(what, begin, end, depth=0)

        return basis

    def verify(self, digest: str, length: int) -> None:
        """Decode every copy of an object and compare its digest: another copy that is sound makes none whole.

        A copy that hangs in the air is no damage beside one that does not: gc frees what it was stored against where
        another copy stays.

        Raises:
            IncompleteStore: no copy is there, or none of which all that it is stored against is.
            DigestMismatch: a copy is not sound.
        """
        copies = self._copies(digest, length)
        if not copies:
            for _ in self._outside_frames(digest, length):
                pass
            return
        hanging: list[CkptfmtError] = []
        gone: list[CkptfmtError] = []
        for copy in copies:
            try:
                self.prove(digest, copy)
            except CkptfmtError as error:
                self._refresh()
                if self._storage.size(shard_key(copy.shard)) is None:
                    gone.append(error)
                elif isinstance(error, IncompleteStore) and copy in self._copies(digest, length):
                    hanging.append(error)
                else:
                    raise
        if len(hanging) + len(gone) == len(copies):
            self._verify_others(digest, length, copies, (hanging + gone)[0])

    def _verify_others(self, digest: str, length: int, but: list[Location], problem: CkptfmtError) -> None:
        """As `verify`, of the copies that stand now instead of `but`; where there are none, `problem` stands."""
        others = [copy for copy in self._copies(digest, length) if copy not in but]
        for copy in others:
            self.prove(digest, copy)
        if others:
            return
        if self._outside is None or not self._outside.has(digest):
            raise problem
        for _ in self._outside_frames(digest, length):
            pass

    def prove(self, digest: str, copy: Location) -> None:
        """Decode one copy of an object and compare its digest. What it is stored against is read from any sound copy.

        Raises:
            CkptfmtError: it is not sound, or what it needs is not there.
        """
        content = blake3.blake3()
        for index in range(len(decoded_lengths(copy.stored.length))):
            self._forget_failures()
            content.update(self._frame_of(digest, copy, index, 0))
        if content.hexdigest() != digest:
            raise self._damaged(digest, f"its content in {shard_key(copy.shard)} is not what its digest says")

    def _copies(self, digest: str, length: int) -> list[Location]:
        copies = self._catalog.find(digest)
        if not copies and (self._outside is None or not self._outside.has(digest)):
            self._refresh()  # Another host may have written it since the catalog followed.
            copies = self._catalog.find(digest)
        fitting = [copy for copy in copies if copy.stored.length == length]
        if copies and not fitting:
            raise self._damaged(digest, f"it has {copies[0].stored.length} bytes where {length} are recorded")
        return fitting

    def _frame(self, digest: str, copies: list[Location], index: int, depth: int = 0) -> Buffer:
        """A frame from the first copy that is sound; before none is, the catalog follows the store once more.

        What failed is not tried again for the same frame of the same request: many copies of many dependencies would
        fail in as many combinations.
        """
        if depth == 0:
            self._forget_failures()
        known: dict[tuple[str, int, int], CkptfmtError] = self._failing.known
        if failed := known.get((digest, index, depth)):
            raise failed
        try:
            return self._sound_frame(digest, copies, index, depth)
        except CkptfmtError as error:
            known[digest, index, depth] = error
            raise

    def _forget_failures(self) -> None:
        """A new request of this thread begins."""
        self._failing.known = {}

    def _sound_frame(self, digest: str, copies: list[Location], index: int, depth: int) -> Buffer:
        problems: list[CkptfmtError] = []
        frame = self._first_sound(digest, copies, index, depth, problems)
        if frame is None and not all(isinstance(error, _TooDeepError) for error in problems):
            self._refresh()
            moved = [copy for copy in self._copies(digest, copies[0].stored.length) if copy not in copies]
            frame = self._first_sound(digest, moved, index, depth, problems)
        if frame is None and self._proven is not None and self._outside is not None and self._outside.has(digest):
            # What is wrong is the copy here: that the base is not there either is no news.
            with suppress(CkptfmtError):
                frame = self._proven.frame(digest, index)
        if frame is not None:
            return frame
        problem = next((error for error in problems if not isinstance(error, NotFound)), problems[0])
        if isinstance(problem, NotFound):
            raise IncompleteStore(
                f"object {digest[:16]}: {problem.message}", digest=digest, hint="ckptfmt fsck"
            ) from problem
        raise problem

    def _first_sound(
        self, digest: str, copies: list[Location], index: int, depth: int, problems: list[CkptfmtError]
    ) -> Buffer | None:
        for copy in copies:
            try:
                return self._frame_of(digest, copy, index, depth)
            except CkptfmtError as error:
                problems.append(error)
        return None

    def _frame_of(self, digest: str, copy: Location, index: int, depth: int) -> Buffer:
        stored = copy.stored
        if stored.dependencies and depth >= MAX_DEPTH:
            raise _TooDeepError(
                f"object {digest[:16]}: more than {MAX_DEPTH} objects depend on one another in a row",
                digest=digest,
                hint="ckptfmt fsck",
            )
        lengths = stored.frame_lengths()
        key = shard_key(copy.shard)
        begin = copy.begin + (sum(lengths[:index]) if stored.frames else index * FRAME_BYTES)
        data = self._storage.read(key, begin, lengths[index])
        if len(data) != lengths[index] or checksum_of(data) != stored.sum_of(index):
            raise self._damaged(digest, f"frame {index} in {key} is not what was stored")
        length = min(FRAME_BYTES, stored.length - index * FRAME_BYTES)
        if len(data) == length:
            return data
        from ckptfmt.encodings.table import RELATIVE, encoding_named  # noqa: PLC0415  (numpy: not for what only looks)

        try:
            if stored.encoding not in RELATIVE:
                return encoding_named(stored.encoding).decode(data, length, stored.element)
            what = BasisOf(stored.encoding, stored.reference, stored.dependencies, stored.length)
            begin = index * FRAME_BYTES
            basis = self._basis.basis(what, begin, begin + length, depth=depth)
            return RELATIVE[stored.encoding].decode(data, length, stored.element, basis)
        except FormatError as error:
            raise self._damaged(digest, f"frame {index} in {key}: {error.message}", error.hint) from None

    def _dependency_length(self, digest: str) -> int:
        copies = self._catalog.find(digest)
        if not copies and (self._outside is None or not self._outside.has(digest)):
            self._refresh()
            copies = self._catalog.find(digest)
        if copies:
            return copies[0].stored.length
        if self._outside is not None and self._outside.has(digest):
            return self._outside.length(digest)
        raise self._absent(digest)

    def _dependency_frame(self, digest: str, length: int, index: int, depth: int) -> Buffer:
        """A frame of an object that another is stored against."""
        copies = [copy for copy in self._catalog.find(digest) if copy.stored.length == length]
        if copies:
            return self._frame(digest, copies, index, depth)
        if self._proven is None or self._outside is None or not self._outside.has(digest):
            raise self._absent(digest)
        return self._proven.frame(digest, index)

    def _outside_frames(self, digest: str, length: int) -> Iterator[Buffer]:
        outside = self._outside
        if outside is None or not outside.has(digest):
            raise self._absent(digest)
        content = blake3.blake3()
        for offset in range(0, length, FRAME_BYTES):
            frame = outside.read(digest, offset, min(FRAME_BYTES, length - offset))
            content.update(frame)
            yield frame
        if content.hexdigest() != digest:
            raise differing(outside, digest)

    def _damaged(self, digest: str, what: str, hint: str | None = None) -> DigestMismatch:
        return DigestMismatch(f"object {digest[:16]}: {what}", digest=digest, hint=hint or "ckptfmt verify --all")

    def _absent(self, digest: str) -> IncompleteStore:
        return IncompleteStore(f"object {digest[:16]} is not in the store", digest=digest, hint="ckptfmt verify --all")


def cut_out(frames: Iterable[Buffer], begin: int, end: int) -> Iterator[Buffer]:
    """Bytes `begin` to `end` of what the frames are. All frames are read: the last may prove the others."""
    at = 0
    for frame in frames:
        first, last = max(begin - at, 0), min(end - at, len(frame))
        if first < last:
            yield memoryview(frame)[first:last]
        at += len(frame)


class _TooDeepError(DigestMismatch):
    """A copy that leads on and on: another copy may not."""
