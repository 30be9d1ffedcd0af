"""`delta` gives every frame back to the bit, against any reference, and is small where it ought to be."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.bits import Widths, pack, unpack
from ckptfmt.encodings.delta import DELTA, GROUPED_FORM, SAME_FORM, XOR_FORM
from ckptfmt.encodings.groups import classes_of, parted
from ckptfmt.encodings.places import places_of, room_for
from ckptfmt.encodings.streams import Reader, read_coded, read_gaps, write_coded, write_gaps
from ckptfmt.errors import FormatError
from tests.encodings.special import ELEMENTS, frames, word_bytes
from tests.independent_delta import decode_delta

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
HALF = FRAME_BYTES // 2


def weights(count: int = HALF, seed: int = 0) -> np.ndarray:
    """bf16 words of Gaussian weights."""
    single = np.random.default_rng(seed).standard_normal(count, np.float32) * np.float32(0.02)
    return (single.view("<u4") >> 16).astype("<u2")


def updated(words: np.ndarray, rms: float, seed: int = 1) -> np.ndarray:
    """bf16 words after a Gaussian update, rounded to nearest, ties to even."""
    single = (words.astype("<u4") << 16).view(np.float32)
    update = np.random.default_rng(seed).standard_normal(len(words), np.float32) * np.float32(rms)
    bits = (single + update).view("<u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def there_and_back(frame: bytes, element: str | None, reference: bytes) -> bytes | None:
    stored = DELTA.encode(frame, element, Basis(reference))
    if stored is None:
        return None
    assert len(stored) < len(frame)
    assert bytes(DELTA.decode(bytes(stored), len(frame), element, Basis(reference))) == frame
    return bytes(stored)


@st.composite
def pairs(draw: st.DrawFn, element: str | None) -> tuple[bytes, bytes]:
    """A frame and a reference: unrelated, equal, or one made of the other by few or by small changes."""
    reference = draw(frames(element))
    kind = draw(st.sampled_from(["unrelated", "same", "few", "steps", "special", "all"]))
    if kind == "unrelated":
        other = draw(frames(element))
        short = min(len(reference), len(other))
        return other[:short], reference[:short]
    width = word_bytes(element)
    words = np.frombuffer(reference, f"<u{width}", len(reference) // width).copy()
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chosen = generator.random(len(words)) < {"few": 0.01, "steps": 0.5, "special": 0.2, "all": 1}.get(kind, 0)
    if kind == "special":
        words[chosen] = generator.choice(np.array([0, 1, 1 << (8 * width - 1), (1 << 8 * width) - 1], words.dtype))
    else:
        bound = draw(st.sampled_from([1, 3, 100, 1 << 30]))
        steps = generator.integers(-bound, bound, int(chosen.sum()), endpoint=True)
        words[chosen] += steps.astype(f"<i{width}").view(words.dtype)
    return words.tobytes() + reference[words.nbytes :], reference


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@relaxed
@given(data=st.data())
def test_every_frame_comes_back_and_never_grows(data: st.DataObject, element: str | None) -> None:
    frame, reference = data.draw(pairs(element))
    stored = there_and_back(frame, element, reference)
    if stored is not None:
        assert decode_delta(stored, len(frame), element, reference) == frame


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_one_element_and_none(element: str | None) -> None:
    width = word_bytes(element)
    for frame, reference in ((b"", b""), (b"a", b"b"), (b"a" * width, b"b" * width), (b"a" * width, b"a" * width)):
        there_and_back(frame, element, reference)


@pytest.mark.parametrize(
    ("rms", "most"), [(3e-6, 0.20), (1e-5, 0.60), (1e-4, 3.2), (1e-3, 6.8)], ids=lambda value: f"{value:g}"
)
def test_gaussian_updates_take_what_was_promised(rms: float, most: float) -> None:
    reference = weights()
    stored = there_and_back(updated(reference, rms).tobytes(), "BF16", reference.tobytes())
    assert stored is not None
    assert 8 * len(stored) / HALF <= most


def test_a_sparse_update_takes_its_entropy() -> None:
    """1 % of the weights by one step: 0.0908 bits an element at least, 176 times smaller than bf16."""
    reference = weights()
    generator = np.random.default_rng(5)
    chosen = generator.random(HALF) < 0.01
    frame = reference.copy()
    frame[chosen] += generator.choice(np.array([1, 0xFFFF], "<u2"), int(chosen.sum()))
    stored = there_and_back(frame.tobytes(), "BF16", reference.tobytes())
    assert stored is not None
    assert len(stored) * 150 <= FRAME_BYTES


def test_the_forms_are_chosen_by_size() -> None:
    reference = weights()
    same = there_and_back(reference.tobytes(), "BF16", reference.tobytes())
    assert same == bytes((SAME_FORM,))
    grouped = there_and_back(updated(reference, 1e-4).tobytes(), "BF16", reference.tobytes())
    assert grouped is not None
    assert grouped[0] == GROUPED_FORM
    flipped = reference ^ (np.random.default_rng(3).integers(0, 1 << 16, HALF).astype("<u2") & np.uint16(0x4A08))
    xor = there_and_back(flipped.tobytes(), "BF16", reference.tobytes())
    assert xor is not None
    assert xor[0] == XOR_FORM
    noise = np.random.default_rng(4).bytes(FRAME_BYTES)
    assert there_and_back(noise, "BF16", reference.tobytes()) is None


@pytest.mark.parametrize("element", ["F32", "F64", "F16", "F8_E4M3", "I32", "U8", "C64"])
def test_whole_frames_with_tails(element: str) -> None:
    width = word_bytes(element)
    generator = np.random.default_rng(8)
    dtype = {1: "<u1", 2: "<f2", 4: "<f4", 8: "<f8"}[width]
    reference = (generator.standard_normal(FRAME_BYTES // width) * (0.02 if width > 1 else 20)).astype(dtype)
    words = reference.view(f"<u{width}").copy()
    words += generator.integers(-40, 40, len(words)).astype(f"<i{width}").view(words.dtype)
    for cut in (0, 1, width + 1):
        frame, basis = words.tobytes()[: FRAME_BYTES - cut], reference.tobytes()[: FRAME_BYTES - cut]
        stored = there_and_back(frame, element, basis)
        if width > 1:
            assert stored is not None
            assert len(stored) < 7 / 8 / width * len(frame) + 1000


def test_an_export_to_fp32_takes_what_the_bf16_weights_take() -> None:
    reference = weights(HALF // 2)
    frame = updated(reference, 1e-4)
    narrow = there_and_back(frame.tobytes(), "BF16", reference.tobytes())
    wide = there_and_back((frame.astype("<u4") << 16).tobytes(), "F32", (reference.astype("<u4") << 16).tobytes())
    assert narrow is not None
    assert wide is not None
    assert len(wide) <= 1.05 * len(narrow)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    reference = weights(5000)
    frame = updated(reference, 1e-4).tobytes()
    stored = DELTA.encode(kind(frame), "BF16", Basis(kind(reference.tobytes())))
    assert stored is not None
    assert bytes(DELTA.decode(kind(bytes(stored)), len(frame), "BF16", Basis(kind(reference.tobytes())))) == frame


@pytest.mark.parametrize("tiles", [1, 2, 5])
@pytest.mark.parametrize("count", [16, 32, 100_016])
@pytest.mark.parametrize("most", [0, 1, 3, 8])
def test_bits_of_any_width_come_back(tiles: int, count: int, most: int) -> None:
    generator = np.random.default_rng(count + most)
    wanted = generator.integers(0, most, (tiles, count), np.uint8, endpoint=True)
    widths = Widths(wanted.copy())
    half = count // 2
    assert np.array_equal(widths.each[:, :half], wanted[:, :half])
    assert np.array_equal(widths.each[:, half:], np.minimum(wanted[:, half:], 8 - wanted[:, :half]))
    numbers = generator.integers(0, 256, wanted.shape, np.uint8) & ((1 << widths.each.astype("u2")) - 1).astype("u1")
    packed = np.frombuffer(pack(numbers, widths), np.uint8)
    assert len(packed) == widths.packed_bytes == int((-(-widths.each.sum(axis=1, dtype=int) // 8)).sum())
    alone = [pack(numbers[tile : tile + 1], Widths(wanted[tile : tile + 1].copy())) for tile in range(tiles)]
    assert packed.tobytes() == b"".join(alone)
    pairs, shifts = unpack(packed, widths)
    assert np.array_equal(shifts, widths.each)
    first = pairs >> shifts[:, half:]
    assert np.array_equal(first, numbers[:, :half])
    assert np.array_equal(pairs - (first << shifts[:, half:]), numbers[:, half:])
    for at, used in widths.unused:
        damaged = packed.copy()
        damaged[at] |= 1 << used
        with pytest.raises(FormatError, match="after its last number"):
            unpack(damaged, widths)


@pytest.mark.parametrize("together", [1, 2, 16])
@pytest.mark.parametrize("element", ["BF16", "F32", "F8_E4M3"])
def test_tiles_worked_on_together_are_those_worked_on_alone(
    element: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of the independent reader, which knows one at a time."""
    width = word_bytes(element)
    generator = np.random.default_rng(9)
    reference = weights(3000) if width == 2 else generator.integers(0, 255, 3000).astype(f"<u{width}") << 8 * width - 8
    words = reference + generator.integers(-9, 9, 3000).astype(f"<i{width}").view(reference.dtype)
    frame, basis = words.tobytes(), reference.tobytes()
    for tile in (64, 1024, 4096):
        monkeypatch.setattr("ckptfmt.encodings.tiles.TILE", tile)
        monkeypatch.setattr("tests.independent_delta.TILE", tile)
        monkeypatch.setattr("ckptfmt.encodings.tiles.TOGETHER", width)
        alone = DELTA.encode(frame, element, Basis(basis))
        assert alone is not None
        assert alone[0] == GROUPED_FORM
        monkeypatch.setattr("ckptfmt.encodings.tiles.TOGETHER", together * width)
        assert DELTA.encode(frame, element, Basis(basis)) == alone
        assert bytes(DELTA.decode(alone, len(frame), element, Basis(basis))) == frame
        assert decode_delta(bytes(alone), len(frame), element, basis) == frame


