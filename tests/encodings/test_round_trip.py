"""What is encoded comes back to the bit, whatever it holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.protocol import Encoding
from ckptfmt.encodings.table import ENCODINGS, encoding_named
from ckptfmt.encodings.words import from_ordered, kind_of, rotate, to_ordered, trailing_zeros, unrotate, word_type
from ckptfmt.errors import FormatError
from tests.encodings.special import ELEMENTS, frames

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)


@pytest.fixture(params=ENCODINGS.values(), ids=lambda encoding: encoding.name)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    return request.param


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@relaxed
@given(data=st.data())
def test_every_frame_comes_back_and_never_grows(data: st.DataObject, element: str | None) -> None:
    frame = data.draw(frames(element))
    for encoding in ENCODINGS.values():
        if not frame:
            continue
        stored = encoding.encode(frame, element)
        if stored is not None:
            assert len(stored) < len(frame)
            assert bytes(encoding.decode(bytes(stored), len(frame), element)) == frame


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(encoding: Encoding, kind: type) -> None:
    frame = np.arange(3000, dtype="<u4").tobytes()
    stored = encoding.encode(kind(frame), "I32")
    assert stored == encoding.encode(frame, "I32")
    if stored is not None:
        assert bytes(encoding.decode(kind(bytes(stored)), len(frame), "I32")) == frame


@pytest.mark.parametrize("element", ["BF16", "F32", "F64", "I64", "C128", None], ids=str)
def test_whole_frames_and_frames_with_a_tail(element: str | None) -> None:
    generator = np.random.default_rng(7)
    whole = generator.normal(0, 0.02, FRAME_BYTES // 8).astype(np.float64).tobytes()
    for frame in (whole, whole[:-1], whole[: FRAME_BYTES // 2 + 3]):
        stored = encoding_named("planes").encode(frame, element)
        assert stored is not None
        assert bytes(encoding_named("planes").decode(stored, len(frame), element)) == frame


def test_equal_frames_have_equal_bytes(encoding: Encoding) -> None:
    generator = np.random.default_rng(3)
    for element, frame in {
        "F32": generator.normal(0, 0.02, 300_000).astype(np.float32).tobytes(),
        "I64": np.arange(100_000, dtype="<i8").tobytes(),
        None: b"a line of a log\n" * 5000,
    }.items():
        stored = {bytes(encoding.encode(frame, element) or b"") for _ in range(5)}
        assert len(stored) == 1


@pytest.mark.parametrize("element", ["BF16", "F32", "F64", "I16", "I64", "U32"])
def test_maps_are_bijections_that_keep_the_order(element: str) -> None:
    kind, width = kind_of(element)
    generator = np.random.default_rng(11)
    for bits in {8 * width, 8 * width - 7, 9, 1}:
        words = generator.integers(0, 1 << bits, 4000, dtype=np.uint64, endpoint=False).astype(word_type(width))
        assert np.array_equal(unrotate(rotate(words, bits, kind), bits, kind), words)
        assert np.array_equal(from_ordered(to_ordered(words, bits, kind), bits, kind), words)
        for mapped in (rotate(words, bits, kind), to_ordered(words, bits, kind)):
            assert int(mapped.max()) < 1 << bits
    if element == "F32":
        values = np.sort(generator.normal(size=1000).astype(np.float32))
        assert np.all(np.diff(to_ordered(values.view("<u4"), 32, kind).astype(np.int64)) >= 0)


@pytest.mark.parametrize(("words", "zeros"), [([0, 0], 16), ([4, 8], 2), ([1], 0), ([0] * 2000 + [1 << 15], 15)])
def test_trailing_zeros(words: list[int], zeros: int) -> None:
    assert trailing_zeros(np.array(words, "<u2")) == zeros


def test_an_unknown_encoding_or_element_is_named() -> None:
    with pytest.raises(FormatError, match=r"'delta9'.*raw, zstd, planes"):
        encoding_named("delta9")
    with pytest.raises(FormatError, match="'F12'"):
        encoding_named("planes").decode(b"\x01\x00\x00", 2, "F12")
    assert encoding_named("planes").encode(bytes(5000), "F12") is None
