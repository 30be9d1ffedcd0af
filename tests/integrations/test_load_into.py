from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptfmt
from ckptfmt.errors import InvalidInput, MergeError
from tests.fixtures import hf, nanogpt, peft_adapters, training_pt

Made = Callable[..., Path]

ATTENTION = {**nanogpt.STANDARD, "attn_lora_rank": 4, "lora_alpha": 8.0}
"""LoRA in attention only: every weight of it can be merged and stay tied."""


def logits(model: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(nanogpt.batch(16))


def trained(args: dict[str, Any], seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = nanogpt.Gpt(args)
    optimizer, _ = nanogpt.train_gpt(model)
    return model, optimizer


def zeroed(model: Any) -> Any:
    """Fresh adapters that do nothing yet, as every trainer of LoRA begins."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    return model


def saved(directory: Path, args: dict[str, Any], *, merged: bool = False, prefix: str = "", seed: int = 0) -> Any:
    directory.mkdir()
    model, optimizer = trained(args, seed)
    state = model.get_merged_state_dict() if merged else model.state_dict()
    document = {
        "model": {prefix + key: value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 2,
        "best_val_loss": 1.0,
        "config": {},
    }
    torch.save(document, directory / "ckpt.pt")
    return model


def test_standard_into_lora(tmp_path: Path) -> None:
    """Seed 004, example 1: train a standard model, resume with LoRA enabled."""
    model = saved(tmp_path / "out", nanogpt.STANDARD)
    target = zeroed(nanogpt.Gpt(nanogpt.LORA))
    optimizer = torch.optim.AdamW([p for p in target.parameters() if p.requires_grad], lr=1e-3)
    report = ckptfmt.load_into(target, tmp_path / "out" / "ckpt.pt", optimizer=optimizer)
    assert torch.equal(logits(target), logits(model))
    assert report.remapped["transformer.wte.weight"] == "transformer.wte.main_weight.weight"
    assert report.remapped["transformer.h.0.attn.c_attn.bias"] == "transformer.h.0.attn.c_attn.main_weight.bias"
    assert set(report.fresh) == {key for key in target.state_dict() if ".lora_" in key}
    assert report.unexpected == ()
    assert report.notes == ()
    assert report.optimizer is not None
    assert "left out" in report.optimizer
    assert "parameter group 0 has 28 parameters in the checkpoint, 29 in the optimizer" in report.optimizer
    assert optimizer.state_dict()["state"] == {}
    text = str(report)
    assert "remapped: transformer" in text
    assert "left fresh" in text
    assert "optimizer: left out" in text


def test_lora_into_standard(tmp_path: Path) -> None:
    """Seed 004, example 2: fine-tune with LoRA, resume as a standard model for deployment."""
    model = saved(tmp_path / "out", ATTENTION)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    report = ckptfmt.load_into(target, tmp_path / "out")
    assert report.merged == tuple(f"transformer.h.{layer}.attn.c_attn.weight" for layer in range(2))
    assert report.fresh == report.unexpected == ()
    assert torch.allclose(logits(target), logits(model), atol=1e-5)
    merged = model.get_merged_state_dict()
    assert all(torch.equal(value, merged[key]) for key, value in target.state_dict().items())


def test_lora_of_another_rank(tmp_path: Path) -> None:
    """Seed 004, example 3: weights are merged, new adapters initialized."""
    model = saved(tmp_path / "out", ATTENTION)
    target = zeroed(nanogpt.Gpt({**ATTENTION, "attn_lora_rank": 8}))
    fresh = {key: value.clone() for key, value in target.state_dict().items() if ".lora_" in key}
    optimizer = torch.optim.AdamW(target.parameters())
    report = ckptfmt.load_into(target, tmp_path / "out", optimizer=optimizer)
    assert set(report.fresh) == fresh.keys()
    assert all(torch.equal(target.state_dict()[key], value) for key, value in fresh.items())
    assert report.merged == tuple(f"transformer.h.{layer}.attn.c_attn.main_weight.weight" for layer in range(2))
    assert torch.allclose(logits(target), logits(model), atol=1e-5)
    assert "LoRA was merged" in str(report.optimizer)


def test_the_same_rank_is_copied_and_its_optimizer_goes_on(tmp_path: Path) -> None:
    model = saved(tmp_path / "out", nanogpt.LORA)
    target = nanogpt.Gpt(nanogpt.LORA)
    optimizer = torch.optim.AdamW([p for p in target.parameters() if p.requires_grad], lr=1e-2)
    report = ckptfmt.load_into(target, tmp_path / "out", optimizer=optimizer)
    assert report.merged == report.fresh == report.unexpected == ()
    assert report.remapped == {}
    assert report.optimizer == "loaded"
    assert report.tied == {"lm_head.weight": "transformer.wte.main_weight.weight"}
    assert torch.equal(logits(target), logits(model))
    moments = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)["optimizer"]["state"]
    found = optimizer.state_dict()["state"]
    assert found.keys() == moments.keys()
    assert all(torch.equal(found[key]["exp_avg"], moments[key]["exp_avg"]) for key in moments)
    assert target.transformer["wte"].main_weight.weight is target.lm_head.weight


def test_another_scale_is_merged(tmp_path: Path) -> None:
    model = saved(tmp_path / "out", ATTENTION)
    target = zeroed(nanogpt.Gpt({**ATTENTION, "lora_alpha": 2.0}))
    report = ckptfmt.load_into(target, tmp_path / "out")
    assert len(report.merged) == 2
    assert "its scale is 0.5 in the model, 2 in the checkpoint" in report.notes[0]
    assert torch.allclose(logits(target), logits(model), atol=1e-5)


def test_fresh_adapters_that_are_not_zero_are_told(tmp_path: Path) -> None:
    saved(tmp_path / "out", nanogpt.STANDARD)
    report = ckptfmt.load_into(nanogpt.Gpt(nanogpt.LORA), tmp_path / "out")
    assert "3 fresh adapters are not zero" in report.notes[0]


def test_tied_weights_that_differ_are_an_error(checkpoint: Made) -> None:
    """A merged LoRA embedding and its head are two tensors: a tied model has room for one."""
    place = checkpoint(nanogpt.make, lora=True, merged=True)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InvalidInput, match="one in the model and differ") as caught:
        ckptfmt.load_into(target, place)
    assert "strict=False" in str(caught.value.hint)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    report = ckptfmt.load_into(target, place, strict=False)
    state = torch.load(place / "ckpt.pt", weights_only=True)["model"]
    assert torch.equal(target.lm_head.weight, state["transformer.wte.weight"])
    assert "both are the first one's now" in report.notes[0]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_wrappers_mean_nothing(tmp_path: Path, prefix: str) -> None:
    model = saved(tmp_path / "out", nanogpt.STANDARD, prefix=prefix)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    report = ckptfmt.load_into(target, tmp_path / "out")
    assert torch.equal(logits(target), logits(model))
    assert report.remapped[f"{prefix}transformer.wpe.weight"] == "transformer.wpe.weight"
    document = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    again = nanogpt.Gpt(nanogpt.STANDARD)
    assert ckptfmt.load_into(again, document).remapped == report.remapped
    assert torch.equal(logits(again), logits(model))


def test_a_plain_state_dict_in_other_precision() -> None:
    model, _ = trained(nanogpt.STANDARD)
    half = {key: value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    half["extra.weight"] = torch.zeros(3)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    report = ckptfmt.load_into(target, half)
    assert report.unexpected == ("extra.weight",)
    assert report.cast["transformer.wpe.weight"] == "BF16 -> F32"
    assert torch.equal(target.transformer["wpe"].weight, half["transformer.wpe.weight"].float())


def test_the_scale_of_a_bare_state_dict_must_be_said() -> None:
    model, _ = trained(ATTENTION)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    with pytest.raises(InvalidInput, match="scale is not known") as caught:
        ckptfmt.load_into(target, model.state_dict())
    assert "lora_alpha" in str(caught.value.hint)
    ckptfmt.load_into(target, model.state_dict(), lora_alpha=8.0)
    assert torch.allclose(logits(target), logits(model), atol=1e-5)


def test_shapes_that_differ_are_errors_that_name_tensors(tmp_path: Path) -> None:
    saved(tmp_path / "out", nanogpt.STANDARD)
    target = nanogpt.Gpt({**nanogpt.STANDARD, "block_size": 8})
    with pytest.raises(InvalidInput, match=r"transformer\.wpe\.weight is \[8, 32\] in the model, \[16, 32\]"):
        ckptfmt.load_into(target, tmp_path / "out")
    report = ckptfmt.load_into(target, tmp_path / "out", strict=False)
    assert "transformer.wpe.weight" in report.mismatched
    assert "of another shape" in str(report)


def test_a_missing_parameter_is_an_error_and_a_missing_buffer_is_not() -> None:
    model, _ = trained(nanogpt.STANDARD)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(".attn.bias")}
    report = ckptfmt.load_into(nanogpt.Gpt(nanogpt.STANDARD), state)
    assert report.fresh == tuple(f"transformer.h.{layer}.attn.bias" for layer in range(2))
    del state["transformer.ln_f.weight"]
    with pytest.raises(InvalidInput, match=r"transformer\.ln_f\.weight is not in the checkpoint"):
        ckptfmt.load_into(nanogpt.Gpt(nanogpt.STANDARD), state)
    assert ckptfmt.load_into(nanogpt.Gpt(nanogpt.STANDARD), state, strict=False).missing == ("transformer.ln_f.weight",)


def test_peft_both_ways(checkpoint: Made, tmp_path: Path) -> None:
    import peft

    full, adapter = checkpoint(hf.make, steps=0), checkpoint(peft_adapters.make)
    target = peft.get_peft_model(hf.new_model(), peft_adapters.config_of("lora"))
    report = ckptfmt.load_into(target, full)
    assert report.remapped["model.layers.0.self_attn.q_proj.weight"] == (
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    )
    assert all(".lora_" in key for key in report.fresh)
    report = ckptfmt.load_into(target, adapter)
    assert len(report.loaded) == 8
    assert all(".lora_" in key for key in report.loaded)
    assert report.unexpected == ()
    wanted = peft.PeftModel.from_pretrained(hf.new_model(), adapter)
    found, expected = target.state_dict(), wanted.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    plain = hf.new_model(seed=5)
    merged = ckptfmt.load_into(plain, {**target.state_dict()}, lora_alpha=8)
    assert len(merged.merged) == 4
    reference = target.merge_and_unload().state_dict()
    assert all(torch.equal(value, reference[key]) for key, value in plain.state_dict().items())


def test_an_adapter_alone_is_not_merged_onto_an_unknown_base(checkpoint: Made) -> None:
    with pytest.raises(MergeError, match="not in the checkpoint") as caught:
        ckptfmt.load_into(hf.new_model(), checkpoint(peft_adapters.make))
    assert "ckptfmt merge" in str(caught.value.hint)


def test_a_module_trained_in_full(checkpoint: Made) -> None:
    import peft

    target = peft.get_peft_model(hf.new_model(), peft_adapters.config_of("lora-head"))
    report = ckptfmt.load_into(target, checkpoint(peft_adapters.make, method="lora-head"))
    wanted = peft.PeftModel.from_pretrained(hf.new_model(), checkpoint(peft_adapters.make, method="lora-head"))
    key = "base_model.model.lm_head.modules_to_save.default.weight"
    assert key in report.loaded
    assert torch.equal(target.state_dict()[key], wanted.state_dict()[key])
    ckptfmt.load_into(target, hf.new_model(seed=3).state_dict())
    assert torch.equal(target.state_dict()[key], hf.new_model(seed=3).lm_head.weight)


def test_from_a_store(checkpoint: Made, store: Any) -> None:
    store.import_checkpoint(checkpoint(nanogpt.make, lora=True, merged=False), name="nano/lora")
    handle = store["nano/lora"]
    assert handle.name == "nano/lora"
    target = nanogpt.Gpt(nanogpt.LORA)
    optimizer = torch.optim.AdamW([p for p in target.parameters() if p.requires_grad])
    report = ckptfmt.load_into(target, handle, optimizer=optimizer)
    assert report.optimizer == "loaded"
    state = torch.load(checkpoint(nanogpt.make, lora=True, merged=False) / "ckpt.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


def test_a_training_checkpoint(checkpoint: Made) -> None:
    place = checkpoint(training_pt.make, model_type="gpt2")
    target = hf.new_model("gpt2", seed=4)
    optimizer = torch.optim.AdamW(target.parameters())
    report = ckptfmt.load_into(target, place, optimizer=optimizer)
    assert report.optimizer == "loaded"
    assert report.tied == {"lm_head.weight": "transformer.wte.weight"}


def test_optimizer_groups_of_another_number(tmp_path: Path) -> None:
    saved(tmp_path / "out", nanogpt.STANDARD)
    target = nanogpt.Gpt(nanogpt.STANDARD)
    decayed = [p for p in target.parameters() if p.ndim > 1]
    other = [p for p in target.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": other}])
    report = ckptfmt.load_into(target, tmp_path / "out", optimizer=optimizer)
    assert "the checkpoint has 1 parameter groups, the optimizer 2" in str(report.optimizer)
    one = torch.optim.AdamW([*other, *decayed])
    assert "exp_avg of parameter" in str(ckptfmt.load_into(target, tmp_path / "out", optimizer=one).optimizer)


class Mischief:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_nothing_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, optimizer = trained(nanogpt.STANDARD)
    state = optimizer.state_dict()
    state["param_groups"][0]["schedule"] = Mischief()
    document = {"model": model.state_dict(), "optimizer": state, "model_args": {}, "iter_num": 1, "odd": Mischief()}
    torch.save(document, tmp_path / "ckpt.pt")
    target = nanogpt.Gpt(nanogpt.STANDARD)
    report = ckptfmt.load_into(target, tmp_path / "ckpt.pt", optimizer=torch.optim.AdamW(target.parameters()))
    assert not (tmp_path / "ran").exists()
    assert "which is not run" in str(report.optimizer)
    assert torch.equal(logits(target), logits(model))


def test_a_model_of_other_names_is_refused(checkpoint: Made) -> None:
    with pytest.raises(InvalidInput, match="does not fit the model"):
        ckptfmt.load_into(nanogpt.Gpt(nanogpt.STANDARD), checkpoint(hf.make))
    with pytest.raises(InvalidInput, match="none of its tensors"):
        ckptfmt.load_into(torch.nn.Linear(2, 2), checkpoint(hf.make), strict=False)


def test_importing_the_package_loads_no_torch() -> None:
    import subprocess
    import sys

    program = "import ckptfmt, sys; assert 'torch' not in sys.modules; ckptfmt.load_into; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
