"""The encoding `zstd`: one Zstandard frame for each frame. Specified in docs/format/encodings/zstd.md.

Source: RFC 8878, Zstandard Compression and the 'application/zstd' Media Type.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.errors import FormatError

LEVEL: Final = 3
MAGIC: Final = b"\x28\xb5\x2f\xfd"


class Zstd:
    """Stores what is not numbers: skeletons, tokenizers, logs."""

    name = "zstd"

    def encode(self, frame: Buffer, element: str | None) -> Buffer | None:
        """Encode `frame` as one Zstandard frame that states its content size; None where that is not smaller."""
        stored = zstandard.ZstdCompressor(level=LEVEL).compress(frame)
        return stored if len(stored) < len(frame) else None

    def decode(self, stored: Buffer, length: int, element: str | None) -> Buffer:
        """Give back the `length` bytes of a frame.

        Raises:
            FormatError: `stored` is not one Zstandard frame of exactly `length` bytes.
        """
        return decompress_exactly(stored, length)


def decompress_exactly(stored: Buffer, length: int) -> bytes:
    """Decompress one Zstandard frame of exactly `length` bytes.

    Allocates `length` bytes and the decoder's own fixed state: the stated content size is compared before anything
    is allocated, and a window that large is never buffered, for the output itself serves as the window.

    Raises:
        FormatError: `stored` is not one Zstandard frame, with nothing after it, that states and holds `length` bytes.
    """
    if not 0 < length <= FRAME_BYTES or bytes(stored[:4]) != MAGIC:
        raise FormatError(f"no Zstandard frame of {length} bytes")
    try:
        stated = zstandard.get_frame_parameters(stored)
        if stated.content_size != length or stated.dict_id:
            raise FormatError(f"a Zstandard frame states {stated.content_size} bytes where {length} are expected")
        decoded: bytes = _decompressor().decompress(stored, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"a Zstandard frame is damaged: {error}") from None
    if len(decoded) != length:
        raise FormatError(f"a Zstandard frame holds {len(decoded)} bytes where {length} are expected")
    return decoded


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's: making one takes longer than decompressing some kilobytes."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_OF_THREAD, "decompressor", None)
    if decompressor is None:
        decompressor = _OF_THREAD.decompressor = zstandard.ZstdDecompressor()
    return decompressor


_OF_THREAD: Final = threading.local()

ZSTD: Final = Zstd()
