"""The encoding `planes`: numbers as byte planes or as ordered integers. Specified in docs/format/encodings/planes.md.

A frame is stored as the smaller of two forms. *Byte planes*: each word is rotated so that its sign is its lowest bit,
then the highest bytes of all words are stored together, then the next ones; a plane that does not compress (a
mantissa) is kept as it is. This is what ZipNN does (arXiv:2411.05239). *Ordered*: words are mapped to unsigned
integers in the elements' order and coded by `pcodec` (arXiv:2502.06112), which learns how numbers are distributed
and, where neighbours are close, codes their differences. In both, low bits that are zero throughout the frame (an
fp32 export of bf16 weights) are dropped first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import zstandard
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped

from ckptfmt.digest import FRAME_BYTES, Buffer
from ckptfmt.encodings.words import (
    Kind,
    Words,
    from_ordered,
    kind_of,
    rotate,
    to_ordered,
    trailing_zeros,
    unrotate,
    word_type,
)
from ckptfmt.encodings.zstd import LEVEL, decompress_exactly
from ckptfmt.errors import FormatError
from ckptfmt.format.dtypes import BITS

PLANES_FORM: Final = 1
ORDERED_FORM: Final = 2

_HEAD_BYTES: Final = 2
_LENGTH_BYTES: Final = 4

_PLANE_SAMPLE_BYTES: Final = 32 << 10
_ORDERED_SAMPLE: Final = 16 << 10
"""Words of a frame that are tried in both forms before the slower one is tried on all of them."""
_ORDERED_MUST_SAVE: Final = 0.98

_PCODEC_LEVEL: Final = 8
_PCODEC_HEADERS: Final = (b"\x04\x00", b"\x04\x01")
"""The pcodec format versions this encoding allows: 4.0 and 4.1."""
_PCODEC_METHODS: Final = (0x00, 0x10)
"""First byte of pcodec's chunk metadata: classic mode; no differences, or consecutive ones."""


class Planes:
    """Stores floats, and integers where it pays. Elements wider than a byte gain most."""

    name = "planes"

    def encode(self, frame: Buffer, element: str | None) -> Buffer | None:
        """Encode `frame` in the smaller of both forms; None where neither is smaller than the frame.

        The second form costs twice the time of the first, so it is tried only where a sample of the frame, 16 Ki
        words from its middle, says that it saves at least 2 % of the first.
        """
        if element is not None and element not in BITS:
            return None
        kind, width = kind_of(element)
        count = len(frame) // width
        if not count:
            return None
        words = np.frombuffer(frame, word_type(width), count)
        tail = bytes(frame[count * width :])
        dropped = trailing_zeros(words)
        bits = width * 8 - dropped
        if dropped and bits:
            words = words >> dropped
        stored = None
        if bits and _ordered_pays(words, bits, kind):
            stored = _to_ordered_form(words, bits, kind)
        planes = _to_planes_form(words, bits, kind)
        head = bytes((PLANES_FORM, dropped))
        if stored is not None and len(stored) < len(planes):
            head, planes = bytes((ORDERED_FORM, dropped)), stored
        size = len(head) + len(tail) + len(planes)
        return b"".join((head, tail, planes)) if size < len(frame) else None

    def decode(self, stored: Buffer, length: int, element: str | None) -> Buffer:
        """Give back the `length` bytes of a frame. Memory: at most about five times `length`.

        Raises:
            FormatError: `stored` is no such frame, or decodes to more or fewer bytes.
        """
        kind, width = kind_of(element)
        count, spare = divmod(length, width)
        view = memoryview(stored)
        if len(view) < _HEAD_BYTES + spare or not count or length > FRAME_BYTES:
            raise FormatError(f"no planes frame of {length} bytes: {len(view)} are stored")
        form, dropped = view[0], view[1]
        if dropped > width * 8:
            raise FormatError(f"a planes frame drops {dropped} bits of {width * 8}")
        bits = width * 8 - dropped
        tail, body = view[_HEAD_BYTES : _HEAD_BYTES + spare], view[_HEAD_BYTES + spare :]
        if form == PLANES_FORM:
            words = _from_planes_form(body, count, width, bits, kind)
        elif form == ORDERED_FORM and bits and width > 1:
            words = _from_ordered_form(body, count, bits, kind).astype(word_type(width), copy=False)
        else:
            raise FormatError(f"a planes frame has the unknown form {form}")
        if dropped and bits:
            words <<= dropped
        decoded = words.view(np.uint8).data
        return b"".join((decoded, tail)) if spare else decoded


