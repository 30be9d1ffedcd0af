"""Byte streams inside a stored frame: coded bytes, symbols with escapes, and gaps between places.

Nothing here knows what the numbers mean. Readers are strict: what is declared is compared with what the caller
expects before anything is allocated, so memory is bounded by the caller's counts. Specified in
docs/format/encodings/delta.md.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import zstandard

from ckptfmt.digest import Buffer
from ckptfmt.encodings.words import Words
from ckptfmt.encodings.zstd import LEVEL, decompress_exactly
from ckptfmt.errors import FormatError

LENGTH_BYTES: Final = 4
GAP_MORE: Final = 255
"""A gap byte that adds 255 and ends no gap."""

_OFFSET: Final = 128
_SAMPLE_BYTES: Final = 16 << 10
_REPEATS_MUST_SAVE: Final = 0.95


class Reader:
    """Takes a stored frame apart from front to back.

    Raises:
        FormatError: by every method, where fewer bytes are left than asked for.
    """

    def __init__(self, stored: Buffer) -> None:
        self._view = memoryview(stored)
        self._position = 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self._position + count
        if count < 0 or end > len(self._view):
            raise FormatError(f"a delta frame ends after {len(self._view)} bytes, {end} are needed")
        taken = self._view[self._position : end]
        self._position = end
        return taken

    def number(self) -> int:
        """The next four bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(LENGTH_BYTES), "little")

    def plane(self, count: int) -> Words:
        """The next `count` bytes as an array."""
        return np.frombuffer(self.take(count), np.uint8)

    def finish(self) -> None:
        """Make sure that nothing is left."""
        if self._position != len(self._view):
            raise FormatError(f"a delta frame has {len(self._view) - self._position} bytes after its end")


def number(value: int) -> bytes:
    """`value` as four bytes, little-endian."""
    return value.to_bytes(LENGTH_BYTES, "little")


def write_coded(plane: Words) -> bytes:
    """A length and `plane` as one Zstandard frame, or as it is where that is not shorter; nothing for nothing.

    Such bytes have a skewed distribution and seldom repeats, so a compressor that does little but Huffman coding is
    chosen, unless Zstandard's level 3 saves 5 % more on the first 16 KiB.
    """
    if not len(plane):
        return b""
    sample = plane[:_SAMPLE_BYTES]
    compressor = _entropy_compressor()
    stored = compressor.compress(sample.data)
    repeats = zstandard.ZstdCompressor(level=LEVEL)
    by_repeats = repeats.compress(sample.data)
    if len(by_repeats) < _REPEATS_MUST_SAVE * len(stored):
        compressor, stored = repeats, by_repeats
    if len(sample) < len(plane):
        stored = compressor.compress(plane.data)
    if len(stored) >= len(plane):
        stored = plane.tobytes()
    return number(len(stored)) + stored


def read_coded(reader: Reader, count: int) -> Words:
    """The `count` bytes that `write_coded` wrote.

    Raises:
        FormatError: they are damaged, or not as many.
    """
    if not count:
        return np.empty(0, np.uint8)
    length = reader.number()
    stored = reader.take(length)
    if length > count:
        raise FormatError(f"a delta frame stores {count} bytes in {length}")
    return np.frombuffer(stored if length == count else decompress_exactly(stored, count), np.uint8)


def to_symbols(numbers: Words) -> tuple[Words, Words]:
    """Numbers as symbols of a byte, and the numbers that do not fit.

    A number x with |x| < 128 becomes x + 128; the others become 0 and follow as escapes.

    Args:
        numbers: signed words of 16 bits or more; they are used up.

    Returns:
        One byte a number, and the escapes in their order, in the dtype of `numbers`.
    """
    one = numbers.dtype.type(1)
    numbers += numbers.dtype.type(_OFFSET - 1)
    unsigned = numbers.view(f"u{numbers.dtype.itemsize}")
    places = np.flatnonzero(unsigned > 2 * _OFFSET - 2)
    numbers += one
    escapes: Words = numbers[places] - numbers.dtype.type(_OFFSET)
    symbols = numbers.astype(np.uint8)
    symbols[places] = 0
    return symbols, escapes


def write_symbols(symbols: Words, escapes: Words) -> bytes:
    """Store symbols, and escapes by the planes of their bytes."""
    planes = escapes.view(np.uint8).reshape(len(escapes), escapes.dtype.itemsize).T
    parts = [write_coded(symbols), number(len(escapes))]
    parts += [write_coded(np.ascontiguousarray(plane)) for plane in planes]
    return b"".join(parts)


def read_symbols(reader: Reader, count: int, dtype: np.dtype[Any]) -> Words:
    """Read `count` numbers, signed words of type `dtype`.

    Raises:
        FormatError: damaged, or there are not as many escapes as symbols that stand for one.
    """
    symbols = read_coded(reader, count)
    escaped = reader.number()
    if escaped > count:
        raise FormatError(f"a delta frame has {escaped} escapes for {count} symbols")
    planes = np.empty((escaped, dtype.itemsize), np.uint8)
    for index in range(dtype.itemsize):
        planes[:, index] = read_coded(reader, escaped)
    places = np.flatnonzero(symbols == 0)
    if len(places) != escaped:
        raise FormatError(f"a delta frame has {escaped} escapes, which do not fit its symbols")
    numbers: Words = symbols.astype(dtype)
    numbers -= dtype.type(_OFFSET)
    numbers[places] = planes.reshape(-1).view(dtype)
    return numbers


def write_gaps(places: Words) -> bytes:
    """Store ascending places by what lies between them: a byte a gap, after as many 255 as fit into it."""
    gaps = np.diff(places, prepend=-1) - 1
    more, last = np.divmod(gaps, GAP_MORE)
    ends = np.cumsum(more + 1) - 1
    stream = np.full(int(ends[-1]) + 1 if len(ends) else 0, GAP_MORE, np.uint8)
    stream[ends] = last
    return number(len(stream)) + write_coded(stream)


def read_gaps(reader: Reader, limit: int) -> Words:
    """Ascending places below `limit`, as 64-bit integers.

    Raises:
        FormatError: damaged, or a place beyond `limit`.
    """
    length = reader.number()
    if length > limit:
        raise FormatError(f"a delta frame has {length} gaps among {limit} elements")
    stream = read_coded(reader, length)
    places: Words = np.cumsum(stream, dtype=np.int64)
    if int(stream.max(initial=0)) == GAP_MORE:
        places = places.take(np.flatnonzero(stream != GAP_MORE))
    places += np.arange(len(places))
    if length and (stream[-1] == GAP_MORE or places[-1] >= limit):
        raise FormatError(f"a delta frame has a gap that leads beyond its {limit} elements")
    return places


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
