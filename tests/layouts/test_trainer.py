from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.fixtures import experts, hf, stages, torchtune_outputs, trainer
from tests.layouts.conftest import Made
from tests.layouts.reading import names_of, read, read_all, roles_of

pytestmark = pytest.mark.fixtures


def test_a_full_fine_tune(made: Made) -> None:
    directory, names = made(trainer.make)
    found = read_all(directory)
    assert list(found) == ["", "checkpoint-2", "checkpoint-4"]
    for name, reading in found.items():
        assert reading.layout == "trainer"
        assert names_of(reading, "model") == names
        assert reading.step == (int(name.partition("-")[2]) if name else None)
    state = json.loads((directory / "checkpoint-4" / "trainer_state.json").read_text())
    metrics = found["checkpoint-4"].metrics
    last = {key: value for record in state["log_history"] for key, value in record.items()}
    assert metrics["loss"] == last["loss"]
    assert metrics["eval_loss"] == metrics["best_metric"] == last["eval_loss"]
    assert metrics["epoch"] == state["epoch"]
    assert found["checkpoint-4"].settings["training"]["max_steps"] == 4
    assert roles_of(found["checkpoint-2"])["optimizer", None] == 3 * len(names)


def test_a_lora_run_of_trl(made: Made) -> None:
    directory, names = made(trainer.make_peft)
    found = read_all(directory)
    assert list(found) == ["", "checkpoint-2", "checkpoint-4"]
    for reading in found.values():
        assert reading.layout == "trainer"
        assert names_of(reading, "adapter", "default") == names
        assert not names_of(reading, "model")
        assert reading.base_hint == hf.NAME
    assert found["checkpoint-4"].metrics["eval_loss"] > 0


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_full_weights_beside_the_adapter(made: Made, merged: bool, pickled: bool) -> None:
    directory, names = made(trainer.make_bloated, merged=merged, pickled=pickled)
    reading = read_all(directory)["checkpoint-4"]
    assert reading.layout == "trainer"
    assert names_of(reading, "model") == names
    assert [adapter.name for adapter in reading.adapters] == ["default"]
    assert len(names_of(reading, "adapter", "default")) == 8
    assert len(names_of(reading, "state", "in-weights:default")) == (0 if merged else 8)
    assert any("stand beside adapters" in note for note in reading.notes)


def test_a_step_that_the_name_contradicts(made: Made, tmp_path: Path) -> None:
    directory, _ = made(trainer.make_peft)
    moved = Path(shutil.copytree(directory / "checkpoint-2", tmp_path / "checkpoint-3"))
    reading = read(moved)
    assert reading.step == 2
    assert any("says step 2" in note for note in reading.notes)
    (moved / "trainer_state.json").write_text('{"global_step": NaN, "log_history": {"loss": 1}}')
    assert read(moved).step == 3
    (moved / "trainer_state.json").write_text("{")
    assert any("trainer_state.json is not a JSON object" in note for note in read(moved).notes)


@pytest.mark.parametrize("weights", ["none", "merged", "unmerged"])
def test_experts(made: Made, weights: str) -> None:
    directory, names = made(experts.make, weights=weights)
    found = read_all(directory)
    assert list(found) == ["checkpoint-2", "checkpoint-4"]
    reading = found["checkpoint-4"]
    assert reading.layout == "experts"
    assert reading.step == 4
    assert reading.metrics["eval_loss"] > 0
    assert reading.base_hint == hf.NAME
    assert reading.settings["mixture"]["num_experts"] == experts.EXPERTS
    assert [adapter.name for adapter in reading.adapters] == ["expert_0", "expert_1", "expert_2"]
    assert all(len(names_of(reading, "adapter", adapter.name)) == 8 for adapter in reading.adapters)
    assert names_of(reading, "state", "router") == ["bias", "weight"]
    assert len(names_of(reading, "state", "skill_library")) == 2
    assert names_of(reading, "model") == ([] if weights == "none" else names)
    outside = ["router.bias", "router.weight"] if weights == "unmerged" else []
    assert names_of(reading, "state", "outside-model") == outside
    assert bool(reading.notes) is (weights != "none")


