"""Configurations come from elsewhere: what they name is not imported, fetched or called."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.methods.bases import Base
from ckptfmt.merge.methods.shadow import build_shadow
from ckptfmt.merge.protocol import Setting, Spec
from tests.merge_methods.applying import MemoryAdapter, specs

pytestmark = [pytest.mark.fixtures, pytest.mark.filterwarnings("ignore")]

TENSORS = {
    "model.layers.0.self_attn.q_proj.weight": Spec("F32", (16, 16)),
    "model.embed_tokens.weight": Spec("F32", (40, 16)),
}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "architectures": ["pipeline"]},
        {"model_type": "llama", "architectures": ["AutoModel", "no such thing", 3]},
        {"model_type": "llama", "attn_implementation": "elsewhere/kernel", "_attn_implementation": "elsewhere/kernel"},
        {"model_type": "llama", "auto_map": {"AutoModel": "modeling.Evil"}},
        {"model_type": "llama", "hidden_size": "many"},
        {"model_type": "llama", "num_hidden_layers": -1},
        {"model_type": "nothing that is known"},
        {"model_type": ["llama"]},
        {},
    ],
)
def test_hostile_model_configurations(config: dict[str, Any]) -> None:
    shadow = build_shadow(Base(TENSORS, config), transposed=False)
    assert shadow.sources.keys() >= TENSORS.keys()
    assert isinstance(shadow.model.get_submodule("model.layers.0.self_attn.q_proj"), torch.nn.Linear)


def test_an_adapter_names_no_module_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    held = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(2, 16),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.randn(16, 2),
    }
    config = {
        "peft_type": "LORA",
        "r": 2,
        "init_lora_weights": "pissa",
        "target_modules": ["q_proj"],
        "megatron_config": {"a": 1},
        "megatron_core": "evil",
        "auto_mapping": {"parent_library": "evil", "base_model_class": "Evil"},
    }
    base = {name: torch.randn(spec.shape) for name, spec in TENSORS.items()}
    asked: list[str] = []
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name, *more: asked.append(name) or real(name, *more))
    plan_changes(MemoryAdapter("LORA", config, held), specs(base), Setting())
    assert "evil" not in asked
