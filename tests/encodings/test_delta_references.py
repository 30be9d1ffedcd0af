"""References: casts against torch, shapes against numpy, names against themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfmt.encodings.references import (
    Cast,
    Fuse,
    Reference,
    Slice,
    Source,
    Step,
    parse_reference,
    parse_step,
)
from ckptfmt.encodings.transposing import Transpose
from ckptfmt.errors import FormatError

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
CASTS = [(a, b) for a in DTYPES for b in DTYPES if a != b]


def source_of(data: bytes) -> Source:
    return lambda begin, end: data[begin:end]


def applied(step: Step, data: bytes) -> bytes:
    return bytes(step.read(source_of(data), 0, step.length(len(data))))


def words_of(element: str) -> np.ndarray:
    """All words of 16 bits; of 32, those round every rounding border and a large sample."""
    if element != "F32":
        return np.arange(1 << 16, dtype="<u2")
    high = np.arange(1 << 16, dtype="<u4") << 16
    low = (0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xEFFF, 0xF000, 0xFFFF)
    sample = np.random.default_rng(0).integers(0, 1 << 32, 3_000_000, dtype=np.uint64).astype("<u4")
    return np.concatenate([*(high | each for each in low), sample])


def tensor_of(words: np.ndarray, element: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(words.tobytes()), dtype=DTYPES[element])


@pytest.mark.parametrize(("of", "to"), CASTS)
def test_casts_are_those_of_torch(of: str, to: str) -> None:
    words = words_of(of)
    result = np.frombuffer(applied(Cast(of, to), words.tobytes()), "<u4" if to == "F32" else "<u2")
    given = tensor_of(words, of)
    expected = given.to(DTYPES[to]).view(torch.uint8).numpy().view(result.dtype)
    is_nan = given.isnan().numpy()
    assert np.array_equal(result[~is_nan], expected[~is_nan])
    assert tensor_of(result, to).isnan().numpy()[is_nan].all()


@pytest.mark.parametrize("element", ["BF16", "F16"])
def test_every_number_comes_back_from_f32(element: str) -> None:
    words = words_of(element)
    back = np.frombuffer(applied(Cast("F32", element), applied(Cast(element, "F32"), words.tobytes())), "<u2")
    exponent, quiet = (0x7F80, 0x40) if element == "BF16" else (0x7C00, 0x200)
    signalling = ((words & 0x7FFF) > exponent) & (words & quiet == 0)
    assert np.array_equal(back[~signalling], words[~signalling])
    assert np.array_equal(back[signalling], words[signalling] | quiet)


@pytest.mark.parametrize(
    ("of", "to", "given", "expected"),
    [
        ("F32", "BF16", 0x7F800001, 0x7FC0),
        ("F32", "BF16", 0xFFA50000, 0xFFE5),
        ("F32", "F16", 0x7F800001, 0x7E00),
        ("F32", "F16", 0xFFFFE000, 0xFFFF),
        ("BF16", "F32", 0x7F81, 0x7F810000),
        ("F16", "F32", 0x7C01, 0x7FC02000),
        ("F16", "BF16", 0xFE40, 0xFFC8),
        ("BF16", "F16", 0x7FC0, 0x7E00),
    ],
)
def test_payloads_of_nan(of: str, to: str, given: int, expected: int) -> None:
    size = {"F32": 4}
    result = applied(Cast(of, to), given.to_bytes(size.get(of, 2), "little"))
    assert int.from_bytes(result, "little") == expected


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_ranges_are_parts_of_the_whole(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([1, 2, 4, 8]))
    sides = st.integers(1, 7)
    outer, inner, rows = (data.draw(sides) for _ in range(3))
    sizes = tuple(data.draw(st.lists(sides, min_size=2, max_size=4)))
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (outer, size, inner, width), np.uint8) for size in sizes]
    fuse = Fuse(width, outer, sizes, inner)
    whole = np.concatenate(arrays, axis=1)
    fused = Reference(fuse)
    sources = [source_of(array.tobytes()) for array in arrays]
    length = fused.length([array.nbytes for array in arrays])
    assert bytes(fused.read(sources, 0, length).words) == whole.tobytes()
    begin, end = sorted(data.draw(st.integers(0, length // width)) * width for _ in range(2))
    assert bytes(fused.read(sources, begin, end).words) == whole.tobytes()[begin:end]
    first = data.draw(st.integers(0, sum(sizes) - 1))
    count = data.draw(st.integers(1, sum(sizes) - first))
    part = Slice(width, outer, sum(sizes), inner, first, count)
    expected = whole[:, first : first + count].tobytes()
    assert applied(part, whole.tobytes()) == expected
    begin, end = sorted(data.draw(st.integers(0, len(expected) // width)) * width for _ in range(2))
    assert bytes(part.read(source_of(whole.tobytes()), begin, end)) == expected[begin:end]
    matrix = generator.integers(0, 256, (rows, outer, width), np.uint8)
    turned = matrix.transpose(1, 0, 2).tobytes()
    step = Transpose(width, rows, outer)
    begin, end = sorted(data.draw(st.integers(0, rows * outer)) * width for _ in range(2))
    assert bytes(step.read(source_of(matrix.tobytes()), begin, end)) == turned[begin:end]


def test_a_large_transpose_is_read_in_bands() -> None:
    matrix = np.arange(700 * 300, dtype="<u4").reshape(700, 300)
    step = Transpose(4, 700, 300)
    assert applied(step, matrix.tobytes()) == matrix.T.tobytes()
    middle = bytes(step.read(source_of(matrix.tobytes()), 700 * 4 * 10 + 8, 700 * 4 * 200 - 4))
    assert middle == matrix.T.tobytes()[700 * 4 * 10 + 8 : 700 * 4 * 200 - 4]


def test_steps_are_applied_in_order() -> None:
    """q out of a fused, transposed fp32 export of bf16 weights (as GPT-2 stores its `c_attn`)."""
    base = np.random.default_rng(1).integers(0, 1 << 16, (8, 12), np.uint16)
    reference = parse_reference("slice:2:8x12x1:4+4,transpose:2:8x4,cast:BF16:F32")
    assert reference.length([base.nbytes]) == 4 * 4 * 8
    expected = (base[:, 4:8].T.astype("<u4") << 16).tobytes()
    assert bytes(reference.read([source_of(base.tobytes())], 0, 128).words) == expected
    assert bytes(reference.read([source_of(base.tobytes())], 20, 60).words) == expected[20:60]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cast:BF16:F32",
        "cast:F32:F16,transpose:2:3x5",
        "transpose:8:4096x11008",
        "slice:2:1x3x64:0+1",
        "fuse:2:1x64+64+64x4096",
        "fuse:1:1x1+1x1,slice:1:1x2x1:1+1,transpose:1:1x1",
    ],
)
def test_names_are_read_again(name: str) -> None:
    assert parse_reference(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "cast",
        "cast:BF16",
        "cast:BF16:BF16",
        "cast:bf16:F32",
        "cast:F64:F32",
        "cast:BF16:F32 ",
        " cast:BF16:F32",
        "cast:BF16:F32\n",
        "cast:BF16:F32,",
        ",",
        "transpose:2:03x5",
        "transpose:2:0x5",
        "transpose:2:3x-5",
        "transpose:3:3x5",
        "transpose:2:3x5x7",
        "transpose:2:9999999999999999999x1",
        "transpose:2:٣x5",
        "slice:2:1x3x64:3+1",
        "slice:2:1x3x64:0+0",
        "slice:2:1x3x0:0+1",
        "fuse:2:1x64x4096",
        "fuse:2:1x64+0x4096",
        "cast:BF16:F32,fuse:2:1x64+64x4096",
        "identity",
        "cast:BF16:F32,cast:F32:BF16,cast:BF16:F32,cast:F32:BF16,cast:BF16:F32",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        parse_reference(name)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cast:BF16:F32", [3]),
        ("cast:F32:BF16", [6]),
        ("transpose:2:3x5", [28]),
        ("slice:2:1x3x64:0+1", [382]),
        ("fuse:2:1x4+4x1", [8]),
        ("fuse:2:1x4+4x1", [8, 6]),
        ("", [8, 8]),
        ("cast:BF16:F32", []),
    ],
)
def test_other_tensors_are_refused(name: str, given: list[int]) -> None:
    with pytest.raises(FormatError):
        parse_reference(name).length(given)


def test_a_step_has_one_name() -> None:
    for step in (Cast("F16", "F32"), Transpose(2, 3, 5), Slice(4, 1, 9, 2, 0, 3)):
        assert parse_step(step.name) == step
