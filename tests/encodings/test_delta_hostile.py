"""Stored delta frames: those of version 1 decode for ever; those of an enemy are an error within bounded memory."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.errors import CkptfmtError, FormatError
from tests import independent_delta
from tests.encodings.test_delta import updated, weights

PAGE = Path(__file__).resolve().parents[2] / "docs" / "format" / "encodings" / "delta.md"
EXAMPLES = [
    json.loads(text) for text in re.findall(r"^```json example\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
]

_REFERENCE = weights(3000)
CASES: dict[str, tuple[str, bytes, bytes]] = {
    "scaled": ("BF16", updated(_REFERENCE, 1e-3).tobytes(), _REFERENCE.tobytes()),
    "listed": ("BF16", updated(weights(9000), 1e-5).tobytes(), weights(9000).tobytes()),
    "wide": (
        "F32",
        (_REFERENCE.astype("<u4") << 16 | np.random.default_rng(1).integers(0, 1 << 12, 3000, np.uint32)).tobytes(),
        (_REFERENCE.astype("<u4") << 16).tobytes(),
    ),
    "same": ("I64", bytes(80), bytes(80)),
}


def _stored(name: str) -> tuple[str, bytes, bytes, bytes]:
    element, frame, reference = CASES[name]
    stored = DELTA.encode(frame, element, Basis(reference))
    assert stored is not None
    return element, frame, reference, bytes(stored)


def _decode(stored: bytes, length: int, element: str | None, reference: bytes) -> None:
    try:
        decoded = DELTA.decode(stored, length, element, Basis(reference))
    except CkptfmtError:
        return
    assert len(decoded) == length


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: f"{case['element']}-{case['stored'][:8]}")
def test_examples_of_the_page_decode(case: dict[str, str]) -> None:
    """They are the golden frames as well: never change one."""
    frame, stored, reference = (bytes.fromhex(case[name]) for name in ("frame", "stored", "reference"))
    assert case["encoding"] == DELTA.name
    assert bytes(DELTA.decode(stored, len(frame), case["element"], Basis(reference))) == frame
    assert independent_delta.decode_delta(stored, len(frame), case["element"], reference) == frame
    written = DELTA.encode(frame, case["element"], Basis(reference))
    assert written is not None
    assert bytes(DELTA.decode(written, len(frame), case["element"], Basis(reference))) == frame


def test_the_page_has_an_example_of_every_form() -> None:
    assert {case["stored"][:2] for case in EXAMPLES} == {"00", "01", "02"}


@pytest.mark.parametrize("name", CASES)
def test_every_truncation_and_every_longer_frame_is_refused(name: str) -> None:
    element, frame, reference, stored = _stored(name)
    for end in range(0, len(stored), max(1, len(stored) // 400)):
        with pytest.raises(FormatError):
            DELTA.decode(stored[:end], len(frame), element, Basis(reference))
    for more in (b"\0", stored, bytes(300)):
        with pytest.raises(FormatError):
            DELTA.decode(stored + more, len(frame), element, Basis(reference))


@pytest.mark.parametrize("name", CASES)
def test_every_flipped_bit_gives_an_error_or_the_declared_length(name: str) -> None:
    element, frame, reference, stored = _stored(name)
    for bit in range(min(len(stored), 150) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        _decode(bytes(damaged), len(frame), element, reference)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_reference_gives_an_error_or_the_declared_length(name: str) -> None:
    element, frame, reference, stored = _stored(name)
    for other in (bytes(len(reference)), b"\xff" * len(reference), reference[::-1]):
        _decode(stored, len(frame), element, other)
    for length in (0, 1, 2, len(frame) - 8, len(frame) + 8):
        with pytest.raises(FormatError):
            DELTA.decode(stored, length, element, Basis(reference))


@settings(deadline=None, max_examples=400)
@given(body=st.binary(max_size=200), length=st.integers(0, 300), data=st.data())
def test_noise_is_refused(body: bytes, length: int, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from([None, "BF16", "F32", "I64", "U8", "F8_E5M2", "C128"]))
    rest, bits = data.draw(st.sampled_from([(256, 4), (256, 8), (122, 4), (0, 8), (250, 8)]))
    head = data.draw(st.sampled_from([b"", b"\0", b"\2", b"\1" + struct.pack("<HBBB", rest, bits, 0, 125)]))
    reference = (b"\x80\x3c\x00\xbd" * 80)[:length]
    _decode(head + body, length, element, reference)


def _number(value: int) -> bytes:
    return struct.pack("<I", value)


def _coded(plane: bytes) -> bytes:
    stored = zstandard.ZstdCompressor().compress(plane)
    return _number(min(len(stored), len(plane))) + (stored if len(stored) < len(plane) else plane) if plane else b""


def _head(rest: int, bits: int = 8, dropped: int = 0, pivot: int = 0) -> bytes:
    return b"\1" + struct.pack("<HBBB", rest, bits, dropped, pivot)


NONE = _number(0)
SYMBOLS = bytes(range(100, 120))
NO_CHANGES = NONE + NONE
"""No gaps, no escapes."""
PAIRS = bytes(range(4)) * 4
"""Symbols of 4 bits: 20 that count, filled up to 32. The last twelve stand in upper halves."""


@pytest.mark.parametrize(
    "stored",
    [
        _head(257) + _coded(SYMBOLS) + NO_CHANGES,
        _head(256, bits=5) + _coded(SYMBOLS) + NO_CHANGES,
        _head(256, dropped=2) + _coded(SYMBOLS) * 3 + NO_CHANGES,
        _head(256) + _coded(SYMBOLS),
        _head(256) + _coded(SYMBOLS) + NONE,
        _head(256) + _coded(SYMBOLS) + NONE + _number(1),
        _head(256) + _coded(SYMBOLS) + NO_CHANGES + b"\0",
        _head(256) + _number(1 << 31) + SYMBOLS,
        _head(256) + _coded(SYMBOLS + b"a") + NO_CHANGES,
        _head(256, bits=4) + _coded(PAIRS[:10]) + NO_CHANGES,
        _head(256, bits=4) + _coded(PAIRS[:-1] + b"\x13") + NO_CHANGES,
        _head(256, pivot=1) + _coded(SYMBOLS) + bytes(2) + NO_CHANGES,
        _head(256, pivot=1) + _coded(SYMBOLS) + bytes(2) + b"\x10" + NO_CHANGES,
        _head(0) + _number(1) + _coded(b"\x14") + _coded(b"\x81") + NONE,
        _head(0) + _number(1) + _coded(b"\x13") + _coded(b"\x81") + _number(1) + b"\1\0\0\0\1" * 2,
        _head(0) + _number(1) + _coded(b"\x13") + _coded(b"\0") + NONE,
        _head(0) + _number(1) + _coded(b"\x13") + _coded(b"\x81") + _number(1 << 31),
        _head(0) + _number(1) + _coded(b"\xff"),
        _head(0) + _number(21) + _coded(b"\0" * 21) + _coded(b"\x81" * 21) + NONE,
        _head(0) + _number(1 << 31) + _coded(b"\0"),
        b"\2" + b"\1\0",
        b"\3",
        b"\0\0",
        b"",
    ],
)
def test_frames_that_bend_the_rules_are_refused(stored: bytes) -> None:
    with pytest.raises(FormatError):
        DELTA.decode(stored, 40, "BF16", Basis(bytes(40)))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (_head(256) + _coded(SYMBOLS) + NO_CHANGES, list(range(100, 120))),
        (_head(256, bits=4) + _coded(PAIRS) + NO_CHANGES, [0, 1, 2, 3] * 4 + [0] * 4),
        (_head(256, pivot=1) + _coded(SYMBOLS) + b"\1\0\x08" + NO_CHANGES, None),
        (_head(0) + _number(1) + _coded(b"\x13") + _coded(b"\x81") + NONE, [0] * 19 + [1]),
        (_head(0) + _number(1) + _coded(b"\x13") + _coded(b"\0") + _number(1) + b"\1\0\0\0\1" * 2, [0] * 19 + [257]),
        (_head(256) + _coded(SYMBOLS) + _number(1) + _coded(b"\0") + _coded(b"\x7f") + NONE, [65535, *range(101, 120)]),
    ],
)
def test_frames_of_the_same_make_that_bend_none_are_read(stored: bytes, words: list[int] | None) -> None:
    """So that the refusals above are for what they bend."""
    decoded = bytes(DELTA.decode(stored, 40, "BF16", Basis(bytes(40))))
    assert words is None or np.frombuffer(decoded, "<u2").tolist() == words
    assert independent_delta.decode_delta(stored, 40, "BF16", bytes(40)) == decoded


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("declared", [4096, FRAME_BYTES])
def test_bombs_stay_within_bounded_memory(declared: int) -> None:
    """A decoder that believes a count of 2^32, or a bomb of 2 GiB, dies of the limit on its address space."""
    script = """
import resource, struct, sys
import zstandard
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.delta import DELTA
from ckptfmt.errors import FormatError

declared = int(sys.argv[1])
compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 31)
bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(128)) + compressor.flush()
bomb = struct.pack("<I", len(bomb)) + bomb
reference = bytes(declared)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20),) * 2)
many = struct.pack("<I", 0xFFFFFFFF)
for rest, bits in ((256, 8), (256, 4), (0, 8)):
    head = struct.pack("<BHBBB", 1, rest, bits, 0, 255)
    for body in (bomb, many, many + bomb, struct.pack("<I", declared // 2) + bomb):
        try:
            DELTA.decode(head + body, declared, "BF16", Basis(reference))
        except FormatError:
            continue
        sys.exit("a bomb was decoded")
"""
    done = subprocess.run([sys.executable, "-c", script, str(declared)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