def test_experts_one_level_deeper(made: Made) -> None:
    directory, _ = made(experts.make, nested=True)
    reading = read_all(directory)["checkpoint-4"]
    assert {adapter.name: adapter.path for adapter in reading.adapters} == {
        f"expert_{n}": f"peft_adapters/expert_{n}/expert_{n}" for n in range(experts.EXPERTS)
    }


def test_stage_outputs(made: Made) -> None:
    directory, names = made(stages.make)
    found = read_all(directory)
    assert list(found) == [f"stage_{n}_{kind}" for n in (1, 2, 3) for kind in ("lora", "outputs")]
    for name, reading in found.items():
        assert reading.stage == int(name.split("_")[1])
        assert reading.layout == ("stage" if name.endswith("outputs") else "peft")
        assert names_of(reading, "adapter", "default") == names
        assert reading.base_hint == hf.NAME
    assert found["stage_2_outputs"].metrics == {
        "train.loss": 1.0,
        "epochs": 3,
        "history.lr": 5e-4,
        "success_rate": 0.7,
        "by_task.math": 0.5,
        "by_task.code": 0.5,
    }


def test_figures_of_one_name_are_told_apart(made: Made, tmp_path: Path) -> None:
    directory, _ = made(stages.make)
    outputs = Path(shutil.copytree(directory / "stage_1_outputs", tmp_path / "stage-7"))
    (outputs / "training_logs" / "metrics.json").write_text('{"loss": 1.5, "ok": true, "note": "x", "inf": Infinity}')
    (outputs / "test_results" / "evaluation.json").write_text('{"loss": 2.5}')
    (outputs / "test_results" / "more.json").write_text("{")
    reading = read(outputs)
    assert reading.stage == 7
    assert reading.metrics == {"loss": 2.5, "metrics.loss": 1.5}
    assert any("more.json is not JSON" in note for note in reading.notes)


def test_torchtune(made: Made) -> None:
    directory, names = made(torchtune_outputs.make)
    found = read_all(directory)
    assert list(found) == ["epoch_0", "epoch_1"]
    for number, reading in enumerate(found.values()):
        assert reading.layout == "torchtune"
        assert names_of(reading, "model") == names
        assert reading.settings["epoch"] == number
        assert reading.base_hint == hf.NAME
        (adapter,) = reading.adapters
        assert (adapter.name, adapter.method) == ("default", "LORA")
        assert all(name.startswith("base_model.model.") for name in names_of(reading, "adapter", "default"))
        native = names_of(reading, "state", "default:adapter_model.pt")
        assert "layers.0.attn.q_proj.lora_a.weight" in native
        assert any("the second is kept as state" in note for note in reading.notes)
    assert ("optimizer", None) not in roles_of(found["epoch_0"])
    assert roles_of(found["epoch_1"])["optimizer", None] == 24
    assert found["epoch_1"].settings["recipe"]["seed"] == 1234


def test_torchtune_adapters_alone(made: Made) -> None:
    directory, _ = made(torchtune_outputs.make, full=False, epochs=1)
    (reading,) = read_all(directory).values()
    assert reading.layout == "torchtune"
    assert not names_of(reading, "model")
    assert len(names_of(reading, "adapter", "default")) == 8


def test_an_experiment(made: Made) -> None:
    directory, _ = made(torchtune_outputs.make_experiment)
    found = read_all(directory)
    assert {name: reading.layout for name, reading in found.items()} == {
        "results/run_000/adapter": "peft",
        "results/run_000/hf_model": "hf-full",
        "results/run_001/adapter": "peft",
        "results/run_001/hf_model": "hf-full",
    }
