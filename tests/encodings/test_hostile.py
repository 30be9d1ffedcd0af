"""Stored bytes as an enemy would write them: an error or the declared length, within bounded memory."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.protocol import Encoding
from ckptfmt.encodings.table import ENCODINGS, encoding_named
from ckptfmt.errors import CkptfmtError, FormatError

_GENERATOR = np.random.default_rng(5)
FRAMES: dict[str, tuple[str | None, bytes]] = {
    "planes": ("BF16", (_GENERATOR.normal(0, 0.02, 3000).astype(np.float32).view("<u4") >> 16).astype("<u2").tobytes()),
    "dropped": ("F32", (_GENERATOR.normal(0, 0.02, 999).astype(np.float32).view("<u4") >> 12 << 12).tobytes()),
    "ordered": ("I64", np.cumsum(_GENERATOR.integers(0, 9, 700)).astype("<i8").tobytes() + b"odd"),
    "zstd": (None, b"to be, or not to be: that is the question. " * 30),
}


def _stored(name: str) -> tuple[Encoding, str | None, bytes, bytes]:
    element, frame = FRAMES[name]
    encoding = encoding_named("zstd" if name == "zstd" else "planes")
    stored = encoding.encode(frame, element)
    assert stored is not None
    return encoding, element, frame, bytes(stored)


def _decode(encoding: Encoding, stored: bytes, length: int, element: str | None) -> None:
    try:
        decoded = encoding.decode(stored, length, element)
    except CkptfmtError:
        return
    assert len(decoded) == length


@pytest.mark.parametrize("name", FRAMES)
def test_every_truncation_and_every_longer_frame_is_refused(name: str) -> None:
    encoding, element, frame, stored = _stored(name)
    for end in range(len(stored)):
        with pytest.raises(FormatError):
            encoding.decode(stored[:end], len(frame), element)
    for more in (b"\0", stored, bytes(300)):
        with pytest.raises(FormatError):
            encoding.decode(stored + more, len(frame), element)


@pytest.mark.parametrize("name", FRAMES)
def test_a_wrong_length_is_refused(name: str) -> None:
    encoding, element, frame, stored = _stored(name)
    for length in {0, 1, len(frame) - 8, len(frame) - 1, len(frame) + 1, len(frame) + 8, 2 * len(frame), FRAME_BYTES}:
        with pytest.raises(FormatError):
            encoding.decode(stored, length, element)


@pytest.mark.parametrize("name", FRAMES)
def test_every_flipped_bit_gives_an_error_or_the_declared_length(name: str) -> None:
    encoding, element, frame, stored = _stored(name)
    for bit in range(min(len(stored), 400) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        _decode(encoding, bytes(damaged), len(frame), element)


@settings(deadline=None, max_examples=300)
@given(stored=st.binary(max_size=400), length=st.integers(0, FRAME_BYTES + 9), data=st.data())
def test_noise_is_refused(stored: bytes, length: int, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from([None, "BF16", "F32", "I64", "U8", "C64"]))
    head = data.draw(st.sampled_from([b"", b"\x01\x00", b"\x02\x00\x04\x01\x00", b"\x28\xb5\x2f\xfd"]))
    for encoding in ENCODINGS.values():
        _decode(encoding, head + stored, length, element)


def _zstd(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def test_zstd_frames_that_bend_the_rules_are_refused() -> None:
    data = b"x" * 1000
    streamed = zstandard.ZstdCompressor().compressobj()
    for stored in (
        _zstd(data, write_content_size=False),
        streamed.compress(data) + streamed.flush(),
        _zstd(data[:500]) + _zstd(data[500:]),
        struct.pack("<II", 0x184D2A50, 4) + b"skip" + _zstd(data),
        struct.pack("<II", 0x184D2A50, len(data)) + bytes(len(data)) + _zstd(data),
        _zstd(data + b"x"),
        _zstd(data[:-1]),
        b"",
    ):
        with pytest.raises(FormatError):
            encoding_named("zstd").decode(stored, len(data), None)


def test_pcodec_methods_that_ask_for_gigabytes_are_refused() -> None:
    encoding, element, frame, stored = _stored("ordered")
    method = 2 + len(frame) % 8 + 2
    assert stored[0] == 2
    assert stored[method] in (0x00, 0x10)
    for value in set(range(256)) - {0x00, 0x10}:
        with pytest.raises(FormatError, match="method"):
            encoding.decode(stored[:method] + bytes([value]) + stored[method + 1 :], len(frame), element)


def _planes(*planes: bytes, dropped: int = 0) -> bytes:
    return bytes((1, dropped)) + b"".join(struct.pack("<I", len(plane)) for plane in planes) + b"".join(planes)


@pytest.mark.parametrize(
    ("stored", "length", "element"),
    [
        (_planes(b"abcd", b"abcd", dropped=3), 8, "BF16"),
        (_planes(_zstd(_GENERATOR.bytes(1000))), 1000, "U8"),
        (bytes((1, 33)), 64, "F32"),
        (bytes((2, 32)), 64, "F32"),
        (bytes((0, 32)), 64, "F32"),
        (bytes((3, 32)), 64, "F32"),
        (bytes((1, 32)), FRAME_BYTES + 4, "F32"),
        (bytes((1, 32)) + b"abc", 3, "F32"),
        (bytes((1, 32)), 0, "F32"),
        (bytes((1, 32)), -4, "F32"),
        (b"", 64, "F32"),
        (b"\1", 64, "F32"),
    ],
)
def test_planes_frames_that_bend_the_rules_are_refused(stored: bytes, length: int, element: str) -> None:
    with pytest.raises(FormatError):
        encoding_named("planes").decode(stored, length, element)


def test_ordered_words_of_too_many_bits_are_refused() -> None:
    frame = np.arange(60_000, 60_300, dtype="<u2").tobytes()
    stored = bytearray(encoding_named("planes").encode(frame, "U16") or b"")
    assert stored[0] == 2
    assert bytes(encoding_named("planes").decode(bytes(stored), len(frame), "U16")) == frame
    stored[1] = 2
    with pytest.raises(FormatError, match="14 bits"):
        encoding_named("planes").decode(bytes(stored), len(frame), "U16")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("declared", [4096, FRAME_BYTES])
def test_bombs_stay_within_bounded_memory(declared: int) -> None:
    """A decoder that believes a bomb of 2 GiB, or a window of 2 GiB, dies of the limit on its address space."""
    script = """
import resource, struct, sys
import zstandard
from ckptfmt.encodings import table
from ckptfmt.errors import FormatError

declared = int(sys.argv[1])
zstd, planes = table.encoding_named("zstd"), table.encoding_named("planes")
compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 31)
bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(128)) + compressor.flush()
window = b"\\x28\\xb5\\x2f\\xfd" + bytes([0x80, 0xA8]) + struct.pack("<I", declared) + b"\\x01\\x00\\x00"
lying = b"\\x28\\xb5\\x2f\\xfd" + bytes([0x80, 0x58]) + struct.pack("<I", declared) + bomb[16:]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for stored in (bomb, window, lying):
    for encoding, head in ((zstd, b""), (planes, bytes((1, 0)) + struct.pack("<I", len(stored)))):
        try:
            encoding.decode(head + stored, declared, "U8")
        except FormatError:
            continue
        raise SystemExit("a bomb was decoded")
"""
    done = subprocess.run([sys.executable, "-c", script, str(declared)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
