"""The basis that a frame is stored against, from the objects that it depends on: in shards, or in a referenced base."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.errors import FormatError

if TYPE_CHECKING:
    from ckptfmt.encodings.basis import Basis
    from ckptfmt.encodings.protocol import Reference, Source

_CACHE_BYTES: Final = 48 << 20
_PREPARED: Final = 8

FrameAt = Callable[[str, int, int, int], Buffer]
"""Gives a frame of an object, by digest, decoded length, index and depth."""


@dataclass(frozen=True, slots=True)
class BasisOf:
    """How a basis of `length` bytes is made: the fields of `Stored` that say so."""

    encoding: str
    reference: str
    dependencies: tuple[str, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reference that was read and found to fit, and what gives the bytes of the objects it is made of."""

    reference: Reference
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class _Dependency:
    """An object as it is read for a basis: `length` bytes, `depth` below the object that was asked for."""

    digest: str
    length: int
    depth: int


class BasisReader:
    """Makes the basis of any frame.

    Args:
        frame: gives the frames of dependencies.
        length: gives their decoded lengths.
    """

    def __init__(self, frame: FrameAt, length: Callable[[str], int]) -> None:
        self._frame = frame
        self._length = length
        self._lock = threading.Lock()
        self._prepared: OrderedDict[tuple[BasisOf, int], Prepared] = OrderedDict()
        self._cache: OrderedDict[tuple[str, int, int, int], Buffer] = OrderedDict()
        self._cached_bytes = 0

    def basis(self, what: BasisOf, begin: int, end: int, *, depth: int) -> Basis:
        """The basis of the bytes from `begin` to `end` of an object, `depth` objects below the one that is read.

        Raises:
            FormatError: its reference is none, or is not made of such objects.
            CkptfmtError: a dependency cannot be read.
        """
        prepared = self.prepare(what, depth)
        return prepared.reference.read(prepared.sources, begin, end)

    def prepare(self, what: BasisOf, depth: int = 0) -> Prepared:
        """Read a reference and find the objects it is made of, or remember them.

        Raises:
            FormatError, CkptfmtError: as `basis`.
        """
        with self._lock:
            if (what, depth) in self._prepared:
                self._prepared.move_to_end((what, depth))
                return self._prepared[what, depth]
        from ckptfmt.encodings.table import RELATIVE  # noqa: PLC0415  (numpy: not for what only looks)

        reference = RELATIVE[what.encoding].parse(what.reference)
        known = {digest: self._length(digest) for digest in dict.fromkeys(what.dependencies)}
        lengths = [known[digest] for digest in what.dependencies]
        if reference.length(lengths) != what.length:
            raise FormatError(f"the reference {reference.name!r} is not {what.length} bytes long")
        # The same sources every time: what a reference prepared of them is known by them.
        sources: tuple[Source, ...] = tuple(
            partial(self._read, _Dependency(digest, length, depth + 1))
            for digest, length in zip(what.dependencies, lengths, strict=True)
        )
        prepared = Prepared(reference, sources)
        with self._lock:
            if _is_wide(what):
                # One at each depth: what they keep is large, and objects are read one after another.
                for other in [key for key in self._prepared if _is_wide(key[0]) and key[1] == depth]:
                    del self._prepared[other]
            self._prepared[what, depth] = prepared
            while len(self._prepared) > _PREPARED:
                self._prepared.popitem(last=False)
        return prepared

    def _read(self, item: _Dependency, begin: int, end: int) -> Buffer:
        """Bytes from `begin` to `end` of a dependency."""
        if not 0 <= begin <= end <= item.length:
            raise FormatError(f"object {item.digest[:16]} has {item.length} bytes; {begin} to {end} are asked for")
        parts: list[Buffer] = []
        for index in range(begin // FRAME_BYTES, -(-end // FRAME_BYTES)):
            frame = self._cached(item, index)
            offset = index * FRAME_BYTES
            parts.append(memoryview(frame)[max(begin - offset, 0) : end - offset])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _cached(self, item: _Dependency, index: int) -> Buffer:
        # By depth too: what may be read here may be too deep below something else.
        key = (item.digest, item.length, index, item.depth)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        frame = self._frame(item.digest, item.length, index, item.depth)
        if len(frame) != min(FRAME_BYTES, item.length - index * FRAME_BYTES):
            raise FormatError(f"object {item.digest[:16]} does not have {item.length} bytes")
        with self._lock:
            if key not in self._cache:
                self._cache[key] = frame
                self._cached_bytes += len(frame)
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return frame


def _is_wide(what: BasisOf) -> bool:
    """Whether every frame needs whole objects, of which much is kept."""
    return "transpose:" in what.reference
