"""`Store.diff` over real checkpoints: against everything computed naively, by ref, by path, damaged, and stopped."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptfmt import Store
from ckptfmt.api.diffing import diff
from ckptfmt.api.results_diff import ChangedTensor, DiffReport
from ckptfmt.diff import comparing
from ckptfmt.errors import BaseMismatch, CkptfmtError, IntegrityError, InvalidInput, NotFound
from ckptfmt.progress import Silent
from tests.conftest import Made
from tests.diff import oracle
from tests.fixtures import hf, nanogpt, peft_adapters, stages, trainer
from tests.transfer.headers import Written, file_of, noise

PREFIX = "base_model.model."


class Counting(Silent):
    """Progress that counts, and stops after some calls."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.bytes = 0
        self.total = 0
        self.calls = 0
        self.stop_after = stop_after

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._call()
        if label == "compare":
            self.bytes, self.total = 0, total_bytes or 0

    def advance(self, done_bytes: int) -> None:
        self._call()
        self.bytes += done_bytes

    def end(self) -> None:
        self._call()

    def _call(self) -> None:
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt


def copied(source: Path, target: Path, **changes: Any) -> Path:
    """A checkpoint with some tensors of its first safetensors file replaced by what functions make of them."""
    shutil.copytree(source, target)
    path = next(iter(sorted(target.glob("*.safetensors"))))
    tensors = load_file(path)
    for key, make in changes.items():
        name = key.replace("__", ".")
        tensors[name] = make(tensors[name])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return target


def moved(tensor: torch.Tensor, size: float = 1e-2, seed: int = 1) -> torch.Tensor:
    drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    return (tensor.float() + size * drawn).to(tensor.dtype)


def written(directory: Path, *tensors: Written) -> Path:
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(file_of(*tensors))
    return directory


def by_name(report: DiffReport) -> dict[str, ChangedTensor]:
    return {each.name: each for each in report.tensors.changed}


def check_tensor(found: ChangedTensor, first: torch.Tensor, second: torch.Tensor) -> None:
    said = oracle.compare(first, second)
    assert oracle.near(found.norm_a, said.norm_a)
    assert oracle.near(found.norm_b, said.norm_b)
    assert oracle.near(found.norm, said.norm)
    assert oracle.near(found.relative_norm, said.relative_norm)
    assert found.largest_change == pytest.approx(said.largest, rel=1e-6)
    assert found.cosine == pytest.approx(said.cosine, abs=1e-6)
    assert found.changed_elements == pytest.approx(said.changed / first.numel())
    if said.changed_bits is not None:
        assert found.changed_bits == pytest.approx(said.changed_bits / (8 * first.numel() * first.element_size()))
    if said.rank is None:
        assert found.effective_rank is None
    else:
        tolerance = 0.12 if found.rank_estimated else 1e-5
        assert found.effective_rank == pytest.approx(said.rank, rel=tolerance)


