"""What each kind of object becomes."""

from __future__ import annotations

import numpy as np
import pytest

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.chooser import choose
from ckptfmt.encodings.protocol import Effort
from ckptfmt.encodings.table import ENCODINGS

_GENERATOR = np.random.default_rng(1)
EFFORTS: tuple[Effort, ...] = ("fast", "balanced", "max")


def _bf16(count: int) -> bytes:
    return (_GENERATOR.normal(0, 0.02, count).astype(np.float32).view("<u4") >> 16).astype("<u2").tobytes()


WEIGHTS = _bf16(FRAME_BYTES // 2)
NOISE = _GENERATOR.bytes(FRAME_BYTES)
TEXT = b'{"content": "<|endoftext|>", "single_word": false, "special": true},\n' * (FRAME_BYTES // 70)


@pytest.mark.parametrize(
    ("head", "element", "balanced", "fast"),
    [
        (WEIGHTS, "BF16", "planes", "raw"),
        (WEIGHTS[: 1 << 20], "BF16", "planes", "raw"),
        (WEIGHTS[: 1 << 19], "BF16", "planes", "planes"),
        (WEIGHTS[:2000], "BF16", "planes", "planes"),
        (WEIGHTS[:400], "BF16", "raw", "raw"),
        (bytes(FRAME_BYTES), "F32", "planes", "planes"),
        (NOISE, "F32", "raw", "raw"),
        (NOISE, "U8", "raw", "raw"),
        (np.arange(FRAME_BYTES // 8, dtype="<i8").tobytes(), "I64", "planes", "planes"),
        (TEXT, "U8", "zstd", "zstd"),
        (NOISE, None, "raw", "raw"),
        (TEXT, None, "zstd", "zstd"),
        (TEXT[:3000], None, "zstd", "zstd"),
        (b"{}", None, "raw", "raw"),
        (b"", None, "raw", "raw"),
    ],
)
def test_choice(head: bytes, element: str | None, balanced: str, fast: str) -> None:
    assert [choose(head, element, effort).encoding for effort in EFFORTS] == [fast, balanced, balanced]


@pytest.mark.parametrize("element", ["BF16", "F32", "C64", "F8_E4M3", "I32", "BOOL", None], ids=str)
def test_every_choice_is_a_name_of_the_table(element: str | None) -> None:
    for size in (1, 511, 512, 513, 65_536, 65_537, 100_001):
        assert {choose(NOISE[:size], element, effort).encoding for effort in EFFORTS} <= set(ENCODINGS)


def test_every_float_counts_as_one() -> None:
    from ckptfmt.format.dtypes import FLOATS

    assert {"BF16", "F16", "F32", "F64", "F8_E4M3"} <= FLOATS
    assert not {"BOOL", "I32", "U8"} & FLOATS
