"""Predictions are what the page says, to the bit, whatever the process is set to; and what PEFT merges."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.encodings import rounding, stages
from ckptfmt.encodings.factors import ONE, left_limbs, multiply, right_values, split
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.nearness import NEVER
from ckptfmt.encodings.prediction import Prediction, parse_prediction
from ckptfmt.encodings.rounding import RULES, Ieee, Plain, floats_here
from ckptfmt.errors import CkptfmtError, FormatError
from tests import independent_lowrank
from tests.encodings.merges import (
    TORCH,
    WIDTHS,
    Merge,
    bytes_of,
    frames_of,
    merge,
    missed,
    predicted,
    scale_text,
    source,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
FACTORS = [*sorted(WIDTHS), "F32>BF16", "F32>F16", "BF16>F16", "F16>BF16"]
FULL = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}


def floats(draw: st.DrawFn, generator: np.random.Generator, count: int, element: str, *, finite: bool) -> bytes:
    """Weights of any size, or any bits: NaN payloads, infinities, zeros of both signs, subnormals."""
    kind = draw(st.sampled_from(["gauss", "gauss", "bits", "constant", "zeros", "few"]))
    word = f"<u{WIDTHS[element]}"
    if kind == "gauss":
        size = draw(st.sampled_from([1e-39, 1e-6, 0.02, 1.0, 200.0] + [1e30] * (element != "F16")))
        single = (generator.standard_normal(count) * size).astype("<f4")
        words = (single.view("<u4") >> 16).astype(word) if element == "BF16" else single.view("<u4")
        words = single.astype("<f2").view(word) if element == "F16" else words
    else:
        most = {"bits": 1 << (8 * WIDTHS[element]), "constant": 1, "zeros": 1, "few": 40}[kind]
        words = generator.integers(0, most, count, dtype=np.uint64).astype(word)
        words += np.dtype(word).type({"constant": 0x3C01}.get(kind, 0))
        if kind in ("few", "zeros"):
            words |= generator.integers(0, 2, count).astype(word) << np.dtype(word).type(8 * WIDTHS[element] - 1)
    if finite:
        words = np.where((words & FULL[element]) == FULL[element], 0, words).astype(word)
    return words.tobytes()


def factor(draw: st.DrawFn, generator: np.random.Generator, count: int, text: str) -> bytes:
    """Words that are finite, also as they are read."""
    stored, _, read = text.partition(">")
    data = floats(draw, generator, count, stored, finite=True)
    words = np.frombuffer(data, f"<u{WIDTHS[stored]}").copy()
    if read:
        wide = np.empty(count, np.uint32)
        rounding.widen(words, stored, wide)
        rounding.round_to(wide, read, np.empty_like(wide))
        words[(wide & FULL["F32"]) == FULL["F32"]] = 0
    return words.tobytes()


@st.composite
def predictions(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A prediction's name and its tensors."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns, rank = draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    held = draw(st.sampled_from(sorted(WIDTHS)))
    element = draw(st.sampled_from(sorted(WIDTHS))) if held == "F32" else held
    cast = held == "F32" and draw(st.booleans())
    tensors = [floats(draw, generator, rows * columns, "BF16" if cast else held, finite=False)]
    texts = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        begin = draw(st.integers(0, rows - 1))
        height = draw(st.integers(1, rows - begin))
        form = draw(st.sampled_from(["product", "transposed", "across"]))
        shape = (columns, height) if form == "transposed" else (height, columns)
        counts = shape[0] * rank, rank * shape[1]
        if draw(st.booleans()):
            types = [draw(st.sampled_from(FACTORS)) for _ in range(2)]
            scale = draw(st.sampled_from([2.0, -0.5, 5.656854249, 1 / 3, 1e-3, 1e-37, 3e38]))
            tensors += [factor(draw, generator, *each) for each in zip(counts, types, strict=True)]
        else:
            types = [draw(st.sampled_from(["I8", "I16", "I32"])) for _ in range(2)]
            scale = 2.0 ** draw(st.integers(-126, 60))
            for count, each in zip(counts, types, strict=True):
                most = 1 << (int(each[1:]) - 1)
                numbers = generator.integers(-most, most, count) >> draw(st.sampled_from([0, 0, 5, 31]))
                tensors.append(numbers.astype(f"<i{int(each[1:]) // 8}").tobytes())
        rule = draw(st.sampled_from(sorted(RULES)))
        dimensions = f"{shape[0]}x{rank}x{shape[1]}"
        texts.append(f"{begin}:{form}:{dimensions}:{types[0]}:{types[1]}:{scale_text(scale)}:{rule}")
    noise = draw(st.one_of(st.integers(-100, 100), st.integers(-40, -5)))
    head = f"{held}:{element}:{rows}x{columns}:{noise}"
    return "|".join(["cast:BF16:F32" if cast else "", head, *texts]), tensors


@pytest.mark.parametrize("floats_", [Ieee(), Plain()], ids=["ieee", "plain"])
@relaxed
@given(data=st.data())
def test_predictions_are_what_the_page_says(data: st.DataObject, floats_: rounding.Floats) -> None:
    name, tensors = data.draw(predictions())
    words, classes = independent_lowrank.predict(name, tensors)
    prediction = parse_prediction(name)
    assert prediction.name == name
    assert prediction.length([len(each) for each in tensors]) == len(words)
    sources, width = [source(each) for each in tensors], WIDTHS[prediction.element]
    cut = data.draw(st.integers(0, len(classes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "floats_here", lambda: floats_)
        patch.setattr(stages, "FEW", 1)
        for begin, end in ((0, cut), (cut, len(classes))):
            if begin < end:
                basis = prediction.read(sources, begin * width, end * width)
                places = np.flatnonzero(np.random.default_rng(begin).random(end - begin) < 0.3)
                some = np.frombuffer(classes[begin:end], np.uint8)[places].tobytes()
                if data.draw(st.booleans()):
                    assert bytes(basis.classes_at(places)) == some
                if data.draw(st.booleans()):
                    assert bytes(basis.classes or b"") == classes[begin:end]
                assert bytes(basis.words) == words[begin * width : end * width]
                assert bytes(basis.classes or b"") == classes[begin:end]
                assert bytes(basis.classes_at(places)) == some


def test_the_two_kinds_of_floats_agree() -> None:
    generator = np.random.default_rng(4)
    bits = generator.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    bits = np.concatenate((bits, bits & np.uint32(0x80FFFFFF), bits | np.uint32(0x7F000000)))
    other = generator.permutation(bits)
    finite = ((bits & FULL["F32"]) != FULL["F32"]) & ((other & FULL["F32"]) != FULL["F32"])
    bits, other = bits[finite], other[finite]
    wide = generator.integers(0, 1 << 64, len(bits), dtype=np.uint64).view(np.float64)
    near = rounding.widen_bits(bits) * (1 + generator.choice([0, 2.0**-24, -(2.0**-25), 2.0**-50], len(bits)))
    results = []
    for floats_ in (Ieee(), Plain()):
        sums, product, narrow = bits.copy(), bits.copy(), np.empty((2, len(bits)), np.uint32)
        with np.errstate(all="ignore"):
            floats_.add(sums, other)
            floats_.multiply(product, 0x3E99999A)
            for out, numbers in zip(narrow, (wide, near), strict=True):
                floats_.narrow(np.where(np.isnan(numbers), 0, numbers), out)
            results.append((sums, product, narrow, floats_.sums64(bits, other).view(np.uint64)))
    for first, second in zip(*results, strict=True):
        assert np.array_equal(first, second)


@pytest.mark.parametrize("element", ["BF16", "F16"])
def test_numbers_are_rounded_as_torch_rounds_them(element: str) -> None:
    generator = np.random.default_rng(5)
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(len(every), np.uint32)
    rounding.widen(every, element, wide)
    wide = wide[(wide & FULL["F32"]) != FULL["F32"]]
    # Every number, every tie, and what lies next to them.
    bits = np.concatenate([wide + np.uint32(each) for each in (0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001)])
    bits = np.concatenate((bits, generator.integers(0, 1 << 32, 500_000, dtype=np.uint32)))
    bits = bits[(bits & FULL["F32"]) != FULL["F32"]]
    expected = torch.from_numpy(bits.view(np.float32)).to({"BF16": torch.bfloat16, "F16": torch.float16}[element])
    out, spare = np.empty(len(bits), np.uint16), np.empty_like(bits)
    rounding.narrow_words(bits, element, out, spare)
    assert out.tobytes() == bytes_of(expected)
    rounding.round_to(bits, element, spare)
    assert bits.tobytes() == bytes_of(expected.float())


@pytest.mark.parametrize("rank", [1, 3, 16, 64, 512, 1024])
@pytest.mark.parametrize("bits", [7, 15, 31])
def test_products_are_exact(rank: int, bits: int) -> None:
    """Of integers as large as they can be; where they have limbs, each addition is rounded to 53 bits."""
    generator = np.random.default_rng(rank)
    most = 1 << bits
    left = generator.choice(np.array([-most, most - 1, 1, -1, most // 3], object), (5, rank))
    right = generator.choice(np.array([-most, most - 1, -most // 7], object), (rank, 9))
    parted = split("I32", ("I32", most), rank, ONE)
    limbs = left_limbs(left.astype("<i4").view("<u4"), parted)
    assert len(limbs) == parted.limbs
    out, spare = np.empty((5, 9)), np.empty((5, 9))
    multiply(limbs, right_values(right.astype("<i4").view("<u4"), parted), out, spare)
    exact = left.dot(right)
    for got, expected in zip(out.ravel().tolist(), exact.ravel().tolist(), strict=True):
        if abs(expected) < 2**53:
            assert int(got) == expected
        else:
            assert abs(int(got) - expected) <= abs(expected) // 2**51 + rank * 2 ** (2 * bits - 52)


@pytest.mark.parametrize("element", sorted(WIDTHS))
def test_a_factor_of_one_number_is_exact(element: str) -> None:
    for word in (1, 0x0101, 0x3C01, 0x7B00):
        words = np.array([[word]], f"<u{WIDTHS[element]}")
        parted = split(element, (element, 0), 1, ONE)
        value = independent_lowrank.value_of(word, element)
        assert left_limbs(words, parted)[0].item() == value
        assert right_values(words, parted).item() == value


def simple(element: str, adapter: str, rows: int, columns: int, rank: int, scale: float, rule: str = "") -> Prediction:
    rule = rule or ("once" if adapter == "F32" else f"twice-{adapter}")
    shape = f"0:product:{rows}x{rank}x{columns}:{adapter}:{adapter}:{scale_text(scale)}:{rule}"
    return parse_prediction(f"|{element}:{element}:{rows}x{columns}:-30|{shape}")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rank", "scale"), [(8, 16 / 8**0.5), (16, 2.0), (64, 16 / 64**0.5)])
@pytest.mark.parametrize("adapter", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("base", ["BF16", "F16"])
def test_merges_of_16_bits_are_predicted(base: str, adapter: str, rank: int, scale: float, threads: int) -> None:
    """At most one element in 10,000 fails."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = merge(base, adapter, 700, 1111, rank, scale)
    finally:
        torch.set_num_threads(before)
    assert missed(simple(base, adapter, 700, 1111, rank, scale), made, base) <= 1e-4