@pytest.mark.fixtures
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_models_are_what_the_plain_comparison_says(
    store: Store, checkpoint: Made, tmp_path: Path, dtype: str
) -> None:
    first = checkpoint(hf.make, dtype=dtype)
    changed = {
        "model__layers__0__self_attn__q_proj__weight": moved,
        "model__layers__1__mlp__down_proj__weight": lambda each: moved(each, 1e-4),
        "model__norm__weight": lambda each: moved(each, 0.5),
        "model__layers__1__self_attn__k_proj__weight": lambda each: each.to(torch.float64),
    }
    second = copied(first, tmp_path / "second", **changed)
    store.import_checkpoint(first, "one")
    store.import_checkpoint(second, "two")
    report = store.diff("one", "two")

    mine, theirs = (load_file(each / "model.safetensors") for each in (first, second))
    found = by_name(report)
    assert set(found) == {name.replace("__", ".") for name in changed}
    for name, each in found.items():
        check_tensor(each, mine[name], theirs[name])
    cast = found["model.layers.1.self_attn.k_proj.weight"]
    assert (cast.dtype_b, cast.relative_norm, cast.changed_bits, cast.changed_elements) == ("F64", 0.0, None, 0.0)
    assert report.summary.retyped == 1
    assert report.tensors.same == len(mine) - 4
    assert set(report.tensors.same_names) == set(mine) - set(found)
    norms = [each.relative_norm for each in report.tensors.changed]
    assert norms == sorted(norms, reverse=True), "the largest first"

    cells = {(cell.layer, cell.module): cell for cell in report.summary.cells}
    assert report.summary.layers == ("0", "1")
    assert cells["0", "self_attn.q_proj"].relative_norm == found["model.layers.0.self_attn.q_proj.weight"].relative_norm
    assert (cells["1", "self_attn.q_proj"].relative_norm, cells["1", "self_attn.q_proj"].changed) == (0.0, 0)
    assert (cells["1", "self_attn.k_proj"].relative_norm, cells["1", "self_attn.k_proj"].changed) == (0.0, 1)
    assert cells[None, "model.norm"].changed == 1
    assert sum(cell.tensors for cell in report.summary.cells) == len(mine)
    assert not report.summary.identical


