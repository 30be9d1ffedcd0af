"""One object on its way into a shard: its encoding chosen, its frames encoded, decoded again and compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import blake3

from ckptfmt.digest import Buffer, checksum_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.shard import Stored, decoded_lengths

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis
    from ckptfmt.encodings.protocol import Effort

_PENDING_FRAMES: Final = 6


@dataclass(frozen=True, slots=True)
class Against:
    """Objects that one to come may be stored against.

    Attributes:
        encoding: name of the relative encoding.
        reference: how the basis is made of them, in its words.
        dependencies: their digests, in that order.
        basis: gives the basis of the bytes from one to another, from any thread.
        reaches: they, and all that they depend on: none of these may depend on them in turn.
    """

    encoding: str
    reference: str
    dependencies: tuple[str, ...]
    basis: Callable[[int, int], Basis]
    reaches: frozenset[str]


class Target(Protocol):
    """Where stored bytes go, one after another."""

    @property
    def position(self) -> int:
        """Bytes appended so far."""
        ...

    def append(self, data: Buffer) -> None:
        """Append stored bytes."""
        ...

    def record(self, digest: str, begin: int, stored: Stored, dtype: str | None, shape: tuple[int, ...]) -> None:
        """Take an object whose bytes were appended from `begin` on."""
        ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is known of an object before its bytes come.

    Attributes:
        length: decoded bytes.
        dtype: element type of what it holds, if that is known; a hint, as is `shape`.
        shape: its dimensions.
        digest: given where the caller has hashed the very same frames already.
        against: what it may be stored against, the likeliest first.
    """

    length: int
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    digest: str | None = None
    against: Sequence[Against] = ()


@dataclass(slots=True)
class _Frame:
    """A frame on its way: `stored` is ready, or comes from the pool."""

    stored: Buffer | Future[Buffer]
    decoded_bytes: int


class ObjectWriter:
    """One object on its way into a shard: frames of 4 MiB in order, then `finish`."""

    def __init__(self, target: Target, incoming: Incoming, *, effort: Effort, pool: Executor) -> None:
        self._target = target
        self._incoming = incoming
        self._effort = effort
        self._pool = pool
        self._begin = target.position
        self._encoding = "raw"
        self._against: Against | None = None
        self._head = ""
        self._sums: list[str] = []
        self._frames: list[int] = []
        self._pending: deque[_Frame] = deque()
        self._hash = blake3.blake3()
        self._taken = 0

    def append(self, frame: Buffer) -> None:
        """Take the next frame. It must not change afterwards."""
        if not self._taken:
            self._choose(frame)
            self._head = checksum_of(frame)
        begin = self._taken
        self._taken += len(frame)
        dtype = self._incoming.dtype
        if self._against is not None:
            coded = self._pool.submit(_encode_against, self._against, frame, dtype, begin)
            self._pending.append(_Frame(coded, len(frame)))
        elif self._encoding == "raw":
            self._pending.append(_Frame(frame, len(frame)))
        else:
            self._pending.append(_Frame(self._pool.submit(_encode, self._encoding, frame, dtype), len(frame)))
        if self._incoming.digest is None:
            self._hash.update(frame)
        while len(self._pending) > (0 if self._encoding == "raw" else _PENDING_FRAMES):
            self._drain()

    def _choose(self, head: Buffer) -> None:
        from ckptfmt.encodings.chooser import choose  # noqa: PLC0415  (numpy: not for what only looks)

        known = self._incoming.digest
        against = [each for each in self._incoming.against if known not in each.reaches]
        chosen = choose(head, self._incoming.dtype, self._effort, [(each.encoding, each.basis) for each in against])
        self._encoding = chosen.encoding
        self._against = against[chosen.basis] if chosen.basis is not None else None

    def _drain(self) -> None:
        frame = self._pending.popleft()
        stored = frame.stored.result() if isinstance(frame.stored, Future) else frame.stored
        self._sums.append(checksum_of(stored))
        self._frames.append(len(stored))
        self._target.append(stored)

    def finish(self) -> str | None:
        """Write what is left and return the object's digest.

        Returns:
            None where it turned out to be one of those that its basis depends on: nothing was recorded, and it has to
            come again, against nothing.
        """
        length = self._incoming.length
        if self._taken != length:
            raise ValueError(f"{self._taken} bytes were appended to an object of {length}")
        while self._pending:
            self._drain()
        digest = self._incoming.digest or self._hash.hexdigest()
        if self._against is not None and digest in self._against.reaches:
            return None
        whole = tuple(self._frames) == decoded_lengths(length)
        against = None if whole else self._against
        stored = Stored(
            encoding="raw" if whole else self._encoding,
            length=length,
            sums="".join(self._sums),
            frames=() if whole else tuple(self._frames),
            head=self._head if self._sums and self._head != self._sums[0] else None,
            element=None if whole else self._incoming.dtype,
            dependencies=against.dependencies if against else (),
            reference=against.reference if against else "",
        )
        self._target.record(digest, self._begin, stored, self._incoming.dtype, self._incoming.shape)
        return digest


def _encode(name: str, frame: Buffer, element: str | None) -> Buffer:
    """A frame as it is stored."""
    from ckptfmt.encodings.table import encoding_named  # noqa: PLC0415

    encoding = encoding_named(name)
    stored = encoding.encode(frame, element)
    return _believed(stored, frame, lambda stored: encoding.decode(stored, len(frame), element))


def _encode_against(against: Against, frame: Buffer, element: str | None, begin: int) -> Buffer:
    """As `_encode`. A basis that cannot be read leaves the frame raw: what may be smaller must not fail an import."""
    from ckptfmt.encodings.table import RELATIVE  # noqa: PLC0415

    encoding = RELATIVE[against.encoding]
    try:
        basis = against.basis(begin, begin + len(frame))
        stored = encoding.encode(frame, element, basis)
        return _believed(stored, frame, lambda stored: encoding.decode(stored, len(frame), element, basis))
    except CkptfmtError:
        return frame


def _believed(stored: Buffer | None, frame: Buffer, decode: Callable[[Buffer], Buffer]) -> Buffer:
    """`stored` where it is shorter and decoding it gives the frame back; else the frame itself."""
    if stored is None or len(stored) >= len(frame):
        return frame
    return stored if memoryview(decode(stored)).cast("B") == memoryview(frame).cast("B") else frame
