"""What cannot be merged is said before any work, with its reason, and every method has its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ckptfmt.errors import MergeError
from ckptfmt.merge.methods import METHODS, REFUSED, plan_changes
from ckptfmt.merge.methods.arithmetic import keep_subnormals
from ckptfmt.merge.protocol import Changes, Setting, Spec
from tests.merge_methods.applying import MemoryAdapter, apply, specs

pytestmark = pytest.mark.filterwarnings("ignore")

PREFIX = "base_model.model."
BASE = {
    "model.embed_tokens.weight": torch.randn(40, 16),
    "model.layers.0.self_attn.q_proj.weight": torch.randn(24, 16),
    "model.layers.0.self_attn.k_proj.weight": torch.randn(16, 16),
    "lm_head.weight": torch.randn(40, 16),
}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
Q = f"{PREFIX}model.layers.0.self_attn.q_proj"


def adapter(config: dict[str, Any] | None = None, **tensors: torch.Tensor) -> MemoryAdapter:
    held = tensors or {f"{Q}.lora_A.weight": torch.randn(2, 16), f"{Q}.lora_B.weight": torch.randn(24, 2)}
    config = {**LORA, **(config or {})}
    return MemoryAdapter(config["peft_type"], config, held, "mine")


def plan(made: MemoryAdapter, base: dict[str, torch.Tensor] | None = None, **config: Any) -> Changes:
    return plan_changes(made, specs(BASE if base is None else base), Setting(model_config=config))


def test_every_method_of_the_installed_peft_has_its_place() -> None:
    import peft

    names = {each.value for each in peft.PeftType}
    assert names - METHODS.keys() - REFUSED.keys() == set(), "new in peft: can it be merged?"
    assert METHODS.keys().isdisjoint(REFUSED)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_methods_that_cannot_be_merged(method: str) -> None:
    with pytest.raises(MergeError, match=f"adapter mine cannot be merged: {method}") as found:
        plan(adapter({"peft_type": method}))
    assert found.value.code == "not-mergeable"
    assert found.value.hint


def test_a_wrong_method_lists_the_right_ones() -> None:
    with pytest.raises(MergeError, match="'LORE' is not known") as found:
        plan(adapter({"peft_type": "LORE"}))
    assert "LORA" in str(found.value.hint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_replication": [[0, 1], [0, 1]]}, "replicates layers"),
        ({"arrow_config": {"top_k": 1}}, "Arrow routes"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"r": 3}, "factors of rank 2 and 2, its configuration says 3"),
        ({"init_lora_weights": "pissa_niter_4"}, "draws random numbers"),
        ({"init_lora_weights": "corda"}, "corda"),
    ],
)
def test_configurations_of_lora(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        plan(adapter(config))


@pytest.mark.parametrize(
    "config", [{"quantization_config": {"quant_method": "bitsandbytes"}}, {"quantization_config": {}, "extra": 1}]
)
def test_a_quantized_configuration(config: dict[str, Any]) -> None:
    if not config["quantization_config"]:
        plan(adapter(), **config)
        return
    with pytest.raises(MergeError, match=r"quantized \(bitsandbytes\)") as found:
        plan(adapter(), **config)
    assert "16-bit" in str(found.value.hint)


@pytest.mark.parametrize("name", [".qweight", ".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", ".qzeros"])
def test_packed_tensors(name: str) -> None:
    packed = "model.layers.0.self_attn.q_proj" + name
    with pytest.raises(MergeError, match=f"quantized: it holds {packed}"):
        plan(adapter(), {**BASE, packed: torch.zeros(4, dtype=torch.uint8)})


def test_integers() -> None:
    base = specs(BASE) | {"model.layers.0.self_attn.q_proj.weight": Spec("I8", (24, 16))}
    with pytest.raises(MergeError, match=r"q_proj\.weight is stored as I8"):
        plan_changes(adapter(), base, Setting())


def test_modules_that_the_base_lacks() -> None:
    tensors = {
        f"{PREFIX}model.layers.7.self_attn.q_proj.lora_A.weight": torch.randn(2, 16),
        f"{PREFIX}model.layers.7.self_attn.q_proj.lora_B.weight": torch.randn(24, 2),
    }
    with pytest.raises(MergeError, match=r"adapter mine.*the base has no model\.layers\.7\.self_attn\.q_proj"):
        plan(adapter(None, **tensors))


def test_shapes_of_another_base() -> None:
    tensors = {f"{Q}.lora_A.weight": torch.randn(2, 20), f"{Q}.lora_B.weight": torch.randn(24, 2)}
    with pytest.raises(MergeError, match=r"q_proj has factors for a weight of shape \[24, 20\].*\[24, 16\]"):
        plan(adapter(None, **tensors))


def test_a_bias_without_a_place() -> None:
    tensors = {
        f"{Q}.lora_A.weight": torch.randn(2, 16),
        f"{Q}.lora_B.weight": torch.randn(24, 2),
        f"{Q}.lora_B.bias": torch.randn(24),
    }
    with pytest.raises(MergeError, match=r"lora_bias and model\.layers\.0\.self_attn\.q_proj has no bias"):
        plan(adapter({"lora_bias": True}, **tensors))


def test_tensors_that_fit_nothing() -> None:
    extra = {f"{PREFIX}model.layers.0.mystery.weight": torch.randn(3)}
    with pytest.raises(MergeError, match=r"has no counterpart in the base: there is no model\.layers\.0\.mystery"):
        plan(adapter(None, **adapter().held, **extra))


def test_a_vocabulary_of_which_one_half_is_missing() -> None:
    extra = {f"{PREFIX}model.embed_tokens.weight": torch.randn(44, 16)}
    with pytest.raises(MergeError, match=r"vocabulary has 44 tokens, and lm_head\.weight has 40 rows"):
        plan(adapter(None, **adapter().held, **extra))


def test_factors_that_the_configuration_does_not_name() -> None:
    with pytest.raises(MergeError, match="none of its modules is one of its target_modules"):
        plan(adapter({"target_modules": ["v_proj"]}))


def test_nothing_to_merge() -> None:
    with pytest.raises(MergeError, match="it has no tensors"):
        plan(MemoryAdapter("LORA", LORA, {}, "mine"))
    with pytest.raises(MergeError, match="its scaling is not known") as found:
        plan(MemoryAdapter("LORA", {}, adapter().held, "mine"))
    assert "adapter_config.json" in str(found.value.hint)


@pytest.mark.parametrize("drop", ["lora_A", "lora_B"])
def test_half_a_pair(drop: str) -> None:
    held = {name: tensor for name, tensor in adapter().held.items() if drop not in name}
    with pytest.raises(MergeError, match=f"q_proj.*{drop}|{drop}.*q_proj"):
        plan(adapter(None, **held))


def test_subnormals_flushed_by_the_host_process_are_kept() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormals")
    try:
        made = adapter()
        changes = plan(made)
        torch.set_flush_denormal(True)
        tiny = {**BASE, "model.layers.0.self_attn.q_proj.weight": torch.full((24, 16), 2.0**-140)}
        small = {name: tensor * 2.0**-70 for name, tensor in made.held.items()}
        torch.set_flush_denormal(False)
        expected = apply(plan(adapter(None, **small), tiny), tiny)
        torch.set_flush_denormal(True)
        found = apply(plan(adapter(None, **small), tiny), tiny)
    finally:
        torch.set_flush_denormal(False)
    assert changes.rows
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    flushed = "all of this tensor would be 0"
    assert bool((found["model.layers.0.self_attn.q_proj.weight"] != 0).any()), flushed


def test_subnormals_that_stay_flushed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormals")
    clear: Callable[[bool], bool] = torch.set_flush_denormal
    monkeypatch.setattr(torch, "set_flush_denormal", lambda mode: False)
    try:
        with pytest.raises(MergeError, match="subnormal"):
            keep_subnormals()
    finally:
        clear(False)
