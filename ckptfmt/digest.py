"""The three hashes and their roles: BLAKE3-256 identifies, XXH3-128 checks stored bytes, SHA-256 speaks to the Hub."""

from __future__ import annotations

import re
from typing import Final

import blake3 as _blake3
import xxhash as _xxhash

Buffer = bytes | bytearray | memoryview

DIGEST_HEX: Final = 64
CHECKSUM_HEX: Final = 32
FRAME_BYTES: Final = 4 << 20
"""Decoded bytes a frame, but for an object's last one."""

EMPTY_DIGEST: Final = _blake3.blake3(b"").hexdigest()

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest as this project writes them: 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: Buffer) -> str:
    """BLAKE3-256 of `data`: the identity of an object or document, 64 hex digits."""
    return _blake3.blake3(data).hexdigest()


def checksum_of(data: Buffer) -> str:
    """XXH3-128 of stored `data`, 32 hex digits. It finds damage and nominates; it never identifies."""
    return _xxhash.xxh3_128_hexdigest(data)


def frame_count(length: int) -> int:
    """Number of frames of an object of `length` decoded bytes; an empty object has none."""
    return -(-length // FRAME_BYTES)
