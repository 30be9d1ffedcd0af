"""Objects that lie outside the store, as they are asked for here, and the proof that they are what was recorded."""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

import blake3

from ckptfmt.digest import FRAME_BYTES, Buffer, checksum_of
from ckptfmt.errors import DigestMismatch


class Called(NamedTuple):
    """A place outside the store, as errors tell of it.

    Attributes:
        name: what it is called.
        check: what to do where its bytes are not what was recorded.
    """

    name: str
    check: str


class OutsideObjects(Protocol):
    """Objects that lie outside the store: the files of a referenced base."""

    def called(self, digest: str) -> Called:
        """How errors tell of the place where an object lies."""
        ...

    def has(self, digest: str) -> bool:
        """Tell whether the object is recorded there."""
        ...

    def length(self, digest: str) -> int:
        """Decoded bytes of an object that is recorded there."""
        ...

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A range of the object, as it is there now.

        Raises:
            CkptfmtError: it cannot be read.
        """
        ...


class ProvenFrames:
    """Frames of objects that lie outside the store, each proven to be of the object before it is given.

    The first time an object is asked for, all of it is read, its digest compared, and the checksum of each frame kept.
    """

    def __init__(self, outside: OutsideObjects) -> None:
        self._outside = outside
        self._lock = threading.Lock()
        self._sums: dict[str, list[str]] = {}

    def frame(self, digest: str, index: int) -> Buffer:
        """Frame `index` of an object.

        Raises:
            DigestMismatch: what lies there is not the object.
            CkptfmtError: it cannot be read.
        """
        length = self._outside.length(digest)
        if index * FRAME_BYTES >= length:
            raise differing(self._outside, digest)
        with self._lock:
            if digest not in self._sums:
                self._sums[digest] = self._prove(digest, length)
        data = self._read(digest, length, index)
        if checksum_of(data) != self._sums[digest][index]:
            raise differing(self._outside, digest)
        return data

    def _prove(self, digest: str, length: int) -> list[str]:
        content, sums = blake3.blake3(), []
        for index in range(-(-length // FRAME_BYTES)):
            data = self._read(digest, length, index)
            content.update(data)
            sums.append(checksum_of(data))
        if content.hexdigest() != digest:
            raise differing(self._outside, digest)
        return sums

    def _read(self, digest: str, length: int, index: int) -> bytes:
        begin = index * FRAME_BYTES
        return self._outside.read(digest, begin, min(FRAME_BYTES, length - begin))


def differing(outside: OutsideObjects, digest: str) -> DigestMismatch:
    """The error that an object outside the store is not what was recorded."""
    name, check = outside.called(digest)
    return DigestMismatch(
        f"object {digest[:16]}: the copy in {name} is not what was recorded", digest=digest, hint=check
    )
