"""Element types by the names that safetensors gives them, with their width.

Source: the `Dtype` enumeration of safetensors (`safetensors/src/tensor.rs`). `C128` is ours: torch has it,
safetensors does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

BITS: Final[dict[str, int]] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C128": 128,
}
"""Bits an element takes, by dtype name."""

FLOATS: Final = frozenset(name for name in BITS if name.startswith(("F", "BF")))


def size_bytes(dtype: str, shape: Sequence[int]) -> int | None:
    """Bytes a dense tensor takes; None where the bits do not fill whole bytes.

    Raises:
        KeyError: `dtype` is not in `BITS`.
    """
    bits = BITS[dtype] * math.prod(shape)
    return None if bits % 8 else bits // 8
