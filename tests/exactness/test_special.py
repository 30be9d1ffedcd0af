"""Numbers that break careless code, of every type, taken in against a base that holds such numbers too."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfmt import Store
from ckptfmt.digest import digest_of
from ckptfmt.format.dtypes import BITS
from tests.encodings import special
from tests.exactness.made import SCALING, Q, numbers_of, sums_of, words_of, write_adapter, write_words

ELEMENTS: Final = (
    "BF16 F16 F32 F64 F8_E4M3 F8_E5M2 I8 I16 I32 I64 U8 BOOL C64".split()  # noqa: SIM905
)
COUNTS: Final = (0, 1, 2, 3, 255, 1024, 1025, 20_000)
SCRATCH: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def width_of(element: str) -> int:
    return BITS[element] // 8


@st.composite
def contents(draw: st.DrawFn, element: str, count: int) -> bytes:
    """`count` elements of some distribution; BOOL keeps to whatever bytes there are."""
    size = count * width_of(element)
    data = b""
    while len(data) < size:
        data += draw(special.frames(element)) or b"\0"
    return data[:size]


@st.composite
def changed(draw: st.DrawFn, element: str, data: bytes) -> bytes:
    """What is stored against `data`: the same, moved a little, bits flipped, special numbers, something else."""
    kind = draw(st.sampled_from(["same", "steps", "flips", "special", "negated", "other"]))
    count = len(data) // width_of(element)
    if kind == "other":
        return draw(contents(element, count))
    width = special.word_bytes(element)
    words = np.frombuffer(data, f"<u{width}").copy()
    if kind == "same" or not len(words):
        return data
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    places = random.integers(0, len(words), max(1, int(len(words) * draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])))))
    with np.errstate(all="ignore"):
        if kind == "steps":
            words[places] += random.integers(-3, 4, len(places)).astype(words.dtype)
        elif kind == "flips":
            words[places] ^= words.dtype.type(1) << random.integers(0, 8 * width, len(places)).astype(words.dtype)
        elif kind == "negated":
            words[places] ^= words.dtype.type(1 << (8 * width - 1))
        else:
            patterns = special._PATTERNS.get(width, (0, 0x80, 0x7F, 0xFF, 0x7C, 0xFC, 1))
            words[places] = random.choice(np.array(patterns, words.dtype), len(places))
    return words.tobytes()


class Pair:
    """Two models, by name: dtype, shape, bytes. What stands in a report is short."""

    def __init__(self, base: dict[str, Any], run: dict[str, Any]) -> None:
        self.base, self.run = base, run

    def __repr__(self) -> str:
        return repr({name: (shape, digest_of(data)[:8]) for name, (_, shape, data) in self.run.items()})


@st.composite
def models(draw: st.DrawFn) -> Pair:
    """A base and what was made of it: tensors of every type."""
    base, run = {}, {}
    for element in ELEMENTS:
        count = draw(st.sampled_from(COUNTS))
        shape = draw(st.sampled_from([(count,), (1, count), (count, 1)])) if count != 1 else ()
        data = draw(contents(element, count))
        base[f"model.{element}.weight"] = (element, shape, data)
        run[f"model.{element}.weight"] = (element, shape, draw(changed(element, data)))
    # A base has weights.
    fixed = words_of(np.linspace(-1, 1, 4096, dtype=np.float32), "BF16").tobytes()
    base["model.embed_tokens.weight"] = run["model.embed_tokens.weight"] = ("BF16", (64, 64), fixed)
    return Pair(base, run)


def there_and_back(base: dict[str, Any], run: dict[str, Any]) -> None:
    """Take a model in against a base and restore it."""
    directory = Path(tempfile.mkdtemp(prefix="ckptfmt-test-", dir=SCRATCH))
    try:
        with Store.init(directory / "store") as store:
            store.add_base("base", write_words(directory / "base", base))
            write_words(directory / "run", run)
            store.import_checkpoint(directory / "run", "run", base="base")
            store.restore("run", directory / "back")
            assert sums_of(directory / "back") == sums_of(directory / "run")
            assert store.verify().damaged == ()
    finally:
        shutil.rmtree(directory)


SLOW: Final = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(models())
def test_every_type_comes_back_from_an_import_against_a_base(model: Pair) -> None:
    there_and_back(model.base, model.run)


@pytest.mark.torture
@settings(max_examples=1500, deadline=None, suppress_health_check=SLOW)
@given(models())
def test_every_type_comes_back_again_and_again(model: Pair) -> None:
    """Torture: minutes."""
    there_and_back(model.base, model.run)


class Merge(NamedTuple):
    """A base, an adapter and what may be their merge; which of these hold special numbers as well."""

    element: str
    rows: int
    columns: int
    rank: int
    size: float
    special: tuple[bool, bool, bool, bool]
    seed: int


MERGES: Final = st.builds(
    lambda element, shape, size, special, seed: Merge(element, *shape, size, special, seed),
    st.sampled_from(["BF16", "F16", "F32"]),
    st.sampled_from([(64, 128, 2), (1, 4096, 1), (160, 160, 8), (4096, 1, 3)]),
    st.sampled_from([0.02, 1e-5, 1e-7, 1e-38, 1e37, 0.0]),
    st.tuples(*[st.booleans()] * 4),
    st.integers(0, 2**32 - 1),
)


def make_merge(of: Merge) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    random = np.random.default_rng(of.seed)
    width = width_of(of.element)
    shape = of.rows, of.columns

    def mixed(words: Any, which: int) -> Any:
        if of.special[which]:
            places = random.integers(0, words.size, max(1, words.size // 50))
            patterns = np.array(special._PATTERNS[words.itemsize], words.dtype)
            words.reshape(-1)[places] = random.choice(patterns, len(places))
        return words

    def normal(rows: int, columns: int, size: float) -> Any:
        return (random.normal(0, 1, (rows, columns)) * size).astype("<f4")

    with np.errstate(all="ignore"):
        base = mixed(words_of(normal(*shape, of.size), of.element), 0)
        left = mixed(normal(of.rows, of.rank, of.size / 10).view("<u4"), 1).view("<f4")
        right = mixed(normal(of.rank, of.columns, 1.0).view("<u4"), 2).view("<f4")
        update = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32) * np.float32(SCALING)
        merged = mixed(words_of(numbers_of(base, of.element) + update, of.element), 3)
    assert base.itemsize == width
    module = f"base_model.model.{Q.removesuffix('.weight')}"
    adapter = {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}
    filler = words_of(np.linspace(-1, 1, 4096, dtype=np.float32), "BF16").tobytes()

    def model(words: Any) -> dict[str, Any]:
        return {"model.embed_tokens.weight": ("BF16", (64, 64), filler), Q: (of.element, shape, words.tobytes())}

    return model(base), model(merged), adapter


def merged_there_and_back(merge: Merge, *, optimized: bool) -> None:
    base, merged, adapter = make_merge(merge)
    directory = Path(tempfile.mkdtemp(prefix="ckptfmt-test-", dir=SCRATCH))
    try:
        with Store.init(directory / "store") as store:
            store.add_base("base", write_words(directory / "base", base))
            run = write_words(directory / "run", merged)
            write_adapter(directory / "adapter", adapter)
            if not optimized:
                for path in (directory / "adapter").iterdir():
                    shutil.copy(path, run)
            store.import_checkpoint(run, "run", base="base")
            if optimized:
                store.optimize(["run"])
            store.restore("run", directory / "back")
            assert sums_of(directory / "back") == sums_of(run)
            assert store.verify().damaged == ()
    finally:
        shutil.rmtree(directory)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(MERGES)
def test_merges_of_special_numbers_come_back(merge: Merge) -> None:
    merged_there_and_back(merge, optimized=False)


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
@given(MERGES)
def test_a_search_for_adapters_among_special_numbers(merge: Merge) -> None:
    merged_there_and_back(merge, optimized=True)


@pytest.mark.torture
@pytest.mark.parametrize("optimized", [False, True])
def test_merges_of_special_numbers_come_back_again_and_again(optimized: bool) -> None:
    """Torture: minutes."""

    @settings(max_examples=1500, deadline=None, suppress_health_check=SLOW)
    @given(MERGES)
    def check(merge: Merge) -> None:
        merged_there_and_back(merge, optimized=optimized)

    check()


@pytest.mark.parametrize("element", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("size", [1e-38, 1e-44, 1e37])
def test_nothing_that_is_searched_for_factors_stops_optimize(element: str, size: float, tmp_path: Path) -> None:
    """A search that finds no numbers to work with finds nothing."""
    from tests.exactness import made

    with np.errstate(all="ignore"):
        places = made.family(element, size=size).write(tmp_path)
    with Store.init(tmp_path / "store") as store:
        store.add_base("base", places["base"])
        store.import_checkpoint(places["lost"], "lost", base="base")
        store.optimize(["lost"])
        store.restore("lost", tmp_path / "back")
        assert made.sums_of(tmp_path / "back") == made.sums_of(places["lost"])
