"""The parts of a merge's execution: blocks of rows, the writer, the plan, and the dtypes that are left alone."""

from __future__ import annotations

import gc
import json
import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ckptfmt.api import Store
from ckptfmt.merge import execute as execution
from ckptfmt.merge.buffers import Block, Buffers
from ckptfmt.merge.execute import computes_alone
from ckptfmt.merge.hf_writer import INDEX, HfWriter
from ckptfmt.merge.methods.arithmetic import product_rows
from ckptfmt.merge.plan import Output, plan_merge
from ckptfmt.merge.protocol import BLOCK_ROWS, Changes, RowChange, Spec
from ckptfmt.merge.source import row_blocks, row_cuts
from ckptfmt.progress import SILENT
from tests.store import making

# Blocks of rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("rows", [1, 256, 300])
def test_cuts_cover_every_row_and_no_block_is_short(count: int, rows: int) -> None:
    cuts = row_cuts(count, rows)
    assert [row for begin, end in cuts for row in range(begin, end)] == list(range(count))
    assert all(end - begin >= rows for begin, end in cuts) or len(cuts) == 1
    assert all(end - begin < 2 * rows for begin, end in cuts)


@pytest.mark.parametrize("width", [0, 1, 3, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 100])
def test_frames_of_any_length_become_blocks(count: int, width: int) -> None:
    draw = random.Random(count * 100 + width)
    data = draw.randbytes(count * width)
    for _ in range(10):
        cuts = sorted(draw.choices(range(len(data) + 1), k=draw.randint(0, 9)))
        frames = [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]
        buffers = Buffers(1 << 20)
        found = b""
        begins = []
        for block in row_blocks(iter(frames), row_cuts(count, 8), width, buffers):
            begins.append(block.begin)
            found += bytes(block.view)
            assert not len(block.view) or block.data.ctypes.data % 64 == 0
            buffers.give(block)
        assert found == data and begins == [begin for begin, _ in row_cuts(count, 8)]


@pytest.mark.parametrize("count", [0, 1, 8, 20])
def test_the_proof_at_the_end_of_the_frames_is_asked_for(count: int) -> None:
    def frames() -> Iterator[bytes]:
        yield bytes(count * 4)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(row_blocks(frames(), row_cuts(count, 8), 4, Buffers(1 << 20)))


def test_memory_is_used_again_and_no_two_blocks_share_it() -> None:
    buffers = Buffers(1 << 20)
    first, second = buffers.take(0, 1000), buffers.take(1, 1000)
    first.data[:] = 1
    second.data[:] = 2
    assert (first.data == 1).all()
    buffers.give(first)
    again = buffers.take(2, 999)
    assert (again.whole.ctypes.data, again.begin, len(again.view)) == (first.whole.ctypes.data, 2, 999)


def test_what_waits_to_be_used_again_is_bounded() -> None:
    buffers = Buffers(1 << 20)
    for block in [buffers.take(0, 8 << 20) for _ in range(10)]:
        buffers.give(block)
    assert buffers._free_bytes <= 24 << 20


# Threads ------------------------------------------------------------------------------------------------------------


def test_lanes_compute_on_one_thread_and_leave_the_callers_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with execution._lanes(2, "cpu") as pool:
            seen = list(pool.map(lambda _: torch.get_num_threads(), range(8)))
            later: list[int] = []
            thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert (set(seen), later, torch.get_num_threads()) == ({1}, [3], 3)
    finally:
        torch.set_num_threads(before)


SIDES = (16, 24, 32, 33, 48, 64, 65, 100, 112, 129, 160, 255, 256, 513, 768, 1000, 2048, 2049)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [2, 3, 4, 8, 16])
def test_a_lanes_product_has_the_bits_of_the_whole_on_several_threads(dtype: torch.dtype, threads: int) -> None:
    names = {dtype: name for name, dtype in execution.TORCH.items()}
    draw = random.Random(threads)
    torch.manual_seed(threads)
    before = torch.get_num_threads()
    shapes = [(height, side) for height in (512, 515, 777, 1000, 1024) for side in SIDES]
    shapes = [each for each in shapes if computes_alone(Output("x", Spec(names[dtype], each), "x"), threads)]
    try:
        for _ in range(60 if dtype == torch.float32 else 6):
            shape = draw.choice(shapes)
            transposed = draw.random() < 0.3
            height, side = reversed(shape) if transposed else shape
            rank = draw.choice((1, 2, 4, 7, 8, 16, 31, 32, 64, 128, 256))
            left, right = torch.randn(height, rank).to(dtype), torch.randn(rank, side).to(dtype)
            torch.set_num_threads(threads)
            whole = (left @ right).T if transposed else left @ right
            norms = torch.linalg.norm(whole, dim=1)
            torch.set_num_threads(1)
            cuts = row_cuts(shape[0], draw.choice((BLOCK_ROWS, 400)))
            blocks = [product_rows(left, right, *cut, transposed=transposed) for cut in cuts]
            assert torch.equal(torch.cat(blocks), whole), (shape, rank, transposed)
            assert torch.equal(torch.cat([torch.linalg.norm(block, dim=1) for block in blocks]), norms)
    finally:
        torch.set_num_threads(before)


