"""Frames stored by version 1 of the format. They must decode for ever: never change one."""

from __future__ import annotations

import struct

import pytest

from ckptfmt.encodings.table import encoding_named

SPECIAL = bytes.fromhex("0000803f0000c0ff0100c07f00000080010000000000807f") * 2
"""fp32: 1.0, a NaN, a NaN with a payload, -0.0, the smallest subnormal, infinity."""
WEIGHTS = b"".join(struct.pack("<H", 0x3F80 | i * 29 % 128 | (0x8000 if i % 5 == 0 else 0)) for i in range(48))

GOLDEN: dict[str, tuple[str, str | None, bytes, str]] = {
    "raw": ("raw", "BF16", b"\x80\x3f\x80\xbf", "803f80bf"),
    "zstd": ("zstd", None, b'{"a":0}' * 8, "28b52ffd20386d0000387b2261223a307d01002a2a46"),
    "planes, exponents compressed, mantissas kept": (
        "planes",
        "BF16",
        WEIGHTS,
        "0100110000003000000028b52ffd2030450000107f7f01009b000b013a74aee8235c96d00a457eb8f22c67a0da144e89c2fc3670abe4"
        "1e5892cd06407ab4ef28629cd6114a84bef8336ca6",
    ),
    "planes, every plane kept": (
        "planes",
        "F32",
        SPECIAL,
        "01000c0000000c0000000c0000000c0000007fffff0000ff7fffff0000ff008080000000008080000000000000000000000000000000"
        "000102010200000102010200",
    ),
    "planes, 20 bits dropped, tail of 2": (
        "planes",
        "F32",
        struct.pack("<4f", 1.0, -2.5, 3.25, -0.0) * 6 + b"ab",
        "01146162130000001300000028b52ffd2018550000207f8080000100d38e0828b52ffd2018550000200050a0100100d38e08",
    ),
    "planes of complex numbers, 21 bits dropped": (
        "planes",
        "C64",
        struct.pack("<2f", 1.5, -2.5) * 8,
        "011510000000100000007f807f807f807f807f807f807f807f8080608060806080608060806080608060",
    ),
    "planes of signed integers": (
        "planes",
        "I32",
        struct.pack("<5i", -1, 1, 0, 2, -2) * 5,
        "01001100000011000000110000001400000028b52ffd2019450000100000010035c00228b52ffd2019450000100000010035c00228b5"
        "2ffd2019450000100000010035c00228b52ffd20195d00002801020004030100a08b16",
    ),
    "planes of zeros, tail of 1": ("planes", "F32", bytes(33), "012000"),
    "planes of bytes": (
        "planes",
        "U8",
        bytes([16, 32, 48, 64] * 12),
        "01041300000028b52ffd2030550000201020304001006d3a22",
    ),
    "ordered, differences, tail of 3": (
        "planes",
        "I64",
        struct.pack("<10q", *range(20, 30)) + b"abc",
        "02006162630401001000a00000000000000024001032547698",
    ),
    "ordered, differences, negative integers": (
        "planes",
        "I32",
        struct.pack("<30i", *range(-5, 25)),
        "02000401100101800000004000fbffff7f",
    ),
    "ordered, no differences": (
        "planes",
        "I16",
        struct.pack("<5h", -1, 1, 0, 2, -2) * 10,
        "0200040100260090fdff0423000800cc71cb575fee0db4b4b4b4b4b4b4b4b4b400",
    ),
    "ordered, NaNs and infinities": (
        "planes",
        "F32",
        SPECIAL,
        "0200040100540088ffff1f0080feffffff04010000fc05040000f01f900000e07f000847aede042002",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_frames_decode(name: str) -> None:
    encoding, element, frame, stored = GOLDEN[name]
    assert bytes(encoding_named(encoding).decode(bytes.fromhex(stored), len(frame), element)) == frame
