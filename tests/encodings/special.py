"""Frames that break careless encodings, for every element type."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ckptfmt.format.dtypes import BITS

ELEMENTS = (None, *BITS)

_PATTERNS = {
    2: (0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 0x0001, 0x8001, 0x7C00, 0x7C01, 0xFE00, 0xFFFF),
    4: (0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 1, 0x80000001, 0x007FFFFF, 0xFFFFFFFF),
    8: (0, 1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, (0xFFF8 << 48) + 5, 1, (1 << 63) + 1),
}
"""Zeros, infinities, quiet and signalling NaNs with payloads, the smallest subnormals: by width in bytes."""


def word_bytes(element: str | None) -> int:
    """Bytes of the word that an element's bits are taken in."""
    if element in ("C64", "C128"):
        return {"C64": 4, "C128": 8}[element]
    return max(BITS[element] // 8, 1) if element else 1


@st.composite
def frames(draw: st.DrawFn, element: str | None) -> bytes:
    """Bytes of some distribution and of any length, odd tails included."""
    width = word_bytes(element)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.sampled_from([0, 1, 2, 3, 7, 8, 255, 256, 257, 1000, 5000, 20000]))
    kind = draw(st.sampled_from(["gauss", "special", "bytes", "constant", "zeros", "arange", "coarse", "few", "mixed"]))
    if width == 1 or kind == "bytes":
        limit = draw(st.sampled_from([1, 2, 16, 256]))
        words = generator.integers(0, limit, count * width, dtype=np.uint8)
    elif kind in ("gauss", "coarse", "mixed"):
        single = generator.normal(0, 0.02, count).astype(np.float32)
        words = {
            2: (single.view(np.uint32) >> 16).astype(np.uint16),
            4: single.view(np.uint32),
            8: single.astype(np.float64).view(np.uint64),
        }[width]
        if kind == "coarse":
            words = words >> (4 * width - 1) << (4 * width - 1)
        if kind == "mixed" and count:
            places = generator.integers(0, count, max(count // 10, 1))
            words[places] = generator.choice(np.array(_PATTERNS[width], words.dtype), len(places))
    elif kind == "special":
        words = generator.choice(np.array(_PATTERNS[width], f"<u{width}"), count)
    elif kind == "arange":
        words = np.arange(count, dtype=np.uint64).astype(f"<u{width}")
    elif kind == "few":
        words = generator.integers(-3, 3, count).astype(f"<i{width}").view(f"<u{width}")
    else:
        words = np.full(count, 0 if kind == "zeros" else 0x3F80, f"<u{width}")
    tail = draw(st.binary(max_size=2 * width))
    return words.tobytes() + tail