@pytest.mark.parametrize("share", [0, 0.001, 0.015, 0.03, 0.05, 0.08, 0.2, 1])
@pytest.mark.parametrize("count", [0, 7, 3001, 40_000])
def test_places_are_found_by_any_way(share: float, count: int) -> None:
    room = room_for(count)
    room[:count] = np.random.default_rng(count).random(count) < share
    chosen = room[:count].copy()
    assert np.array_equal(places_of(room, count), np.flatnonzero(chosen))
    assert np.array_equal(room[:count], chosen)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("rest", [1, 16, 31, 118, 255])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.06, 0.3])
def test_classes_below_a_bound_are_found(element: str | None, rest: int, share: float) -> None:
    """By comparisons of words, whose places numpy is made to find quickly."""
    width = word_bytes(element)
    generator = np.random.default_rng(rest)
    words = generator.integers(0, 1 << 63, 5000, np.uint64).astype(f"<u{width}")
    words[generator.random(5000) > share] |= words.dtype.type(((1 << 8 * width) - 1) >> 1)
    expected = classes_of(words, element) < rest
    below, places = parted(words, element, rest)
    assert np.array_equal(below, expected)
    assert np.array_equal(places, np.flatnonzero(expected))


@relaxed
@given(places=st.sets(st.integers(0, 3000)), limit=st.integers(3001, 4000))
def test_gaps_come_back(places: set[int], limit: int) -> None:
    reader = Reader(write_gaps(np.array(sorted(places), np.int64)))
    assert read_gaps(reader, limit).tolist() == sorted(places)
    reader.finish()