def test_what_one_thread_would_round_otherwise_is_computed_together() -> None:
    def alone(dtype: str, shape: tuple[int, ...], threads: int) -> bool:
        return computes_alone(Output("x", Spec(dtype, shape), "x"), threads)

    assert alone("BF16", (4096, 14336), 64) and alone("F32", (50257, 768), 16) and alone("BF16", (33,), 4)
    assert alone("F64", (515, 33), 1)
    assert not alone("F64", (4096, 4096), 2)
    assert not alone("F32", (4096, 100), 4) and not alone("F32", (100, 4096), 4)
    assert not alone("F32", (50257, 768), 1024)


# The writer ---------------------------------------------------------------------------------------------------------


def outputs_of(tensors: Mapping[str, torch.Tensor], dtypes: Mapping[torch.dtype, str]) -> list[Output]:
    return [Output(name, Spec(dtypes[value.dtype], tuple(value.shape)), name) for name, value in tensors.items()]


def written(directory: Path, tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> list[str]:
    names = {dtype: name for name, dtype in execution.TORCH.items()}
    writer = HfWriter(str(directory), outputs_of(tensors, names), shard_bytes)
    for name, value in tensors.items():
        writer.begin(name)
        data = execution._bytes_of(value)
        for at in range(0, len(data), 7):
            writer.write(data[at : at + 7])
    writer.finish()
    return sorted(path.name for path in directory.iterdir())


def loaded(directory: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in directory.glob("*.safetensors") for name, value in load_file(path).items()}


TENSORS = {
    "a": torch.arange(6, dtype=torch.float64).view(2, 3),
    "b": torch.arange(5, dtype=torch.float32),
    "c": torch.tensor(3.0, dtype=torch.bfloat16),
    "d": torch.zeros(0, 4, dtype=torch.bfloat16),
    "e": torch.tensor([True, False, True]),
    "f": torch.arange(9, dtype=torch.int8),
}


@pytest.mark.parametrize(("limit", "files"), [(10_000, 1), (68, 2), (48, 2), (1, 6)])
def test_shards_are_those_that_the_limit_asks_for(tmp_path: Path, limit: int, files: int) -> None:
    names = written(tmp_path, TENSORS, limit)
    if files == 1:
        assert names == ["model.safetensors"]
    else:
        shards = [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]
        assert names == sorted([*shards, INDEX])
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
        for name, file in index["weight_map"].items():
            with safe_open(tmp_path / file, "pt") as opened:
                assert name in opened.keys()  # noqa: SIM118
    found = loaded(tmp_path)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own(tmp_path: Path) -> None:
    tensors = {"small": torch.ones(4), "large": torch.ones(1000), "last": torch.ones(4)}
    assert len(written(tmp_path, tensors, 100)) == 4
    assert len(load_file(tmp_path / "model-00002-of-00003.safetensors")) == 1


def test_headers_are_aligned_and_hold_what_transformers_asks_for(tmp_path: Path) -> None:
    written(tmp_path, {"ü" * length: torch.ones(1) for length in range(1, 20)}, 8)
    for path in tmp_path.glob("*.safetensors"):
        assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_a_tensor_out_of_turn_is_a_bug(tmp_path: Path) -> None:
    writer = HfWriter(str(tmp_path), [Output("a", Spec("F32", (1,)), "a"), Output("b", Spec("F32", (1,)), "b")])
    with pytest.raises(ValueError, match="out of turn"):
        writer.begin("b")
    writer.abort()


# The plan -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adding:
    """Adds a number to every row."""

    target: str
    number: float

    def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
        return block + self.number


@dataclass(frozen=True)
class Swapping:
    """Swaps two tensors: needs both."""

    targets: tuple[str, ...]

    def outputs(self, inputs: Mapping[str, Spec]) -> Mapping[str, Spec]:
        first, second = self.targets
        return {first: inputs[second], second: inputs[first]}

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        first, second = self.targets
        return {first: tensors[second], second: tensors[first]}


def changes(*rows: RowChange, modules: tuple[Swapping, ...] = ()) -> Changes:
    return Changes(rows, modules)


BASE = {"x": Spec("F32", (3, 2)), "y": Spec("BF16", (4,)), "z": Spec("F32", (3, 2)), "n": Spec("I64", (2,))}


def test_the_widest_come_first_and_else_the_order_stays() -> None:
    plan = plan_merge(BASE, [], dtype=None, order=BASE)
    assert [item.name for item in plan.outputs] == ["n", "x", "z", "y"]
    assert plan.changed == () and all(not item.steps for item in plan.outputs)


def test_steps_of_a_tensor_are_in_the_order_of_the_stages() -> None:
    stages = [(changes(Adding("x", number)), None) for number in (1.0, 2.0, 3.0)]
    plan = plan_merge(BASE, stages, dtype=None, order=BASE)
    steps = next(item.steps for item in plan.outputs if item.name == "x")
    assert [step.row.number for step in steps if isinstance(step.row, Adding)] == [1.0, 2.0, 3.0]
    assert plan.changed == ("x",)


def test_tensors_that_changes_join_are_one_group_and_stand_together() -> None:
    base = {name: Spec("F32", (2,)) for name in "abcdef"}
    first = changes(Adding("e", 1.0), modules=(Swapping(("a", "c")),))
    second = changes(Adding("a", 2.0), modules=(Swapping(("c", "e")),))
    plan = plan_merge(base, [(first, None), (second, None)], dtype=None, order=base)
    assert [item.name for item in plan.outputs] == ["a", "c", "e", "b", "d", "f"]
    assert [group.names for group in plan.groups] == [("a", "c", "e")]
    kinds = [step.row or step.module for step in plan.groups[0].steps]
    assert kinds.index(Swapping(("a", "c"))) < kinds.index(Swapping(("c", "e")))
    assert kinds.index(Adding("e", 1.0)) < kinds.index(Swapping(("c", "e")))
    assert kinds.index(Swapping(("a", "c"))) < kinds.index(Adding("a", 2.0))


def test_groups_and_rows_are_executed_in_order() -> None:
    values = {name: torch.full((2,), float(index)) for index, name in enumerate("abcd")}
    base = {name: Spec("F32", (2,)) for name in values}
    first = changes(Adding("d", 10.0), modules=(Swapping(("a", "c")),))
    second = changes(Adding("a", 100.0))
    found = run(base, values, [(first, None), (second, None)], dtype=None)
    assert {name: float(value[0]) for name, value in found.items()} == {"a": 102.0, "b": 1.0, "c": 0.0, "d": 13.0}


def test_only_floats_of_16_and_32_bits_are_cast() -> None:
    specs = {f"t{index}": Spec(name, (2, 2)) for index, name in enumerate(execution.TORCH)}
    plan = plan_merge(specs, [], dtype="F16", order=specs)
    for item in plan.outputs:
        own = specs[item.name].dtype
        assert item.spec.dtype == ("F16" if own in ("BF16", "F16", "F32") else own)


class FakeSource:
    """A `TensorSource` over tensors in memory."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self._values = values

    def digest(self, name: str) -> str:
        return blake3.blake3(execution._bytes_of(self._values[name])).hexdigest()

    def frames(self, name: str, pool: object = None) -> Iterator[memoryview]:
        data = execution._bytes_of(self._values[name])
        for at in range(0, len(data), 1001):
            yield memoryview(data)[at : at + 1001]

    def blocks(self, name: str, rows: int | None, buffers: Buffers, pool: object = None) -> Iterator[Block]:
        value = self._values[name]
        count = value.nbytes if rows is None else value.shape[0] if value.ndim else 1
        width = value.nbytes // count if count else 0
        yield from row_blocks(self.frames(name), row_cuts(count, rows or 1000), width, buffers)


class FakeWriter:
    """A `ModelWriter` that keeps everything."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def begin(self, name: str) -> None:
        self._name = name
        self.data[name] = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data[self._name] += bytes(data)

    def finish(self) -> None:
        return


def run(
    base: Mapping[str, Spec],
    values: Mapping[str, torch.Tensor],
    stages: list[tuple[Changes, str | None]],
    *,
    dtype: str | None,
) -> dict[str, torch.Tensor]:
    plan = plan_merge(base, stages, dtype=dtype, order=base)
    writer = FakeWriter()
    source: Any = FakeSource(values)
    execution.execute(plan, source, writer, device="cpu", progress=SILENT)
    found = {}
    for item in plan.outputs:
        kind = execution.TORCH[item.spec.dtype]
        data = bytearray(writer.data[item.name])
        found[item.name] = (torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)).view(
            item.spec.shape
        )
    return found


