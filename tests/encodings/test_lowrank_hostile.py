"""Stored lowrank frames: those of version 1 decode for ever; those of an enemy are an error within bounded memory."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.errors import CkptfmtError, FormatError
from tests import independent_lowrank
from tests.encodings.merges import frames_of, source
from tests.encodings.test_lowrank import noisy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "format" / "encodings" / "lowrank.md"
EXAMPLES = [
    json.loads(text) for text in re.findall(r"^```json example\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
]


def case(name: str) -> tuple[str, bytes, Basis, bytes]:
    """Element, frame, basis and stored frame."""
    element, rule, error = {
        "groups": ("BF16", "once", 2e-2),
        "few": ("BF16", "once", 1e-4),
        "wide": ("F32", "once", 1e-7),
        "poor": ("F16", "once", 10.0),
    }[name]
    made, text = noisy(element, rule, error, 32, 512)
    (basis,) = frames_of(parse_prediction(text), made.tensors)
    stored = LOWRANK.encode(made.merged, element, basis)
    assert stored is not None
    return element, made.merged, basis, bytes(stored)


NAMES = ("groups", "few", "wide", "poor")


def _decode(stored: bytes, length: int, element: str | None, basis: Basis) -> None:
    try:
        decoded = LOWRANK.decode(stored, length, element, basis)
    except CkptfmtError:
        return
    assert len(decoded) == length


@pytest.mark.parametrize("each", EXAMPLES, ids=lambda each: f"{each['element']}-{each['stored'][:8]}")
def test_examples_of_the_page_decode(each: dict[str, Any]) -> None:
    """They are the golden frames as well: never change one."""
    frame, stored, classes = (bytes.fromhex(each[name]) for name in ("frame", "stored", "classes"))
    tensors = list(map(bytes.fromhex, each["tensors"]))
    element, begin, width = each["element"], each["begin"], len(frame) // len(classes)
    assert each["encoding"] == LOWRANK.name
    prediction = parse_prediction(each["prediction"])
    assert begin + len(frame) <= prediction.length([len(tensor) for tensor in tensors])
    basis = prediction.read([source(tensor) for tensor in tensors], begin, begin + len(frame))
    assert bytes(basis.classes or b"") == classes
    assert bytes(LOWRANK.decode(stored, len(frame), element, basis)) == frame
    words, independent = independent_lowrank.predict(each["prediction"], tensors)
    words = words[begin : begin + len(frame)]
    assert words == bytes(basis.words)
    assert independent[begin // width :][: len(classes)] == classes
    assert independent_lowrank.decode_lowrank(stored, len(frame), element, words, classes) == frame


def test_the_page_has_an_example_of_every_form() -> None:
    assert {each["stored"][:2] for each in EXAMPLES} == {"00", "01", "02"}
    assert any(each["stored"][:2] == "01" and each["stored"][2:4] != "01" for each in EXAMPLES)


def test_the_cases_are_of_every_kind() -> None:
    stored = {name: case(name)[3] for name in NAMES}
    assert [stored[name][0] for name in NAMES] == [1, 1, 1, 2]
    assert stored["groups"][1] > 1
    assert stored["few"][1] == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_and_every_longer_frame_is_refused(name: str) -> None:
    element, frame, basis, stored = case(name)
    for end in range(0, len(stored), max(1, len(stored) // 400)):
        with pytest.raises(FormatError):
            LOWRANK.decode(stored[:end], len(frame), element, basis)
    for more in (b"\0", stored, bytes(300)):
        with pytest.raises(FormatError):
            LOWRANK.decode(stored + more, len(frame), element, basis)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_gives_an_error_or_the_declared_length(name: str) -> None:
    element, frame, basis, stored = case(name)
    for bit in range(min(len(stored), 200) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        _decode(bytes(damaged), len(frame), element, basis)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_basis_gives_an_error_or_the_declared_length(name: str) -> None:
    element, frame, basis, stored = case(name)
    count = len(basis.classes or b"")
    for words in (bytes(len(frame)), b"\xff" * len(frame)):
        for classes in (None, bytes(count), b"\xff" * count, (bytes(range(256)) * count)[:count]):
            _decode(stored, len(frame), element, Basis(words, classes))
    for length in (0, 1, 2, len(frame) - 8, len(frame) + 8):
        with pytest.raises(FormatError):
            LOWRANK.decode(stored, length, element, basis)


@settings(deadline=None, max_examples=400)
@given(body=st.binary(max_size=200), length=st.integers(0, 300), data=st.data())
def test_noise_is_refused(body: bytes, length: int, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from([None, "BF16", "F32", "F16", "I64"]))
    head = data.draw(st.sampled_from([b"", b"\0", b"\1", b"\1\1", b"\1\2\0\1", b"\2", b"\2\1"]))
    width = {None: 1, "BF16": 2, "F16": 2, "F32": 4, "I64": 8}[element]
    classes = (bytes(range(0, 256, 5)) * 10)[: length // width]
    _decode(head + body, length, element, Basis((b"\x80\x3c\x00\xbd" * 80)[:length], classes))


def _number(value: int) -> bytes:
    return struct.pack("<I", value)


def _coded(plane: bytes) -> bytes:
    stored = zstandard.ZstdCompressor().compress(plane)
    return _number(min(len(stored), len(plane))) + (stored if len(stored) < len(plane) else plane) if plane else b""


NONE = _number(0)
EMPTY = NONE * 3
TABLE = _coded(bytes((0,) * 64 + (1,) * 64))
PLACE = _number(1) + _coded(b"\x13")
CHANGE = PLACE + NONE * 2
OTHER = PLACE + _number(1) + _coded(b"\0") + _coded(b"\x83") + NONE
ALL = _coded(bytes(range(100, 110))) + NONE


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\0\0",
        b"\1",
        b"\1\0",
        b"\1\x11" + EMPTY,
        b"\1\1",
        b"\1\1" + EMPTY + b"\0",
        b"\1\2\0\2" + TABLE + EMPTY * 2,
        b"\1\2\1\0" + TABLE + EMPTY + ALL,
        b"\1\2\0\0" + _coded(bytes((0,) * 64 + (2,) * 64)) + EMPTY * 2,
        b"\1\2\0\0" + _coded(bytes(127)) + EMPTY * 2,
        b"\1\2\0\0" + TABLE + EMPTY,
        b"\1\2\0\0" + TABLE + EMPTY + _number(1) + _coded(b"\x0a") + NONE * 2,
        b"\1\1" + PLACE + _number(1) + _coded(b"\1") + _coded(b"\x83") + NONE,
        b"\1\1" + PLACE + _number(2) + _coded(b"\0\0") + _coded(b"\x83\x83") + NONE,
        b"\1\2\0\1" + TABLE + EMPTY + _coded(bytes(range(100, 111))) + NONE,
        b"\1\2\0\1" + TABLE + EMPTY + _coded(bytes(10)) + NONE,
        b"\1\1" + _number(1) + _coded(b"\x14") + NONE * 2,
        b"\1\1" + _number(1) + _coded(b"\xff"),
        b"\1\1" + _number(1 << 31) + _coded(b"\0"),
        b"\1\1" + CHANGE + CHANGE,
        b"\2",
        b"\2\1",
        b"\3",
    ],
)
def test_frames_that_bend_the_rules_are_refused(stored: bytes) -> None:
    classes = bytes((0,) * 10 + (128,) * 10)
    with pytest.raises(FormatError):
        LOWRANK.decode(stored, 40, "BF16", Basis(bytes(40), classes))


def test_frames_of_the_same_make_that_bend_none_are_read() -> None:
    """So that the refusals above are for what they bend."""
    basis = Basis(bytes(40), bytes((0,) * 10 + (128,) * 9 + (129,)))
    for good, last in (
        (b"\1\1" + EMPTY, 0),
        (b"\1\1" + CHANGE, -1),
        (b"\1\1" + OTHER, -3),
        (b"\1\2\0\0" + TABLE + EMPTY * 2, 0),
        (b"\1\2\0\1" + TABLE + EMPTY + ALL, 19),
        (b"\1\2\0\0" + TABLE + EMPTY + CHANGE.replace(b"\x13", b"\x09"), -1),
        (b"\2\0", 0),
    ):
        decoded = LOWRANK.decode(good, 40, "BF16", basis)
        word = int(np.frombuffer(decoded, "<i2")[-1])
        ordered = word if word >= 0 else word ^ 0x7FFF
        assert ordered == last


def test_a_length_that_is_no_whole_number_of_elements_is_refused() -> None:
    with pytest.raises(FormatError):
        LOWRANK.decode(b"\1\1" + EMPTY, 41, "BF16", Basis(bytes(41), bytes(20)))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("declared", [4096, FRAME_BYTES])
def test_bombs_stay_within_bounded_memory(declared: int) -> None:
    """A decoder that believes a count of 2^32, or a bomb of 2 GiB, dies of the limit on its address space."""
    script = """
