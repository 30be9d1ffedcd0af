"""`lowrank` gives every frame back to the bit, against any basis, and is small where predictions nearly hold."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.lowrank import DELTA_FORM, GROUPED_FORM, LOWRANK, SAME_FORM
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.errors import FormatError
from tests.encodings.merges import WIDTHS, Merge, bytes_of, frames_of, merge, missed, scale_text
from tests.encodings.special import ELEMENTS, frames, word_bytes
from tests.encodings.test_delta import pairs
from tests.independent_lowrank import decode_lowrank

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


def there_and_back(frame: bytes, element: str | None, basis: Basis) -> bytes | None:
    stored = LOWRANK.encode(frame, element, basis)
    if stored is None:
        return None
    assert len(stored) < len(frame)
    assert bytes(LOWRANK.decode(bytes(stored), len(frame), element, basis)) == frame
    return bytes(stored)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@relaxed
@given(data=st.data())
def test_every_frame_comes_back_and_never_grows(data: st.DataObject, element: str | None) -> None:
    frame, words = data.draw(pairs(element))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    count = len(frame) // word_bytes(element)
    classes = generator.integers(0, data.draw(st.sampled_from([1, 2, 60, 256])), count).astype(np.uint8).tobytes()
    basis = Basis(words, data.draw(st.sampled_from([classes, None])))
    stored = there_and_back(frame, element, basis)
    if stored is not None and element in WIDTHS and len(frame) % word_bytes(element) == 0:
        assert decode_lowrank(stored, len(frame), element, words, basis.classes or bytes(count)) == frame


@relaxed
@given(frame=frames("BF16"))
def test_a_frame_as_predicted_takes_a_byte(frame: bytes) -> None:
    stored = there_and_back(frame, "BF16", Basis(frame, bytes(len(frame) // 2)))
    assert stored == (bytes((SAME_FORM,)) if len(frame) > 1 else None)


def test_the_forms_are_chosen_by_size() -> None:
    generator = np.random.default_rng(1)
    words = generator.integers(0x3C00, 0x3D00, 100_000).astype("<u2")
    few = words.copy()
    few[::1000] += np.uint16(1)
    assert (there_and_back(few.tobytes(), "BF16", Basis(words.tobytes(), bytes(100_000))) or b"")[0] == GROUPED_FORM
    many = words + generator.integers(0, 5, 100_000).astype("<u2")
    assert (there_and_back(many.tobytes(), "BF16", Basis(words.tobytes(), bytes(100_000))) or b"")[0] == DELTA_FORM
    assert there_and_back(generator.bytes(200_000), "BF16", Basis(words.tobytes(), bytes(100_000))) is None


def noisy(element: str, rule: str, error: float, rows: int = 1024, columns: int = 2048) -> tuple[Merge, str]:
    """A merge, and factors that are nearly those it was made with: each off by a part of `error`."""
    rank = 16
    made = torch.Generator().manual_seed(1)
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    weight = (torch.randn(rows, columns, generator=made) * 0.02).to(kind[element])
    left, right = torch.randn(rows, rank, generator=made) * 1e-4, torch.randn(rank, columns, generator=made) / 4
    update = left @ right
    merged = weight.clone()
    merged += update if rule == "once" else update.to(kind[rule.split("-")[1]])
    found = [each * (1 + error * torch.randn(each.shape, generator=made)) for each in (left, right)]
    noise = round(math.log2(float((found[0] @ found[1] - update).std())))
    shape = f"0:product:{rows}x{rank}x{columns}:F32:F32:{scale_text(1)}:{rule}"
    tensors = [bytes_of(each) for each in (weight, *found)]
    return Merge(bytes_of(merged), tensors), f"|{element}:{element}:{rows}x{columns}:{noise}|{shape}"


@pytest.mark.parametrize(
    ("element", "rule", "error", "fails", "most"),
    [
        ("BF16", "once", 1.1e-3, 0.007, 0.032),
        ("BF16", "twice-BF16", 1.1e-3, 0.007, 0.032),
        ("F16", "once", 2e-4, 0.009, 0.037),
        ("F16", "twice-BF16", 2e-4, 0.007, 0.040),
        ("F32", "once", 1e-8, 0.021, 0.112),
    ],
)
def test_what_predictions_get_wrong_takes_little(
    element: str, rule: str, error: float, fails: float, most: float
) -> None:
    """Bits an element of the residual, within a few per cent of the entropy that is left when classes are known."""
    made, name = noisy(element, rule, error)
    prediction = parse_prediction(name)
    assert fails / 3 < missed(prediction, made, element) <= fails
    size, entropy, count = 0, 0.0, len(made.merged) // WIDTHS[element]
    for index, basis in enumerate(frames_of(prediction, made.tensors)):
        frame = made.merged[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        stored = there_and_back(frame, element, basis)
        assert stored is not None
        assert stored[0] == GROUPED_FORM
        assert decode_lowrank(stored, len(frame), element, bytes(basis.words), bytes(basis.classes or b"")) == frame
        size += len(stored)
        entropy += conditional_entropy(frame, element, basis)
    assert 8 * size / count <= most
    assert size <= 1.12 * entropy / 8 + 16 * 60


def conditional_entropy(frame: bytes, element: str, basis: Basis) -> float:
    """Bits to say which elements of every class changed, and by how much."""
    words, under = (np.frombuffer(each, f"<i{WIDTHS[element]}").astype(np.int64) for each in (frame, basis.words))
    classes = np.frombuffer(basis.classes or b"", np.uint8)
    keys = (words - under) * 256 + classes
    _, joint = np.unique(keys, return_counts=True)
    _, alone = np.unique(classes, return_counts=True)
    return float((alone * np.log2(alone)).sum() - (joint * np.log2(joint)).sum())


def test_known_factors_leave_next_to_nothing() -> None:
    made = merge("BF16", "F32", 1024, 2048, 16, 2.0)
    name = f"|BF16:BF16:1024x2048:-33|0:product:1024x16x2048:F32:F32:{scale_text(2)}:once"
    (basis,) = frames_of(parse_prediction(name), made.tensors)
    stored = there_and_back(made.merged, "BF16", basis)
    assert stored is not None
    assert len(stored) < 300


def test_a_merge_by_peft_comes_back_by_its_adapter() -> None:
    """Linear, Conv1D and embedding, rank-stabilized, by the library itself; for both precisions of adapters."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        for autocast in (True, False):
            torch.manual_seed(3)
            parts = {"line": torch.nn.Linear(300, 200), "conv": Conv1D(200, 300), "embed": torch.nn.Embedding(400, 96)}
            model = torch.nn.ModuleDict(parts).to(dtype)
            base = {key: value.clone() for key, value in model.state_dict().items()}
            config = LoraConfig(
                r=8, lora_alpha=16, use_rslora=True, target_modules=["line", "conv", "embed"], init_lora_weights=False
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # That a Conv1D's weight is the other way around.
                adapted = get_peft_model(model, config, autocast_adapter_dtype=autocast)
            factors = {key: value.clone() for key, value in adapted.state_dict().items() if "lora_" in key}
            scale = scale_text(16 / 8**0.5)
            merged = adapted.merge_and_unload().state_dict()
            kind = "F32" if autocast else name
            for module, form, left, right in (
                ("line", "product", "lora_B.default.weight", "lora_A.default.weight"),
                ("conv", "transposed", "lora_B.default.weight", "lora_A.default.weight"),
                ("embed", "transposed", "lora_embedding_B.default", "lora_embedding_A.default"),
            ):
                pair = [factors[f"base_model.model.{module}.{each}"] for each in (left, right)]
                weight = base[f"{module}.weight"]
                # PEFT casts an embedding's update to the weight's dtype first.
                rule = f"twice-{name}" if module == "embed" or not autocast else "once"
                shape = f"{pair[0].shape[0]}x8x{pair[1].shape[1]}"
                size = "x".join(map(str, weight.shape))
                text = f"|{name}:{name}:{size}:-30|0:{form}:{shape}:{kind}:{kind}:{scale}:{rule}"
                tensors = [bytes_of(each) for each in (weight, *pair)]
                made = Merge(bytes_of(merged[f"{module}.weight"]), tensors)
                assert missed(parse_prediction(text), made, name) <= 1e-3, text


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("narrow", [False, True], ids=["held", "narrowed"])
def test_adapters_that_peft_merges_one_after_another(name: str, number: int, narrow: bool) -> None:
    """Factors as float32, or rounded to 16 bits for the merge: at most one element in 10,000 fails for each stage."""
    from peft import LoraConfig, get_peft_model

    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[name]
    torch.manual_seed(5)
    model = torch.nn.ModuleDict({"line": torch.nn.Linear(700, 900)}).to(dtype)
    tensors = [bytes_of(model["line"].weight.clone())]
    adapted: Any = None
    for index in range(number):
        config = LoraConfig(r=8 + index, lora_alpha=16, target_modules=["line"], use_rslora=index % 2 == 1)
        adapter = f"adapter-{index}"
        if adapted is None:
            adapted = get_peft_model(model, config, adapter_name=adapter, autocast_adapter_dtype=not narrow)
        else:
            adapted.add_adapter(adapter, config, autocast_adapter_dtype=not narrow)
        layer = adapted.base_model.model["line"]
        for factor, size in ((layer.lora_B[adapter].weight, 3e-3), (layer.lora_A[adapter].weight, 2e-2)):
            saved = torch.randn(factor.shape) * size
            factor.data.copy_(saved)
            tensors.append(bytes_of(saved))
    read = "F32" if name == "F32" or not narrow else f"F32>{name}"
    rule = "once" if read == "F32" else f"twice-{name}"
    ranks = range(8, 8 + number)
    scales = [scale_text(16 / rank ** (0.5 if rank % 2 else 1)) for rank in ranks]
    stages = [
        f"0:product:900x{rank}x700:{read}:{read}:{scale}:{rule}" for rank, scale in zip(ranks, scales, strict=True)
    ]
    names = [f"adapter-{index}" for index in range(number)]
    merged = adapted.merge_and_unload(adapter_names=names)["line"].weight
    prediction = parse_prediction("|".join(["", f"{name}:{name}:900x700:-33", *stages]))
    rate = missed(prediction, Merge(bytes_of(merged), tensors), name)
    assert rate <= (0.1 if name == "F32" else 1e-4) * number


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    made, name = noisy("BF16", "once", 1e-3, 64, 512)
    (basis,) = frames_of(parse_prediction(name), made.tensors)
    given_ = Basis(kind(bytes(basis.words)), kind(bytes(basis.classes or b"")))
    stored = LOWRANK.encode(kind(made.merged), "BF16", given_)
    assert stored is not None
    assert bytes(LOWRANK.decode(kind(bytes(stored)), len(made.merged), "BF16", given_)) == made.merged


def test_threads_decode_alike() -> None:
    cases = [noisy("BF16", rule, error, 256, 1024) for rule in ("once", "twice-BF16") for error in (1e-3, 1e-2)]
    bases = [frames_of(parse_prediction(name), made.tensors)[0] for made, name in cases]
    frames_ = [made.merged for made, _ in cases]
    expected = None
    for threads in (1, 2, 4):
        with ThreadPoolExecutor(threads) as pool:
            stored = list(pool.map(lambda frame, basis: LOWRANK.encode(frame, "BF16", basis), frames_, bases))
            again = pool.map(
                lambda each, frame, basis: bytes(LOWRANK.decode(each or b"", len(frame), "BF16", basis)),
                stored,
                frames_,
                bases,
            )
            assert list(again) == frames_
        assert expected in (None, stored)
        expected = stored


def test_lengths_must_agree() -> None:
    for basis in (Basis(b"ab"), Basis(b"abcd", b"a"), Basis(b"abcd", b"abcd")):
        with pytest.raises(FormatError, match="basis"):
            LOWRANK.encode(b"abcd", "BF16", basis)
        with pytest.raises(FormatError, match="basis"):
            LOWRANK.decode(b"\0", 4, "BF16", basis)


def test_its_references_are_predictions() -> None:
    text = f"|BF16:BF16:4x6:-30|0:product:4x2x6:F32:F32:{scale_text(2)}:once"
    assert LOWRANK.parse(text).name == text
    with pytest.raises(FormatError):
        LOWRANK.parse("cast:BF16:F32")