def test_fp32_merges_are_predicted_but_for_last_bits() -> None:
    made = merge("F32", "F32", 700, 1111, 16, 2.0)
    prediction = simple("F32", "F32", 700, 1111, 16, 2.0)
    words = [np.frombuffer(each, "<i4") for each in (made.merged, predicted(prediction, made.tensors))]
    assert missed(prediction, made, "F32") <= 0.15
    assert np.median(np.abs(words[0] - words[1])[words[0] != words[1]]) == 1


def test_an_adapter_on_the_rows_of_one_part_of_a_fused_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(96, 64, generator=generator) * 0.02).to(torch.bfloat16)
    left, right = (torch.randn(*shape, generator=generator) * 0.02 for shape in ((32, 4), (4, 64)))
    merged = weight.clone()
    merged[32:64] += left @ right * 2
    name = f"|BF16:BF16:96x64:-30|32:product:32x4x64:F32:F32:{scale_text(2)}:once"
    tensors = [bytes_of(each) for each in (weight, left, right)]
    assert predicted(parse_prediction(name), tensors) == bytes_of(merged)
    (basis,) = frames_of(parse_prediction(name), tensors)
    classes = np.frombuffer(basis.classes or b"", np.uint8).reshape(96, 64)
    assert (classes[:32] == NEVER).all()
    assert (classes[64:] == NEVER).all()