SHAPES = [(), (0,), (1,), (0, 3), (3, 0), (255, 2), (256, 2), (511, 2), (512, 2), (513, 2), (1030, 700), (4, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [None, "F16"])
def test_every_shape_is_executed_in_blocks(shape: tuple[int, ...], dtype: str | None) -> None:
    torch.manual_seed(0)
    value = torch.randn(shape)
    base = {"x": Spec("F32", shape), "y": Spec("F32", shape)}
    found = run(base, {"x": value, "y": value}, [(changes(Adding("x", 1.0)), dtype)], dtype=dtype)
    kind = torch.float32 if dtype is None else torch.float16
    assert torch.equal(found["x"], value.to(kind) + 1.0)
    assert torch.equal(found["y"], value.to(kind))


def test_an_error_of_a_change_ends_the_merge_and_its_threads() -> None:
    class Failing(Adding):
        def rows(self, block: torch.Tensor, begin: int) -> torch.Tensor:
            raise ZeroDivisionError

    before = threading.active_count()
    values = {f"t{index}": torch.zeros(600, 4) for index in range(40)}
    base = {name: Spec("F32", (600, 4)) for name in values}
    with pytest.raises(ZeroDivisionError):
        run(base, values, [(changes(*(Failing(name, 1.0) for name in base)), None)], dtype=None)
    gc.collect()
    assert threading.active_count() == before


# Whole merges -------------------------------------------------------------------------------------------------------


def merged(store: Store, tmp_path: Path, base: Path, dtype: str | None = None) -> dict[str, torch.Tensor]:
    store.add_base("base", base)
    store.import_path(making.write_adapter(tmp_path / "adapter", 1), name="one", base="base")
    store.merge("one", tmp_path / "out", dtype=dtype)
    return loaded(tmp_path / "out")


def base_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "layers.0.q_proj.weight": torch.randn(8, 8).bfloat16(),
        "layers.0.scale": torch.randn(8),
        "layers.0.eight": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "layers.0.mask": torch.tensor([[True, False], [False, True]]),
        "layers.0.ids": torch.arange(7),
        "layers.0.double": torch.randn(3, dtype=torch.float64),
        "layers.0.empty": torch.zeros(0, 3, dtype=torch.bfloat16),
        "layers.0.number": torch.tensor(2.5, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("dtype", [None, "fp16", "fp32", "bf16"])
def test_what_is_no_ordinary_float_is_left_alone(store: Store, tmp_path: Path, dtype: str | None) -> None:
    tensors = base_tensors()
    (tmp_path / "base").mkdir()
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type":"llama"}')
    found = merged(store, tmp_path, tmp_path / "base", dtype)
    kind = {None: None, "fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for name, value in tensors.items():
        cast = kind is not None and value.dtype in (torch.bfloat16, torch.float16, torch.float32)
        wanted = value.to(kind) if cast and kind is not None else value
        assert found[name].dtype == wanted.dtype, name
        if "q_proj" not in name:
            assert bytes(execution._bytes_of(found[name])) == bytes(execution._bytes_of(wanted)), name


def test_a_base_of_views_in_a_bin_file(store: Store, tmp_path: Path) -> None:
    """Strided, tied and overlapping tensors of a pickled file come out whole, in C order."""
    torch.manual_seed(2)
    shared = torch.randn(40, 8)
    tensors = {
        "layers.0.q_proj.weight": torch.randn(8, 8),
        "embed_tokens.weight": shared,
        "lm_head.weight": shared,
        "layers.0.turned.weight": torch.randn(6, 9).t(),
        "layers.0.slice": shared[8:24],
        "layers.0.steps": torch.arange(20.0)[::2],
    }
    (tmp_path / "base").mkdir()
    torch.save(tensors, tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "config.json").write_text('{"model_type":"llama"}')
    found = merged(store, tmp_path, tmp_path / "base")
    for name, value in tensors.items():
        if name in found and "q_proj" not in name:
            assert torch.equal(found[name], value), name
    assert found.keys() >= tensors.keys() - {"lm_head.weight"}
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.layers.0.q_proj"
    update = adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"] * 2.0
    name = "layers.0.q_proj.weight"
    assert torch.equal(found[name].nan_to_num(), (tensors[name] + update).nan_to_num())


def test_a_base_that_is_read_directly_equals_one_that_is_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_file(base_tensors(), tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type":"llama"}')
    merged(store, tmp_path, tmp_path / "base")
    store.keep_base("base")
    store.merge("one", tmp_path / "again")
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()