def test_coded_bytes_come_back() -> None:
    generator = np.random.default_rng(2)
    for plane in (b"", b"a", b"ab" * 40_000, generator.bytes(70_000), bytes(generator.integers(0, 3, 70_000, "u1"))):
        reader = Reader(write_coded(np.frombuffer(plane, np.uint8)))
        assert read_coded(reader, len(plane)).tobytes() == plane
        reader.finish()


def _digest() -> str:
    """One digest over stored and decoded bytes of frames of every kind."""
    reference = weights(300_000)
    total = hashlib.sha256()
    for rms in (3e-6, 1e-4, 1e-3):
        frame = updated(reference, rms).tobytes()
        stored = bytes(DELTA.encode(frame, "BF16", Basis(reference.tobytes())) or b"")
        decoded = bytes(DELTA.decode(stored, len(frame), "BF16", Basis(reference.tobytes())))
        assert decoded == frame
        total.update(hashlib.sha256(decoded).digest())
    return total.hexdigest()


def test_threads_decode_alike() -> None:
    reference = weights(600_000)
    cases = [updated(reference, rms, seed).tobytes() for seed, rms in enumerate((3e-6, 1e-5, 1e-4, 1e-3) * 2)]
    expected = None
    for threads in (1, 2, 4):
        with ThreadPoolExecutor(threads) as pool:
            stored = list(pool.map(lambda frame: DELTA.encode(frame, "BF16", Basis(reference.tobytes())), cases))
            again = pool.map(
                lambda each: bytes(DELTA.decode(each or b"", reference.nbytes, "BF16", Basis(reference.tobytes()))),
                stored,
            )
            assert list(again) == cases
        assert expected in (None, stored)
        expected = stored


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"},
    ],
    ids=["default", "other libraries", "numpy without AVX-512"],
)
def test_processes_with_other_settings_decode_alike(settings_: dict[str, str]) -> None:
    script = "import tests.encodings.test_delta as test; print(test._digest())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **settings_},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == _digest()


def test_lengths_must_agree() -> None:
    with pytest.raises(FormatError, match="reference"):
        DELTA.encode(b"abcd", "BF16", Basis(b"ab"))
    with pytest.raises(FormatError, match="reference"):
        DELTA.decode(b"\0", 4, "BF16", Basis(b"ab"))
    assert DELTA.encode(b"ab", "F12", Basis(b"cd")) is None
    with pytest.raises(FormatError, match="F12"):
        DELTA.decode(b"\1abc", 4, "F12", Basis(b"abcd"))