import resource, struct, sys
import zstandard
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.errors import FormatError

declared = int(sys.argv[1])
compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 31)
bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(128)) + compressor.flush()
bomb = struct.pack("<I", len(bomb)) + bomb
basis = Basis(bytes(declared), bytes(declared // 2))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20),) * 2)
many = struct.pack("<I", 0xFFFFFFFF)
table = struct.pack("<I", 128) + bytes(64) + bytes((1,)) * 64
heads = b"\\1\\1", b"\\1\\2\\0\\0", b"\\2\\1"
for head in (*heads, b"\\1\\2\\0\\1" + table + bytes(8), b"\\1\\2\\0\\0" + table + bytes(8)):
    for body in (bomb, many, many + bomb, struct.pack("<I", declared // 2) + bomb):
        try:
            LOWRANK.decode(head + body, declared, "BF16", basis)
        except FormatError:
            continue
        sys.exit("a bomb was decoded")
"""
    done = subprocess.run([sys.executable, "-c", script, str(declared)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_texts_that_claim_much_allocate_nothing() -> None:
    script = """
import resource
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.errors import FormatError

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for rows, rank, columns in ((10**11, 1, 10**7), (10**11, 1024, 3), (1, 1024, 16384), (10**11, 1, 1)):
    stage = f"0:product:{rows}x{rank}x{columns}:F32:F32:3f800000:once"
    prediction = parse_prediction(f"|F32:F32:{rows}x{columns}:0|{stage}")
    try:
        prediction.length([16, 16, 16])
    except FormatError:
        continue
    raise SystemExit(stage)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
