"""LoRA inside a universal `.pt`, against that family's own `get_merged_state_dict()`."""

from __future__ import annotations

import pytest
import torch

from ckptfmt.errors import MergeError
from ckptfmt.layouts.names import NANOGPT_LORA, name_keys
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.protocol import Setting
from tests.fixtures.nanogpt import LORA, Gpt
from tests.merge_methods.applying import MemoryAdapter, apply, differing, specs


def parts(model: Gpt) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The plain model's tensors and the adapter's, named as the layouts name them."""
    base, adapter = {}, {}
    state = model.state_dict()
    for named, tensor in zip(name_keys(list(state)), state.values(), strict=True):
        (adapter if named.adapter else base)[named.name] = tensor
    return base, adapter


def trained(dtype: torch.dtype, **sizes: int) -> Gpt:
    torch.manual_seed(0)
    model = Gpt({**LORA, **sizes}).to(dtype)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [256, 0])
def test_equals_the_families_own_merge(dtype: torch.dtype, rows: int) -> None:
    model = trained(dtype, vocab_size=803, n_embd=96)
    base, tensors = parts(model)
    changes = plan_changes(MemoryAdapter(NANOGPT_LORA, LORA, tensors), specs(base), Setting())
    merged = apply(changes, base, rows)
    assert differing(merged, model.get_merged_state_dict()) == {}
    assert changes.scaling["transformer.wte.weight"] == LORA["lora_alpha"] / LORA["embedding_rank"]
    assert differing(merged, base), "something was merged"


def test_a_base_that_names_the_shared_embedding_once() -> None:
    model = trained(torch.float32)
    base, tensors = parts(model)
    del base["transformer.wte.weight"]
    changes = plan_changes(MemoryAdapter(NANOGPT_LORA, LORA, tensors), specs(base), Setting())
    assert differing(apply(changes, base), model.get_merged_state_dict()) == {}


@pytest.mark.parametrize(
    ("config", "drop", "message"),
    [
        ({"embedding_rank": 2}, None, "nothing tells the scale"),
        (LORA, "transformer.h.0.attn.c_attn.lora_B.weight", "lacks transformer.h.0.attn.c_attn.lora_B.weight"),
    ],
)
def test_refusals(config: dict[str, object], drop: str | None, message: str) -> None:
    base, tensors = parts(trained(torch.float32))
    if drop:
        del tensors[drop]
    with pytest.raises(MergeError, match=message):
        plan_changes(MemoryAdapter(NANOGPT_LORA, config, tensors), specs(base), Setting())


def test_factors_of_another_base() -> None:
    _, tensors = parts(trained(torch.float32))
    base, _ = parts(trained(torch.float32, n_embd=64))
    with pytest.raises(MergeError, match="do not fit"):
        plan_changes(MemoryAdapter(NANOGPT_LORA, LORA, tensors), specs(base), Setting())