def _to_planes_form(words: Words, bits: int, kind: Kind) -> bytes:
    """The table of stored plane lengths and the planes, highest byte first."""
    if not bits:
        return b""
    width = words.dtype.itemsize
    count = -(-bits // 8)
    rotated = rotate(words, bits, kind)
    planes = []
    for shift in range(bits - 8, bits - 8 * count - 8, -8):
        # The lowest plane may hold fewer than 8 bits: they stand at its top.
        aligned = rotated << -shift if shift < 0 else rotated >> shift if shift else rotated
        planes.append(_compress_plane(aligned.astype(np.uint8) if width > 1 else aligned))
    table = np.fromiter((len(plane) for plane in planes), "<u4", count)
    return b"".join((table.tobytes(), *planes))


def _from_planes_form(body: memoryview, count: int, width: int, bits: int, kind: Kind) -> Words:
    number = -(-bits // 8)
    table = body[: number * _LENGTH_BYTES]
    lengths = [int.from_bytes(table[at : at + _LENGTH_BYTES], "little") for at in range(0, len(table), _LENGTH_BYTES)]
    begin = number * _LENGTH_BYTES
    if len(lengths) != number or begin + sum(lengths) != len(body) or max(lengths, default=0) > count:
        raise FormatError(f"a planes frame of {len(body)} bytes has the plane lengths {lengths}")
    rotated: Words = np.zeros(count, word_type(width))
    for index, length in enumerate(lengths):
        stored = body[begin : begin + length]
        begin += length
        plane: Words = np.frombuffer(stored if length == count else decompress_exactly(stored, count), np.uint8)
        shift = bits - 8 * (index + 1)
        if shift < 0:
            if int(np.bitwise_or.reduce(plane)) & ((1 << -shift) - 1):
                raise FormatError("a planes frame sets bits below its lowest")
            plane = plane >> -shift
        if width == 1:
            rotated |= plane
        else:
            wide = plane.astype(rotated.dtype)
            if shift > 0:
                wide <<= shift
            rotated |= wide
    return unrotate(rotated, bits, kind) if bits else rotated


def _compress_plane(plane: Words) -> bytes:
    """One Zstandard frame, or the plane itself where that is not shorter.

    Bytes of weights have a skewed distribution but no repeats; looking for repeats costs time and, through short
    accidental ones, size. Whether there are real ones is found out on 32 KiB from the middle.
    """
    half = (len(plane) - min(len(plane), _PLANE_SAMPLE_BYTES)) // 2
    sample = plane[half : half + _PLANE_SAMPLE_BYTES]
    entropy, repeats = _entropy_compressor(), zstandard.ZstdCompressor(level=LEVEL)
    by_entropy, by_repeats = entropy.compress(sample.data), repeats.compress(sample.data)
    chosen, stored = (entropy, by_entropy) if len(by_entropy) * 0.97 <= len(by_repeats) else (repeats, by_repeats)
    if len(sample) < len(plane):
        stored = chosen.compress(plane.data)
    return stored if len(stored) < len(plane) else plane.tobytes()


def _entropy_compressor() -> zstandard.ZstdCompressor:
    """A compressor that does little but Huffman coding: a table of 64 entries finds hardly a repeat."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=17,
        hash_log=6,
        chain_log=6,
        search_log=1,
        min_match=7,
        target_length=0,
        strategy=zstandard.STRATEGY_FAST,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _ordered_pays(words: Words, bits: int, kind: Kind) -> bool:
    if words.dtype.itemsize == 1 or wrapped.FileCompressor().write_header() not in _PCODEC_HEADERS:
        return False
    half = (len(words) - min(len(words), _ORDERED_SAMPLE)) // 2
    sample = words[half : half + _ORDERED_SAMPLE]
    return len(_to_ordered_form(sample, bits, kind)) < _ORDERED_MUST_SAVE * len(_to_planes_form(sample, bits, kind))


def _ordered_type(bits: int) -> np.dtype[Any]:
    return word_type(2 if bits <= 16 else 4 if bits <= 32 else 8)


def _to_ordered_form(words: Words, bits: int, kind: Kind) -> bytes:
    """A pcodec header, one chunk's metadata and its only page, with or without differences."""
    ordered = to_ordered(words, bits, kind).astype(_ordered_type(bits), copy=False)
    half = (len(ordered) - min(len(ordered), _ORDERED_SAMPLE)) // 2
    sample = ordered[half : half + _ORDERED_SAMPLE]
    plain, differences = DeltaSpec.no_op(), DeltaSpec.try_consecutive(1)
    by_plain, by_differences = _pcodec(sample, plain), _pcodec(sample, differences)
    chosen, stored = (plain, by_plain) if len(by_plain) <= len(by_differences) else (differences, by_differences)
    return stored if len(sample) == len(ordered) else _pcodec(ordered, chosen)


def _pcodec(ordered: Words, differences: DeltaSpec) -> bytes:
    config = ChunkConfig(
        compression_level=_PCODEC_LEVEL,
        mode_spec=ModeSpec.classic(),
        delta_spec=differences,
        paging_spec=PagingSpec.equal_pages_up_to(len(ordered)),
    )
    file = wrapped.FileCompressor()
    chunk = file.chunk_compressor(ordered, config)
    return b"".join((file.write_header(), chunk.write_meta(), chunk.write_page(0)))


def _from_ordered_form(body: memoryview, count: int, bits: int, kind: Kind) -> Words:
    header = bytes(body[:2])
    # pcodec's other methods may ask for gigabytes (a window of 2^32 words), which no caller can bound.
    if header not in _PCODEC_HEADERS or len(body) <= 2 or body[2] not in _PCODEC_METHODS:
        raise FormatError(f"a planes frame has the unknown pcodec method {bytes(body[:3]).hex()}")
    dtype = _ordered_type(bits)
    ordered: Words = np.empty(count, dtype)
    try:
        file, _ = wrapped.FileDecompressor.new(header)
        rest = bytes(body[2:])
        chunk, taken = file.chunk_decompressor(rest, f"u{dtype.itemsize * 8}")
        page = rest[taken:]
        progress, read = chunk.read_page_into(page, count, ordered)
    except (RuntimeError, TypeError, ValueError) as error:
        raise FormatError(f"a planes frame is damaged: {error}") from None
    if not progress.finished or progress.n_processed != count or read != len(page):
        raise FormatError(f"a planes frame does not hold {count} words")
    if bits < dtype.itemsize * 8 and int(np.bitwise_or.reduce(ordered)) >> bits:
        raise FormatError(f"a planes frame holds words of more than {bits} bits")
    return from_ordered(ordered, bits, kind)


PLANES: Final = Planes()