def test_adapters_one_after_another_and_a_transposed_one() -> None:
    """A Conv1D weight (in x out) with two adapters, each added and rounded in turn."""
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(48, 80, generator=generator) * 0.02).to(torch.float16)
    factors = [
        (torch.randn(80, 8, generator=generator) * 0.03, torch.randn(8, 48, generator=generator) * 0.03)
        for _ in range(2)
    ]
    merged = weight.clone()
    for left, right in factors:
        merged += (left @ right).T * 0.7
    stage = f"0:transposed:80x8x48:F32:F32:{scale_text(0.7)}:once"
    tensors = [bytes_of(weight), *(bytes_of(each) for pair in factors for each in pair)]
    prediction = parse_prediction(f"|F16:F16:48x80:-30|{stage}|{stage}")
    assert missed(prediction, Merge(bytes_of(merged), tensors), "F16") <= 1e-3


def test_an_embedding_whose_factors_are_both_by_rows() -> None:
    """As some trainers write it: U (vocabulary, rank) times the transpose of V (width, rank)."""
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(900, 80, generator=generator) * 0.02).to(torch.bfloat16)
    left, right = (torch.randn(*shape, generator=generator) * 0.02 for shape in ((900, 6), (80, 6)))
    merged = weight.clone()
    merged += left @ right.T * 0.3
    text = f"|BF16:BF16:900x80:-30|0:across:900x6x80:F32:F32:{scale_text(0.3)}:once"
    made = Merge(bytes_of(merged), [bytes_of(each) for each in (weight, left, right)])
    assert missed(parse_prediction(text), made, "BF16") <= 1e-4


