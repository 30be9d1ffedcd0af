"""One flipped bit, found again: whatever was hashed or sealed tells when the right one was turned back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ckptfmt.digest import CHECKSUM_HEX, checksum_of, digest_of
from ckptfmt.format.safetensors import LENGTH_BYTES

_WORK_BYTES: Final = 40_000_000_000
"""So much is hashed at most: about ten seconds. Every bit of 70 kB, each by hashing 70 kB."""
_SEAL_END: Final = 3


def by_digest(data: bytes, digest: str) -> bytes | None:
    """The bytes that have this digest and differ from `data` in one bit; None where there are none, or too many."""
    return _search(data, range(len(data)), lambda each: digest_of(each) == digest)


def by_seal(data: bytes) -> bytes | None:
    """The sealed document that `data` is but for one bit."""

    def is_sealed(each: bytearray) -> bool:
        end = len(each) - _SEAL_END
        body, seal = each[: end - CHECKSUM_HEX] + each[end:], each[end - CHECKSUM_HEX : end]
        return checksum_of(body).encode() == seal

    return _search(data, range(len(data)), is_sealed) if len(data) > CHECKSUM_HEX + _SEAL_END else None


def header_length_of(prefix: bytes, read: Callable[[int], bytes], digest: str) -> int | None:
    """The header's length that a shard's first eight bytes told before a bit of them flipped.

    Args:
        prefix: the eight bytes.
        read: gives a header of that many bytes.
        digest: of the header.
    """
    for position in range(8 * LENGTH_BYTES):
        length = int.from_bytes(prefix, "little") ^ (1 << position)
        header = read(length) if 0 < length <= 100_000_000 else b""
        if len(header) == length and digest_of(header) == digest:
            return length
    return None


def _search(data: bytes, places: range, found: Callable[[bytearray], bool]) -> bytes | None:
    if 8 * len(places) * len(data) > _WORK_BYTES:
        return None
    each = bytearray(data)
    for place, bit in _bits(places):
        each[place] ^= bit
        if found(each):
            return bytes(each)
        each[place] ^= bit
    return None


def _bits(places: range) -> Iterator[tuple[int, int]]:
    for place in places:
        for bit in range(8):
            yield place, 1 << bit
