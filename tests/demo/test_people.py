"""The checkpoints of the demonstration are what they say: real tools made them, and real tools load them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ckptfmt.demo import made as made_module
from ckptfmt.demo.made import TINY, Made, MadeCheckpoint, check_installed
from ckptfmt.demo.people import STAGES, make_people
from ckptfmt.errors import Conflict, InvalidInput

pytestmark = pytest.mark.fixtures


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are trained far quicker by one thread than by several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_people(tmp_path_factory.mktemp("demo") / "people", size=TINY)


@pytest.fixture(scope="module")
def prompt(made: Made) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made.base)
    return torch.tensor([tokenizer.encode("The keeper measured the map before noon.")])


def full(directory: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.eval()


def logits(model: torch.nn.Module, prompt: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=prompt).logits
    return out


def by_kind(made: Made, kind: str) -> Iterator[MadeCheckpoint]:
    found = [checkpoint for checkpoint in made.checkpoints if checkpoint.kind == kind]
    assert found, kind
    return iter(found)


def test_every_kind_is_there_under_a_name_of_its_own(made: Made) -> None:
    names = [checkpoint.name for checkpoint in made.checkpoints]
    assert len(set(names)) == len(names)
    assert all(checkpoint.path.exists() for checkpoint in made.checkpoints)
    assert {checkpoint.kind for checkpoint in made.checkpoints} == {
        "PEFT adapter", "full export", "stage outputs", "stage, merged", "Trainer + merged", "LoRA experts",
        "universal .pt", "training .pt",
    }  # fmt: skip


def test_the_base_was_trained(made: Made) -> None:
    first, last = made.base_loss
    assert last < first


def test_parents_come_before_their_children(made: Made) -> None:
    seen: set[str] = set()
    for checkpoint in made.checkpoints:
        assert checkpoint.parent is None or checkpoint.parent in seen
        seen.add(checkpoint.name)
    stages = [checkpoint.stage for checkpoint in by_kind(made, "stage outputs")]
    assert stages == list(range(1, len(STAGES) + 1))


def test_a_full_export_is_its_adapter_merged(made: Made, prompt: torch.Tensor) -> None:
    from peft import PeftModel

    for adapter, export in zip(by_kind(made, "PEFT adapter"), by_kind(made, "full export"), strict=True):
        with_adapter = PeftModel.from_pretrained(full(made.base), str(adapter.path)).eval()
        expected, merged = logits(with_adapter, prompt), logits(full(export.path), prompt)
        # bf16 keeps 8 bits of each merged weight.
        assert torch.allclose(merged, expected, atol=3e-2 * float(expected.abs().max()))
        assert not torch.equal(merged, logits(full(made.base), prompt))


def test_one_full_export_is_sharded(made: Made) -> None:
    exports = [export.path for export in by_kind(made, "full export")]
    assert [path.joinpath("model.safetensors.index.json").exists() for path in exports] == [False, True]


def test_each_stage_stands_on_the_merged_stage_before_it(made: Made) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    before = made.base
    for outputs, merged in zip(by_kind(made, "stage outputs"), by_kind(made, "stage, merged"), strict=True):
        adapters = outputs.path / "lora_adapters"
        again = PeftModel.from_pretrained(full(before, torch.bfloat16), str(adapters)).merge_and_unload()
        saved, state = load_file(merged.path / "model.safetensors"), again.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in saved.items())
        evaluation = json.loads((outputs.path / "test_results" / "evaluation.json").read_text())
        assert evaluation["stage"] == outputs.stage
        assert evaluation["loss_after"] < evaluation["loss_before"]
        assert (outputs.path / "training_logs" / "metrics.json").exists()
        before = merged.path


def test_a_trainer_directory_holds_both_sets_of_weights(made: Made, prompt: torch.Tensor) -> None:
    from peft import PeftModel

    for checkpoint in by_kind(made, "Trainer + merged"):
        names = {path.name for path in checkpoint.path.iterdir()}
        assert {"model.safetensors", "adapter_model.safetensors", "optimizer.pt", "trainer_state.json"} <= names
        state = json.loads((checkpoint.path / "trainer_state.json").read_text())
        assert checkpoint.path.name == f"checkpoint-{state['global_step']}"
        expected = logits(PeftModel.from_pretrained(full(made.base), str(checkpoint.path)).eval(), prompt)
        # transformers finds the adapter there and loads it on top of the weights beside it, so the merged ones
        # are loaded by themselves.
        alone = full(made.base)
        from safetensors.torch import load_file

        alone.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
        assert torch.allclose(logits(alone, prompt), expected, atol=3e-2 * float(expected.abs().max()))


def test_the_experts_have_adapters_a_router_and_a_library(made: Made) -> None:
    from peft import PeftConfig

    (checkpoint,) = by_kind(made, "LoRA experts")
    experts = sorted(path for path in (checkpoint.path / "peft_adapters").iterdir() if path.is_dir())
    settings = json.loads((checkpoint.path / "dylo_moe_state" / "config.json").read_text())
    assert [path.name for path in experts] == [f"expert_{n}" for n in range(settings["num_experts"])]
    assert all(PeftConfig.from_pretrained(path).r == settings["lora_r"] for path in experts)
    digests = {hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest() for path in experts}
    assert len(digests) == len(experts)
    router = torch.load(checkpoint.path / "dylo_moe_state" / "router.pt", weights_only=True)
    assert router["weight"].shape == (settings["num_experts"], settings["hidden_size"])
    assert (checkpoint.path / "model.safetensors").exists()


def test_the_loose_files_load_and_hold_the_keys_of_their_kind(made: Made) -> None:
    (universal,) = by_kind(made, "universal .pt")
    state = torch.load(universal.path, weights_only=True)
    assert set(state) == {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"}
    full(made.base).load_state_dict(state["model"])
    for training in by_kind(made, "training .pt"):
        state = torch.load(training.path, weights_only=True)
        assert {"model_state_dict", "optimizer_state_dict", "hyperparameters", "vocab_size"} <= set(state)
        assert f"_step{state['step']:04d}_" in training.path.name
        assert (training.path.parent / "tokenizer.json").exists()


def test_the_same_seed_makes_the_same_base(made: Made, tmp_path: Path) -> None:
    from ckptfmt.demo.model import make_base, quiet

    with quiet():
        make_base(tmp_path / "again", TINY, seed=0)
    from safetensors.torch import load_file

    first, again = load_file(made.base / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.allclose(first[name].float(), again[name].float(), atol=1e-3) for name in first)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(Conflict) as caught:
        make_people(tmp_path, size=TINY)
    assert caught.value.code == "target-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_module, "_NEEDED", ("transformers", "no_such_package_at_all"))
    with pytest.raises(InvalidInput, match="no_such_package_at_all") as caught:
        check_installed()
    assert caught.value.hint == "pip install 'ckptfmt[demo]'"