def test_a_base_that_was_loaded_in_float32_and_saved_in_bf16() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = (torch.randn(64, 80, generator=generator) * 0.02).to(torch.bfloat16)
    left, right = torch.randn(64, 8, generator=generator) * 0.03, torch.randn(8, 80, generator=generator) * 0.03
    merged = weight.float()
    for _ in range(2):
        merged += left @ right * 0.7
    stage = f"0:product:64x8x80:F32:F32:{scale_text(0.7)}:once"
    tensors = [bytes_of(each) for each in (weight, left, right, left, right)]
    prediction = parse_prediction(f"cast:BF16:F32|F32:BF16:64x80:-30|{stage}|{stage}")
    assert predicted(prediction, tensors) == bytes_of(merged.to(torch.bfloat16))


def test_ranges_that_are_no_rows_give_what_the_whole_gives() -> None:
    for rows, columns in ((300, 517), (150, 4500), (3, 70_001), (1, 140_000), (140_000, 1)):
        made = merge("BF16", "F32", rows, columns, 5, 2.0)
        prediction = simple("BF16", "F32", rows, columns, 5, 2.0)
        (whole,) = frames_of(prediction, made.tensors)
        sources = [source(each) for each in made.tensors]
        length = len(made.merged)
        edges = sorted({0, 2, 1032, 1034, 1036, length // 6 * 2, length // 2 // 2 * 2 + 2, length - 2, length})
        parts = [prediction.read(sources, *edge) for edge in itertools.pairwise(edges)]
        places = np.arange(5, length // 2, 97)
        few = places[:: len(places) // 50]
        expected = np.frombuffer(whole.classes or b"", np.uint8)
        (again,) = frames_of(prediction, made.tensors)
        assert np.array_equal(again.classes_at(places), expected[places])
        assert np.array_equal(again.classes_at(few), expected[few])
        assert b"".join(bytes(part.words) for part in parts) == bytes(whole.words)
        assert b"".join(bytes(part.classes or b"") for part in parts) == bytes(whole.classes or b"")


def test_classes_are_made_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never for a frame as predicted; for a few elements where a few are wrong; once with the words where many are."""
    made = merge("BF16", "F32", 512, 1024, 16, 2.0)
    prediction = dataclasses.replace(simple("BF16", "F32", 512, 1024, 16, 2.0), noise=-20)
    sources, length = [source(each) for each in made.tensors], len(made.merged)
    calls: list[int] = []
    plain = stages.classes_of_sums
    monkeypatch.setattr(
        stages, "classes_of_sums", lambda sums, *others: calls.append(sums.size) or plain(sums, *others)
    )

    def made_for(words: np.ndarray) -> tuple[int, int]:
        """How many classes are computed to encode words, and to decode them."""
        frame = words.tobytes()
        calls.clear()
        stored = LOWRANK.encode(frame, "BF16", prediction.read(sources, 0, length))
        encoding = sum(calls)
        assert stored is not None
        assert bytes(LOWRANK.decode(stored, length, "BF16", prediction.read(sources, 0, length))) == frame
        return encoding, sum(calls) - encoding

    basis = prediction.read(sources, 0, length)
    near = np.flatnonzero(np.frombuffer(basis.classes or b"", np.uint8) < 30)
    words = np.frombuffer(basis.words, "<u2").copy()
    assert made_for(words) == (0, 0)
    words[[7, 9000, 77_777]] += np.uint16(1)
    assert made_for(words) == (3, 3)
    words[near[::3]] += np.uint16(1)
    for _ in range(2):
        assert made_for(words) == (len(words), len(words))


def test_other_sources_are_not_predicted_from_what_was_kept() -> None:
    first, second = (merge("BF16", "F32", 40, 50, 4, 2.0, seed) for seed in (1, 2))
    prediction = simple("BF16", "F32", 40, 50, 4, 2.0)
    fresh = predicted(simple("BF16", "F32", 40, 50, 4, 2.0), second.tensors)
    predicted(prediction, first.tensors)
    assert predicted(prediction, second.tensors) == fresh


def test_threads_share_a_prediction() -> None:
    made = merge("BF16", "F32", 1024, 4096, 16, 2.0)
    prediction, sources = simple("BF16", "F32", 1024, 4096, 16, 2.0), [source(each) for each in made.tensors]
    ranges = [(begin, begin + (1 << 18)) for begin in range(0, len(made.merged), 1 << 18)]
    expected = predicted(simple("BF16", "F32", 1024, 4096, 16, 2.0), made.tensors)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda edges: bytes(prediction.read(sources, *edges).words), ranges)
        assert b"".join(parts) == expected


def _digest() -> str:
    """One digest over predictions of every kind, with subnormal numbers among them."""
    total = hashlib.sha256()
    for base in sorted(WIDTHS):
        for rule in sorted(RULES):
            made = merge(base, "F32", 130, 700, 24, 2.0)
            weights = np.frombuffer(made.tensors[0], f"<u{WIDTHS[base]}").copy()
            weights[::7] &= np.array((1 << (8 * WIDTHS[base] - 1)) | 0x3F, weights.dtype)
            integers = np.random.default_rng(1).integers(-(1 << 30), 1 << 30, (2, 24 * 700)).astype("<i4")
            for types, scale, left, right in (
                ("F32:F32", 1 / 3, *made.tensors[1:]),
                ("F32:F32", 2e-38, *made.tensors[1:]),
                ("I32:I32", 2.0**-78, integers[0, : 130 * 24].tobytes(), integers[1].tobytes()),
            ):
                name = f"|{base}:{base}:130x700:-30|0:product:130x24x700:{types}:{scale_text(scale)}:{rule}"
                for basis in frames_of(parse_prediction(name), [weights.tobytes(), left, right]):
                    total.update(bytes(basis.words))
                    total.update(bytes(basis.classes or b""))
    return total.hexdigest()


DIGEST = "c1dd380bcb95a18a784452a29405528e96a24cad77d167d536f176a51ddfa395"


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Nehalem"},
        {"OPENBLAS_CORETYPE": "Prescott"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL"},
    ],
    ids=lambda each: " ".join(f"{name}={value}" for name, value in each.items()) or "default",
)
def test_processes_with_other_settings_predict_alike(settings_: dict[str, str]) -> None:
    script = "import tests.encodings.test_lowrank_prediction as test; print(test._digest())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **settings_},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == DIGEST


def test_subnormals_are_kept_where_somebody_flushes_them() -> None:
    assert isinstance(floats_here(), Ieee)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        assert isinstance(floats_here(), Plain)
        flushed = _digest()
    finally:
        torch.set_flush_denormal(False)
    assert flushed == DIGEST
    assert isinstance(floats_here(), Ieee)


def test_a_thread_that_rounds_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_EXPECTED", "0" * 32)
    with pytest.raises(CkptfmtError, match="round"):
        predicted(simple("BF16", "F32", 4, 4, 2, 1.0), merge("BF16", "F32", 4, 4, 2, 1.0).tensors)


GOOD = "|BF16:BF16:4x6:-30|0:product:4x2x6:F32:F32:40000000:once"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "|BF16:BF16:4x6:-30",
        GOOD.replace("4x2x6", "4x0x6"),
        GOOD.replace("4x2x6", "4x1025x6"),
        GOOD.replace("4x2x6", "5x2x6"),
        GOOD.replace("4x2x6", "4x2x7"),
        GOOD.replace("4x2x6", "04x2x6"),
        GOOD.replace("4x2x6", "4x2"),
        GOOD.replace("4x2x6", "4x2x6000000000000000000"),
        GOOD.replace("|0:", "|1:"),
        GOOD.replace("|0:", "|-1:"),
        GOOD.replace("-30", "-101"),
        GOOD.replace("-30", "101"),
        GOOD.replace("-30", "-0"),
        GOOD.replace("-30", "+1"),
        GOOD.replace("BF16:BF16", "BF16:F16"),
        GOOD.replace("BF16:BF16", "F16:F32"),
        GOOD.replace("BF16:BF16", "F64:F64"),
        GOOD.replace("40000000", "00000000"),
        GOOD.replace("40000000", "00000001"),
        GOOD.replace("40000000", "7f800000"),
        GOOD.replace("40000000", "7fc00000"),
        GOOD.replace("40000000", "4000000"),
        GOOD.replace("40000000", "4000000A"),
        GOOD.replace("40000000", "2.0"),
        GOOD.replace("once", "never"),
        GOOD.replace("once", "twice"),
        GOOD.replace("once", "twice-F32"),
        GOOD.replace("product", "transposed"),
        GOOD.replace("product", "acros"),
        GOOD.replace("F32:F32", "F32:I16"),
        GOOD.replace("F32:F32", "U8:U8"),
        GOOD.replace("F32:F32", "F32>F32:F32"),
        GOOD.replace("F32:F32", "BF16>F32:F32"),
        GOOD.replace("F32:F32", "F32>BF16>F16:F32"),
        GOOD.replace("F32:F32", "F32:>BF16"),
        GOOD.replace("F32:F32", "F32:BF16>"),
        GOOD.replace("F32:F32", "F32:F32>I16"),
        GOOD.replace("F32:F32", "I32>I16:I16"),
        GOOD.replace("F32:F32", "F32>BF16:I16"),
        GOOD.replace("F32:F32:40000000", "I16:I16:40400000"),
        GOOD.replace("F32:F32:40000000", "I16:I16:c0000000"),
        GOOD + "|0:product:4x2x6:F32:F32:40000000:once" * 4,
        GOOD + "|",
        GOOD + "\n",
        " " + GOOD,
        "cast:BF16:F64" + GOOD,
        "x" * 3000 + GOOD,
        "|BF16:BF16:100000000x6:-30|0:product:100000000x2x6:F32:F32:40000000:once|" + "a" * 10,
        "|BF16:BF16:2x99999999:-30|0:product:2x2x99999999:F32:F32:40000000:once",
        "|BF16:BF16:0x6:-30|0:product:0x2x6:F32:F32:40000000:once",
    ],
)
def test_texts_that_bend_the_rules_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_prediction(text)


def test_a_text_that_bends_none_is_read_and_lengths_must_fit() -> None:
    prediction = parse_prediction(GOOD)
    assert prediction.name == GOOD
    assert prediction.length([48, 32, 48]) == 48
    for lengths in ([], [48], [48, 32], [48, 32, 48, 1], [47, 32, 48], [48, 33, 48], [48, 32, 0]):
        with pytest.raises(FormatError):
            prediction.length(lengths)
    huge = parse_prediction("|F32:F32:999999999999x6:0|0:product:999999999999x2x6:F32:F32:40000000:once")
    with pytest.raises(FormatError):
        huge.length([48, 32, 48])


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet="|:xBF1632-0497>aceonprduct", max_size=90))
def test_noise_is_no_prediction(text: str) -> None:
    try:
        prediction = parse_prediction(text)
    except FormatError:
        return
    assert prediction.name == text


@pytest.mark.parametrize("base", ["BF16", "F16"])
@pytest.mark.parametrize("form", ["product", "transposed"])
def test_factors_that_were_narrowed_before_the_merge(base: str, form: str) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (300, 500) if form == "product" else (500, 300)
    weight = (torch.randn(*shape, generator=generator) * 0.02).to(TORCH[base])
    left, right = (torch.randn(*size, generator=generator) * 0.02 for size in ((300, 16), (16, 500)))
    update = (left.to(TORCH[base]).float() @ right.to(TORCH[base]).float() * 2).to(TORCH[base])
    merged = weight.clone()
    merged += update if form == "product" else update.T
    kind, size = f"F32>{base}", "x".join(map(str, shape))
    made = Merge(bytes_of(merged), [bytes_of(each) for each in (weight, left, right)])
    for read, most in ((kind, 1e-4), ("F32", 1.0)):
        stage = f"0:{form}:300x16x500:{read}:{read}:{scale_text(2)}:twice-{base}"
        rate = missed(parse_prediction(f"|{base}:{base}:{size}:-30|{stage}"), made, base)
        assert rate <= most
    assert rate > 1e-3


@pytest.mark.parametrize("place", [1, 2])
def test_factors_that_are_too_large_once_narrowed_are_refused(place: int) -> None:
    made = merge("F16", "F32", 4, 6, 2, 2.0)
    made.tensors[place] = np.array([65520], "<f4").tobytes() + made.tensors[place][4:]
    text = GOOD.replace("BF16:BF16", "F16:F16").replace("F32:F32", "F32>F16:F32>F16")
    with pytest.raises(FormatError, match="NaN"):
        predicted(parse_prediction(text), made.tensors)


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_factors_that_are_not_finite_are_refused(place: int, value: float) -> None:
    made = merge("BF16", "F32", 4, 6, 2, 2.0)
    made.tensors[place] = np.array([value], "<f4").tobytes() + made.tensors[place][4:]
    with pytest.raises(FormatError, match="NaN"):
        predicted(parse_prediction(GOOD), made.tensors)
