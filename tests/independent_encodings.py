"""Decodes `zstd` and `planes` by the specification alone (docs/format/encodings/): nothing of ckptfmt is used."""

from __future__ import annotations

import numpy as np
import zstandard
from pcodec import wrapped


class DamagedError(Exception):
    """What was read is not what the specification says it must be."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise DamagedError(message)


def decode_zstd(data: bytes, length: int, element: str | None) -> bytes:
    """encodings/zstd.md."""
    require(zstandard.frame_content_size(data) == length, "zstd: wrong content size")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=length, allow_extra_data=False)


def decode_planes(data: bytes, length: int, element: str | None) -> bytes:
    """encodings/planes.md, followed step by step in unsigned 64-bit integers."""
    kind, width = word_of(element)
    count, spare = divmod(length, width)
    form, dropped, tail, body = data[0], data[1], data[2 : 2 + spare], data[2 + spare :]
    bits = 8 * width - dropped
    mask = np.uint64((1 << bits) - 1)
    one, last = np.uint64(1), np.uint64(max(bits - 1, 0))
    if form == 1:
        number = -(-bits // 8)
        value = np.zeros(count, np.uint64)
        lengths = np.frombuffer(body[: 4 * number], "<u4").tolist()
        position = 4 * number
        for size in lengths:
            plane = body[position : position + size]
            position += size
            plane = plane if size == count else decode_zstd(plane, count, None)
            value = value << np.uint64(8) | np.frombuffer(plane, np.uint8).astype(np.uint64)
        require(position == len(body), "planes: trailing bytes")
        value >>= np.uint64(8 * number - bits)
        if kind != "unsigned" and bits:
            sign = value & one
            if kind == "signed":
                value = value ^ np.where(sign == one, mask ^ one, np.uint64(0))
            value = (value >> one | sign << last) & mask
    else:
        require(
            form == 2 and body[:2] in (b"\x04\x00", b"\x04\x01") and body[2] in (0x00, 0x10), "planes: unknown form"
        )
        size = 16 if bits <= 16 else 32 if bits <= 32 else 64
        numbers = np.empty(count, f"<u{size // 8}")
        file, _ = wrapped.FileDecompressor.new(body[:2])
        chunk, taken = file.chunk_decompressor(body[2:], f"u{size}")
        progress, read = chunk.read_page_into(body[2 + taken :], count, numbers)
        require(progress.finished and 2 + taken + read == len(body), "planes: damaged pcodec page")
        value = numbers.astype(np.uint64)
        top = one << last
        if kind == "signed":
            value = value ^ top
        elif kind == "float":
            value = np.where(value & top, value ^ top, value ^ mask)
    words = value << np.uint64(dropped) if bits else value
    return words.astype(f"<u{width}").tobytes() + tail


def word_of(element: str | None) -> tuple[str, int]:
    """encodings/planes.md, "Words"."""
    if element in ("F16", "BF16", "F32", "F64", "C64", "C128"):
        return "float", {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 4, "C128": 8}[element]
    if element in ("I16", "I32", "I64", "U16", "U32", "U64"):
        return "signed" if element[0] == "I" else "unsigned", int(element[1:]) // 8
    return "unsigned", 1