@pytest.mark.fixtures
def test_refs_and_paths_say_the_same(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(trainer.make) / "checkpoint-2"
    second = first.parent / "checkpoint-4"
    store.import_checkpoint(first, "run/2")
    store.import_checkpoint(second, "run/4")
    names = {"ref": ("run/2", "run/4"), "path": (first, second)}
    reports = [store.diff(names[one][0], names[other][1]) for one in names for other in names]
    reports.append(diff(None, str(first), str(second)))
    for report in reports[1:]:
        assert (report.files, report.tensors, report.settings, report.metrics) == (
            reports[0].files,
            reports[0].tensors,
            reports[0].settings,
            reports[0].metrics,
        )
        assert report.summary.cells == reports[0].summary.cells
    assert (reports[0].a.kind, reports[-1].a.kind) == ("ref", "path")
    assert (reports[0].a.step, reports[-1].b.step) == (2, 4)
    changed = [each.key for each in reports[0].metrics.changed]
    assert any("eval_loss" in key for key in changed), changed
    optimizer = [each for each in reports[0].tensors.changed if each.role == "optimizer"]
    assert optimizer
    assert {cell.of for cell in reports[0].summary.cells} == {"model"}
    again = store.diff("run/2", first)
    assert again.summary.identical
    assert again.summary.read_bytes == 0


@pytest.mark.fixtures
def test_a_checkpoint_is_named_in_every_way(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(hf.make)
    second = copied(first, tmp_path / "second", model__norm__weight=moved)
    store.add_base("tiny", first)
    store.import_checkpoint(first, "run", base="tiny")
    store.import_checkpoint(second, "run", base="tiny")
    newest, second_of_two = store.diff("run@1", "run"), store.diff("run@1", "run@2")
    assert (newest.tensors, newest.summary) == (second_of_two.tensors, second_of_two.summary)
    assert (newest.b.name, second_of_two.b.name) == ("run", "run@2")
    from_base = store.diff("bases/tiny", "run")
    assert from_base.summary.lineage == "A is the base of B"
    assert [each.name for each in from_base.tensors.changed] == ["model.norm.weight"]
    assert from_base.a.kind == "base"
    assert store.diff("run", "bases/tiny@1").summary.lineage == "B is the base of A"
    assert store.diff("run@1", "run@2").summary.same_base is True
    assert len(store.diff(store.show("run@1").id[:12], "run").tensors.changed) == 1


@pytest.mark.fixtures
def test_what_names_nothing_is_told_with_the_path_it_may_mean(
    store: Store, checkpoint: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoint(hf.make)
    store.import_checkpoint(first, "run")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first, tmp_path / "other")
    shutil.copytree(first, tmp_path / "run")
    with pytest.raises(NotFound) as raised:
        store.diff("run", "other")
    assert raised.value.hint == "if the path is meant: ./other"
    with pytest.raises(NotFound):
        store.diff("run", "./nothing")
    with pytest.raises(NotFound, match="no store"):
        diff(None, "./other", "run")
    assert store.diff("run", "./other").summary.identical
    assert any("./run" in note for note in store.diff("run", "./other").summary.notes), "both a ref and a path"
    with pytest.raises(InvalidInput, match="2 checkpoints"):
        store.diff("run", tmp_path)


def test_equal_digests_are_not_read(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big, own = noise(9 << 20), [noise(4000, seed) for seed in (1, 2)]
    for at, name in enumerate(("one", "two")):
        source = written(
            tmp_path / name, Written("big", "U8", (9 << 20,), big), Written("own", "F32", (1000,), own[at])
        )
        store.import_checkpoint(source, name)
    read: list[int] = []
    storage = type(store.engine.readable)
    plain = storage.read

    def counted(self: Any, key: str, offset: int, length: int) -> bytes:
        data: bytes = plain(self, key, offset, length)
        if key.startswith("shards/"):
            read.append(len(data))
        return data

    monkeypatch.setattr(storage, "read", counted)
    progress = Counting()
    report = store.diff("one", "two", progress=progress)
    assert (report.tensors.same_names, report.summary.read_bytes) == (("big",), 8000)
    assert progress.bytes == progress.total == 8000
    assert sum(read) < 100_000, "the header of a shard and 8 kB"


def test_tied_tensors_are_read_once(store: Store, tmp_path: Path) -> None:
    state = {"wte.weight": torch.randn(40, 8), "ln.weight": torch.ones(8)}
    for name, factor in (("one", 1.0), ("two", 1.1)):
        (tmp_path / name).mkdir()
        tied = state["wte.weight"] * factor
        torch.save(
            {"wte.weight": tied, "lm_head.weight": tied, "ln.weight": state["ln.weight"]}, tmp_path / name / "model.pt"
        )
        store.import_checkpoint(tmp_path / name, name)
    report = store.diff("one", "two")
    found = by_name(report)
    assert found["wte.weight"].relative_norm == found["lm_head.weight"].relative_norm == pytest.approx(0.1)
    assert report.summary.read_bytes == 2 * 4 * 320


def test_a_transpose_and_a_slice_are_read_as_they_are_meant(store: Store, tmp_path: Path) -> None:
    whole = torch.randn(30, 50)
    for name, factor in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        storage = whole * factor
        torch.save({"t.weight": storage.t(), "rows.weight": storage[3:9]}, tmp_path / name / "model.pt")
        store.import_checkpoint(tmp_path / name, name)
    found = by_name(store.diff("one", "two"))
    check_tensor(found["t.weight"], whole.t(), 2 * whole.t())
    check_tensor(found["rows.weight"], whole[3:9], 2 * whole[3:9])


def test_tensors_of_every_kind(store: Store, tmp_path: Path) -> None:
    f32 = np.array([0.0, 1.0, math.nan, math.inf], "<f4").tobytes()
    minus = np.array([-0.0, 1.0, math.nan, math.inf], "<f4").tobytes()
    kinds: dict[str, tuple[str, tuple[int, ...], bytes, bytes]] = {
        "bits": ("F32", (4,), f32, minus),
        "empty": ("F32", (0, 3), b"", b""),
        "scalar": ("F32", (), f32[:4], f32[4:8]),
        "number": ("I64", (2,), np.array([5, 2**62], "<i8").tobytes(), np.array([5, 2**62 + 1], "<i8").tobytes()),
        "flag": ("BOOL", (3,), b"\0\1\1", b"\0\1\0"),
        "eight": ("F8_E4M3", (2, 2), bytes([0x38, 0x38, 0x40, 0x7F]), bytes([0x38, 0x40, 0x40, 0x7F])),
        "packed": ("F4", (4,), b"\x12\x34", b"\x12\x35"),
    }
    for at, name in enumerate(("one", "two")):
        tensors = [Written(key, dtype, shape, data[at]) for key, (dtype, shape, *data) in kinds.items()]
        store.import_checkpoint(written(tmp_path / name, *tensors), name)
    report = store.diff("one", "two")
    found = by_name(report)
    assert report.tensors.same_names == ("empty",)
    bits = found["bits"]
    assert (bits.relative_norm, bits.changed_elements, bits.changed_bits, bits.not_finite) == (0.0, 0.0, 1 / 128, 2)
    assert (found["scalar"].relative_norm, found["scalar"].norm, found["scalar"].cosine) == (None, 1.0, None)
    assert (found["number"].largest_change, found["number"].changed_elements) == (1.0, 0.5)
    assert (found["flag"].largest_change, found["flag"].norm_a) == (1.0, pytest.approx(math.sqrt(2)))
    assert (found["eight"].norm, found["eight"].not_finite) == (1.0, 1)
    assert found["packed"].norm is None
    assert found["packed"].changed_bits == pytest.approx(1 / 16)
    assert found["scalar"].name == report.tensors.changed[0].name, "a change from zero is the largest"
    assert report.tensors.changed[-1].name == "packed"


def test_a_tensor_of_many_frames_in_two_types(store: Store, tmp_path: Path) -> None:
    """Frames of both end at other elements, and rows at neither."""
    drawn = torch.randn(4003, 601, generator=torch.Generator().manual_seed(2))
    later = drawn + 1e-3 * torch.randn(4003, 4) @ torch.randn(4, 601)
    for name, tensor in (("one", drawn), ("two", later), ("half", later.to(torch.bfloat16))):
        (tmp_path / name).mkdir()
        save_file({"model.layers.0.w.weight": tensor}, tmp_path / name / "model.safetensors")
        store.import_checkpoint(tmp_path / name, name)
    check_tensor(store.diff("one", "two").tensors.changed[0], drawn, later)
    check_tensor(store.diff("one", "half").tensors.changed[0], drawn, later.to(torch.bfloat16))
    without = store.diff("one", "two", ranks=False).tensors.changed[0]
    assert (without.effective_rank, without.rank_estimated) == (None, False)


def test_a_packed_tensor_against_another_type_is_not_measured(store: Store, tmp_path: Path) -> None:
    """Also where it has many frames, which end at other elements on each side."""
    elements = 5 << 20
    store.import_checkpoint(written(tmp_path / "one", Written("w", "F4", (elements,), bytes(elements // 2))), "one")
    store.import_checkpoint(written(tmp_path / "two", Written("w", "BF16", (elements,), bytes(2 * elements))), "two")
    for sides in (("one", "two"), ("two", "one")):
        report = store.diff(*sides)
        (found,) = report.tensors.changed
        assert (found.norm, found.relative_norm, found.changed_elements, found.changed_bits) == (None,) * 4
        assert report.summary.read_bytes == 0


def test_what_tensors_leave_behind_does_not_add_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    most = 0

    class Watched(comparing._Running):
        def take(self, measured: Any) -> None:
            nonlocal most
            super().take(measured)
            held.append(self)
            most = max(most, sum(len(each.grams) for each in {id(each): each for each in held}.values()))

    for name, seed in (("one", 1), ("two", 2)):
        drawn = {
            f"t{at}": torch.randn(3000, 1024, generator=torch.Generator().manual_seed(seed + at)) for at in range(4)
        }
        (tmp_path / name).mkdir()
        save_file(drawn, tmp_path / name / "model.safetensors")
        store.import_checkpoint(tmp_path / name, name)
    monkeypatch.setattr(comparing, "_Running", Watched)
    report = store.diff("one", "two")
    assert all(each.effective_rank for each in report.tensors.changed)
    blocks = len(held) // 4
    assert blocks >= 3
    assert most <= blocks + 1


def update_of(directory: Path, module: str, scaling: float) -> Any:
    tensors = load_file(directory / "adapter_model.safetensors")
    a, b = (tensors[f"{PREFIX}{module}.lora_{each}.weight"].double() for each in "AB")
    return (scaling * b @ a).numpy()


@pytest.mark.fixtures
@pytest.mark.parametrize("method", ["lora", "lora-head"])
def test_adapters_are_compared_as_the_updates_they_would_build(
    store: Store, checkpoint: Made, tmp_path: Path, method: Any
) -> None:
    first = checkpoint(peft_adapters.make, method=method)
    second = checkpoint(peft_adapters.make, "second", seed=1, method=method, rank=6)
    store.import_checkpoint(first, "one")
    store.import_checkpoint(second, "two")
    report = store.diff("one", "two")
    [adapter] = report.adapters.compared
    assert adapter.how == "updates"
    assert len(adapter.modules) == 4
    squares = np.zeros(3)
    for row in adapter.modules:
        scalings = [row.scaling_a, row.scaling_b]
        if method == "lora":
            assert scalings == [2.0, 2.0]
        else:  # rsLoRA, and v_proj has rank 2 in both.
            ranks = (2, 2) if "v_proj" in row.module else (4, 6)
            assert (row.rank_a, row.rank_b) == ranks
            assert scalings == pytest.approx([8 / math.sqrt(ranks[0]), 12 / math.sqrt(ranks[1])])
        u, v = (
            update_of(each, row.module, scaling or 0) for each, scaling in zip((first, second), scalings, strict=True)
        )
        norms = [np.linalg.norm(each) for each in (u, v, v - u)]
        squares += np.square(norms)
        assert [row.norm_a, row.norm_b, row.norm] == pytest.approx(norms, rel=1e-6)
        assert row.relative_norm == pytest.approx(norms[2] / norms[0], rel=1e-6)
        assert row.cosine == pytest.approx(np.vdot(u, v) / norms[0] / norms[1], abs=1e-6)
        assert row.effective_rank == pytest.approx(oracle.rank(v - u), rel=1e-6)
        assert row.effective_rank_a == pytest.approx(oracle.rank(u), rel=1e-6)
    assert adapter.relative_norm == pytest.approx(math.sqrt(squares[2] / squares[0]), rel=1e-6)
    cells = [cell for cell in report.summary.cells if cell.of == "adapter"]
    assert {(cell.layer, cell.module) for cell in cells} == {
        (layer, f"self_attn.{module}") for layer in "01" for module in ("q_proj", "v_proj")
    }
    assert {each.key for each in report.settings.changed} >= {"adapters.default.r", "adapters.default.lora_alpha"}
    if method == "lora-head":
        assert any("lm_head" in each.name and each.effective_rank for each in report.tensors.changed)


@pytest.mark.fixtures
def test_modules_with_the_same_factors_are_not_read(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(peft_adapters.make)
    name = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight".replace(".", "__")
    second = copied(first, tmp_path / "second", **{name: moved})
    report = diff(store.engine, first, second)
    [adapter] = report.adapters.compared
    assert [row.module for row in adapter.modules] == ["model.layers.0.self_attn.q_proj"]
    assert adapter.same_modules == 3
    changed = {cell.module: cell.changed for cell in report.summary.cells if cell.layer == "0"}
    assert changed == {"self_attn.q_proj": 1, "self_attn.v_proj": 0}


@pytest.mark.fixtures
def test_the_scaling_alone_changes_an_update(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    first = checkpoint(peft_adapters.make)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    path = second / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "lora_alpha": 12, "alpha_pattern": {r"layers\.1\..*v_proj": 8}}))
    report = diff(store.engine, first, second)
    assert report.tensors.changed == ()
    [adapter] = report.adapters.compared
    assert {row.module: row.relative_norm for row in adapter.modules} == pytest.approx(
        {f"model.layers.{module}": 0.5 for module in ("0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj")}
    )
    assert adapter.same_modules == 1
    assert adapter.cosine == pytest.approx(1.0)


@pytest.mark.fixtures
@pytest.mark.parametrize(
    ("method", "why"), [("dora", "DoRA"), ("ia3", "IA3"), ("loha", "LOHA"), ("prompt", "PROMPT_TUNING")]
)
def test_other_methods_are_compared_tensor_by_tensor_and_say_so(
    store: Store, checkpoint: Made, tmp_path: Path, method: Any, why: str
) -> None:
    first = checkpoint(peft_adapters.make, method=method)
    name = sorted(load_file(first / "adapter_model.safetensors"))[0]
    second = copied(first, tmp_path / "second", **{name.replace(".", "__"): moved})
    report = diff(store.engine, first, second)
    [adapter] = report.adapters.compared
    assert (adapter.how, adapter.modules, adapter.relative_norm) == ("tensors", (), None)
    assert why in (adapter.why or "")
    assert report.tensors.changed
    assert {cell.of for cell in report.summary.cells} == {"adapter"}


@pytest.mark.fixtures
@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "pissa"},
        {"use_qalora": True},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ],
)
def test_lora_that_is_more_than_its_factors_says_so(
    store: Store, checkpoint: Made, tmp_path: Path, config: dict[str, Any]
) -> None:
    first = checkpoint(peft_adapters.make)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    path = second / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    [adapter] = diff(store.engine, first, second).adapters.compared
    assert adapter.how == "tensors"
    assert next(iter(config)) in (adapter.why or "")


@pytest.mark.fixtures
@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": None},
        {"lora_alpha": "8"},
        {"alpha_pattern": [1]},
        {"alpha_pattern": {"(": 1}},
        {"init_lora_weights": {}},
    ],
)
def test_a_configuration_that_nobody_can_read_costs_the_updates_alone(
    store: Store, checkpoint: Made, tmp_path: Path, config: dict[str, Any]
) -> None:
    first = checkpoint(peft_adapters.make)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    path = second / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    [adapter] = diff(store.engine, first, second).adapters.compared
    assert adapter.how == "tensors"
    assert adapter.why


@pytest.mark.fixtures
def test_lora_in_a_universal_checkpoint(store: Store, tmp_path: Path) -> None:
    for seed in (0, 1):
        nanogpt.make(tmp_path / str(seed), seed, lora=True, merged=False)
    report = diff(store.engine, tmp_path / "0", tmp_path / "1")
    [adapter] = report.adapters.compared
    assert adapter.how == "updates", adapter.why
    documents = [torch.load(tmp_path / str(seed) / "ckpt.pt", weights_only=True) for seed in (0, 1)]
    for row in adapter.modules:
        built = []
        for document in documents:
            state = {key.removeprefix("_orig_mod."): value for key, value in document["model"].items()}
            a, b = (state[f"{row.module}.lora_{each}.weight"].double() for each in "AB")
            built.append((row.scaling_a or 0) * (b @ a if b.shape[1] == a.shape[0] else a @ b.T))
        assert row.norm_a == pytest.approx(float(built[0].norm()), rel=1e-6)
        assert row.norm == pytest.approx(float((built[1] - built[0]).norm()), rel=1e-6)


@pytest.mark.fixtures
def test_a_full_model_against_an_adapter_says_what_to_do(store: Store, checkpoint: Made) -> None:
    full, adapter = checkpoint(hf.make), checkpoint(peft_adapters.make)
    store.add_base("tiny", full)
    store.import_checkpoint(full, "full", base="tiny")
    store.import_checkpoint(adapter, "adapter", base="tiny")
    report = store.diff("full", "adapter")
    assert not report.summary.comparable
    assert (report.summary.cells, report.summary.relative_norm, report.summary.read_bytes) == ((), None, 0)
    assert report.summary.same_base is True
    [note] = report.summary.notes
    assert "A is a full model and B an adapter (LORA)" in note
    assert "ckptfmt merge adapter ./merged" in note
    assert report.adapters.added == ("default",)


def test_models_without_a_name_in_common_say_so(store: Store, tmp_path: Path) -> None:
    for name, tensors in (("one", "ab"), ("two", "cd"), ("three", "bd")):
        made = [Written(f"layers.0.{each}.weight", "F32", (8, 8), noise(256, ord(each))) for each in tensors]
        store.import_checkpoint(written(tmp_path / name, *made), name)
    assert store.diff("one", "two").summary.notes == ("no tensor of B is called as one of A is: none can be compared",)
    assert store.diff("one", "three").summary.notes == ()
    assert store.diff("one", "one").summary.notes == ()


@pytest.mark.fixtures
def test_stages_know_how_they_are_related(store: Store, checkpoint: Made) -> None:
    store.import_path(checkpoint(stages.make), name="boot/{name}")
    names = sorted(row.ref for row in store.list_refs() if row.ref.endswith("_outputs"))
    assert store.diff(names[0], names[1]).summary.lineage == "B was trained from A"
    assert store.diff(names[2], names[0]).summary.lineage == "A was trained from B, 2 stages before"


def test_it_may_be_stopped_at_any_call(store: Store, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        tensors = [Written(f"w{at}", "F32", (1 << 18,), noise(1 << 20, seed * 9 + at)) for at in range(3)]
        tensors.append(Written("long", "BF16", (5 << 20,), noise(10 << 20, seed + 50)))
        store.import_checkpoint(written(tmp_path / name, *tensors), name)
    whole = Counting()
    report = store.diff("one", tmp_path / "two", progress=whole)
    assert len(report.tensors.changed) == 4
    before = sorted(os.listdir(store.path))
    for calls in range(whole.calls):
        with pytest.raises(KeyboardInterrupt):
            store.diff("one", tmp_path / "two", progress=Counting(calls))
    assert sorted(os.listdir(store.path)) == before
    assert store.diff("one", tmp_path / "two").tensors == report.tensors


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> Iterator[tuple[Store, Path, Path]]:
    """`one` and `two` in the store, one tensor each."""
    places = []
    for name, seed in (("one", 0), ("two", 1)):
        places.append(written(tmp_path / name, Written("w", "F32", (1 << 18,), noise(1 << 20, seed))))
        store.import_checkpoint(places[-1], name, effort="fast")
    yield store, *places


def test_damage_is_told_with_checkpoint_and_tensor(pair: tuple[Store, Path, Path]) -> None:
    store, *_ = pair
    for shard in Path(store.path, "shards").rglob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[-1000] ^= 1
        shard.chmod(0o644)
        shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"(one|two): tensor 'w': object") as raised:
        store.diff("one", "two")
    assert raised.value.exit_code == 3


def test_a_file_that_changes_meanwhile_is_told(pair: tuple[Store, Path, Path]) -> None:
    store, first, second = pair

    class Writing(Counting):
        def begin(self, label: str, total_bytes: int | None) -> None:
            if label == "compare":
                with (second / "model.safetensors").open("r+b") as file:
                    file.seek(-5, os.SEEK_END)
                    file.write(b"12345")

    with pytest.raises(IntegrityError, match="tensor 'w' changed while it was read") as raised:
        store.diff(first, second, progress=Writing())
    assert raised.value.code == "changed-while-read"


@pytest.mark.fixtures
def test_a_base_that_is_gone_is_told(store: Store, checkpoint: Made, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(checkpoint(hf.make), base)
    other = checkpoint(hf.make, "other", seed=3)
    store.add_base("tiny", base)
    store.import_checkpoint(other, "other", effort="fast")
    shutil.rmtree(base)
    with pytest.raises(BaseMismatch, match="base 'tiny'"):
        store.diff("bases/tiny", "other")
    with pytest.raises(CkptfmtError):
        store.diff("bases/none", "other")


def test_neither_torch_nor_scipy_is_loaded(pair: tuple[Store, Path, Path]) -> None:
    store, _, second = pair
    store.close()
    program = (
        "import sys\nfrom ckptfmt import Store\n"
        f"with Store.open({store.path!r}) as store:\n    assert store.diff('one', {str(second)!r}).tensors.changed\n"
        "print(sorted({'torch', 'scipy', 'transformers', 'textual'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n"
