from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.layouts.training_pt import FileName, read_file_name
from tests.fixtures import nanogpt, training_pt
from tests.layouts.conftest import Made
from tests.layouts.reading import names_of, read, roles_of

pytestmark = pytest.mark.fixtures


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_universal(made: Made, lora: bool, compiled: bool) -> None:
    directory, names = made(nanogpt.make, lora=lora, compiled=compiled)
    reading = read(directory)
    assert reading.layout == "universal"
    assert names_of(reading, "model") == names
    assert not reading.adapters
    assert reading.step == 250
    assert reading.settings["model_args"]["n_embd"] == 32
    assert reading.settings["config"]["learning_rate"] == 6e-4
    assert roles_of(reading)["optimizer", None] > 30
    saved = torch.load(directory / "ckpt.pt", weights_only=True)["best_val_loss"]
    assert reading.metrics == {"best_val_loss": saved.item()}


@pytest.mark.parametrize("compiled", [False, True])
def test_universal_with_lora_still_in_it(made: Made, compiled: bool) -> None:
    directory, names = made(nanogpt.make, lora=True, merged=False, compiled=compiled)
    reading = read(directory)
    assert names_of(reading, "model") == names
    (adapter,) = reading.adapters
    assert (adapter.name, adapter.path, adapter.method) == ("default", "ckpt.pt", "nanogpt-lora")
    assert adapter.config["attn_lora_rank"] == 4
    assert adapter.config["embedding_rank"] == 2
    assert adapter.config["lora_alpha"] == 8.0
    assert names_of(reading, "adapter", "default") == sorted(
        f"transformer.{module}.lora_{factor}.weight"
        for module in ("wte", "h.0.attn.c_attn", "h.1.attn.c_attn")
        for factor in "AB"
    )
    assert not reading.notes


def test_a_first_best_loss_is_a_number(tmp_path: Path) -> None:
    checkpoint = {"model": {"a.weight": torch.ones(2)}, "iter_num": 0, "best_val_loss": 1e9, "config": None}
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    reading = read(tmp_path)
    assert (reading.layout, reading.step, reading.metrics) == ("universal", 0, {"best_val_loss": 1e9})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_a_best_loss_of_any_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = {"model": {"a.weight": torch.ones(2)}, "iter_num": 5, "best_val_loss": torch.tensor(3, dtype=dtype)}
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    assert read(tmp_path).metrics == {"best_val_loss": 3}


@pytest.mark.parametrize("model_type", ["bigram", "gpt2"])
def test_training(made: Made, model_type: Any) -> None:
    directory, names = made(training_pt.make, model_type=model_type)
    reading = read(directory)
    assert reading.layout == "training-pt"
    assert names_of(reading, "model") == names
    assert reading.step == 500
    assert roles_of(reading).keys() == {("model", None), ("optimizer", None)}
    expected = {
        "model": model_type,
        "source": "carolyn_hax",
        "timestamp": "11102025_231500",
        "vocab_size": 200,
        "block_size": 16,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "use_lora": False,
    }
    assert expected.items() <= dict(reading.settings).items()
    assert not reading.notes


@pytest.mark.parametrize(
    ("name", "hyperparameters", "expected"),
    [
        (
            "checkpoint_bigram_carolyn_hax_step0500_11102025_231500.pt",
            {},
            FileName("bigram", "carolyn_hax", 500, "11102025_231500"),
        ),
        ("checkpoint_gpt2_a_step2_b_step30_1_2.pt", {}, FileName("gpt2", "a_step2_b", 30, "1_2")),
        ("checkpoint_gpt2_step7.pt", {}, FileName("gpt2", None, 7, None)),
        (
            "checkpoint_from_scratch_hax_step7_x.pt",
            {"model_type": "from_scratch"},
            FileName("from_scratch", "hax", 7, "x"),
        ),
        ("checkpoint_gpt2_hax_step7_x.pt", {"model_type": "gpt"}, FileName("gpt2", "hax", 7, "x")),
        ("checkpoint_bigram.pt", {}, None),
        ("ckpt.pt", {}, None),
    ],
)
def test_file_names(name: str, hyperparameters: dict[str, Any], expected: FileName | None) -> None:
    assert read_file_name(name, hyperparameters) == expected


def test_a_name_that_contradicts_the_file(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"w": torch.ones(1)}, "step": 8}, tmp_path / "checkpoint_a_b_step9_t.pt")
    reading = read(tmp_path)
    assert reading.step == 8
    assert any("says step 8, its name step 9" in note for note in reading.notes)


def test_lightning_and_others_read_alike(tmp_path: Path) -> None:
    checkpoint = {
        "state_dict": {"net.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "global_step": 40,
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
        "val_loss": torch.tensor(0.5),
        "metrics": {"accuracy": 0.25, "by_class": {"a": 1.0}, "bad": float("nan")},
        "ema": {"net.weight": torch.ones(2)},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    reading = read(tmp_path)
    assert (reading.layout, reading.step) == ("training-pt", 40)
    assert reading.settings == {"lr": 0.1, "epoch": 3}
    assert reading.metrics == {"val_loss": 0.5, "accuracy": 0.25, "by_class.a": 1.0}
    assert roles_of(reading) == {
        ("model", None): 1,
        ("optimizer", None): 1,
        ("state", "ema"): 1,
        ("state", "val_loss"): 1,
    }


def test_hostile_values_become_plain_json(tmp_path: Path) -> None:
    import argparse

    deep: Any = "bottom"
    for _ in range(60):
        deep = [deep]
    hyperparameters = {
        "nan": float("nan"),
        "huge": 1 << 200,
        "deep": deep,
        "long": list(range(10_000)),
        "bytes": b"\0",
        "surrogate": "\ud800",
        "args": argparse.Namespace(a=1),
        "path": Path("x"),
        "tensor": torch.ones(1),
        3: {4: (5, {6})},
    }
    checkpoint = {"model_state_dict": {"w": torch.ones(1)}, "hyperparameters": hyperparameters, "step": float("inf")}
    torch.save(checkpoint, tmp_path / "checkpoint_a_b_step9_t.pt")
    reading = read(tmp_path)
    assert reading.step == 9
    assert reading.settings["nan"] == "nan"
    assert reading.settings["long"] == "<10000 items>"
    assert reading.settings["args"] == "<argparse.Namespace>"


def test_two_training_files_in_one_tree_are_not_mixed(made: Made, tmp_path: Path) -> None:
    for step in (1, 2):
        torch.save({"model_state_dict": {"w": torch.ones(1)}, "step": step}, tmp_path / f"checkpoint_a_b_step{step}.pt")
    reading = read(tmp_path)
    assert reading.layout == "unknown"
    assert {tensor.role for tensor in reading.tensors} == {"state"}
