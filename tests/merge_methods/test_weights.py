"""Several adapters, one after the other and with weights, against what peft gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.protocol import Setting
from tests.merge_methods.applying import FileAdapter, apply, differing, read_model, specs
from tests.merge_methods.cases import LINEAR, lora
from tests.merge_methods.equality import Case, make, new_model, randomise

pytestmark = [pytest.mark.fixtures, pytest.mark.filterwarnings("ignore")]


def second(place: Path, **options: Any) -> None:
    """Another adapter of the same base."""
    import peft

    torch.manual_seed(7)
    model = new_model("llama").to(torch.bfloat16)
    tuned = peft.get_peft_model(model, lora(r=2, lora_alpha=3, **options)("llama"))
    randomise(tuned, 0.05)
    tuned.save_pretrained(place / "second")


def loaded(place: Path) -> Any:
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.bfloat16)
    tuned = peft.PeftModel.from_pretrained(model, str(place / "adapter"))
    tuned.load_adapter(str(place / "second"), "second")
    return tuned


def ours(place: Path, base: dict[str, torch.Tensor], name: str, weight: float) -> dict[str, torch.Tensor]:
    setting = Setting(weight=weight, model_config=json.loads((place / "base" / "config.json").read_text()))
    return apply(plan_changes(FileAdapter(place / name), specs(base), setting), base)


@pytest.mark.parametrize("options", [{}, {"target_modules": LINEAR["llama"][:1]}])
def test_two_adapters_in_turn(tmp_path: Path, options: dict[str, Any]) -> None:
    make(Case("first", lora()), "llama", "bfloat16", 0, tmp_path)
    second(tmp_path, **options)
    merged = loaded(tmp_path).merge_and_unload(adapter_names=["default", "second"])
    merged.save_pretrained(tmp_path / "merged")
    found = read_model(tmp_path / "base")
    for name in ("adapter", "second"):
        found = ours(tmp_path, found, name, 1.0)
    assert differing(found, read_model(tmp_path / "merged")) == {}


def test_weights_are_pefts_scale(tmp_path: Path) -> None:
    make(Case("first", lora()), "llama", "bfloat16", 0, tmp_path)
    second(tmp_path)
    tuned = loaded(tmp_path)
    weights = {"default": 0.7, "second": -0.3}
    for module in tuned.modules():
        if hasattr(module, "set_scale"):
            for name, weight in weights.items():
                module.set_scale(name, weight)
    tuned.merge_and_unload(adapter_names=list(weights)).save_pretrained(tmp_path / "merged")
    found = ours(tmp_path, read_model(tmp_path / "base"), "adapter", 0.7)
    found = ours(tmp_path, found, "second", -0.3)
    assert differing(found, read_model(tmp_path / "merged")) == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_weight_scales_the_whole_update(tmp_path: Path, dtype: str, use_dora: bool) -> None:
    make(Case("half", lora(use_dora=use_dora, modules_to_save=["lm_head"])), "llama", dtype, 0, tmp_path)
    base = read_model(tmp_path / "base")
    full, half, none = (ours(tmp_path, base, "adapter", weight) for weight in (1.0, 0.5, 0.0))
    assert differing(none, base) == {}
    for name in base:
        middle = (base[name].double() + full[name].double()) / 2
        torch.testing.assert_close(half[name].double(), middle, rtol=2e-2, atol=2e-3)
    assert differing(half, full)
