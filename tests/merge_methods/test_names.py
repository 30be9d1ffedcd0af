"""Names in memory and names in the files: bases without a prefix, other mixtures, models of transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.methods.bases import Base
from ckptfmt.merge.protocol import Setting
from tests.merge_methods.applying import FileAdapter, apply, differing, read_model, specs
from tests.merge_methods.cases import EXPERTS, config, lora
from tests.merge_methods.equality import Case, make, peft_merge, randomise

pytestmark = [pytest.mark.fixtures, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("kind", ["lora", "dora", "IA3Config", "FourierFTConfig"])
def test_a_base_whose_files_lack_the_prefix(tmp_path: Path, kind: str) -> None:
    """GPT-2 on the Hub has `h.0`; transformers saves `transformer.h.0`."""
    configs = {
        "lora": lora(target_modules=lambda _: ["c_attn", "wte"]),
        "dora": lora(use_dora=True),
        "IA3Config": config("IA3Config", feedforward_modules=lambda _: ["c_fc"]),
        "FourierFTConfig": config("FourierFTConfig", n_frequency=20),
    }
    case = Case("gpt2", configs[kind])
    make(case, "gpt2", "bfloat16", 0, tmp_path)
    theirs, _ = peft_merge(case, "gpt2", "bfloat16", tmp_path)
    base = {name.removeprefix("transformer."): tensor for name, tensor in read_model(tmp_path / "base").items()}
    setting = Setting(model_config=json.loads((tmp_path / "base" / "config.json").read_text()))
    merged = apply(plan_changes(FileAdapter(tmp_path / "adapter"), specs(base), setting), base)
    assert differing(merged, {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}) == {}


def mixture(kind: str) -> Any:
    import transformers

    common = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    if kind == "qwen2_moe":
        return transformers.Qwen2MoeForCausalLM(
            transformers.Qwen2MoeConfig(**common, shared_expert_intermediate_size=24)
        )
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**common))


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("targets", [EXPERTS, ["mlp.gate.weight"]])
def test_other_mixtures(tmp_path: Path, kind: str, targets: list[str]) -> None:
    import peft
    import transformers

    torch.manual_seed(0)
    modules = ["q_proj", "shared_expert.up_proj"] if kind == "qwen2_moe" else ["q_proj"]
    model = mixture(kind).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=modules, target_parameters=targets))
    randomise(tuned, 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    merged = peft.PeftModel.from_pretrained(again, str(tmp_path / "adapter")).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    base = read_model(tmp_path / "base")
    setting = Setting(model_config=json.loads((tmp_path / "base" / "config.json").read_text()))
    changes = plan_changes(FileAdapter(tmp_path / "adapter"), specs(base), setting)
    theirs = read_model(tmp_path / "merged")
    assert differing(apply(changes, base), theirs) == {}
    assert differing(base, theirs)
    if targets is EXPERTS:
        assert not changes.modules, "experts are changed by rows"


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["h.0.weight"], "transformer.h.0.weight", "h.0.weight"),
        (["transformer.h.0.weight"], "h.0.weight", "transformer.h.0.weight"),
        (["model.a.weight"], "model.a.weight", "model.a.weight"),
        (["model.a.weight"], "model.b.weight", None),
        (["model.embed_tokens.weight"], "lm_head.weight", "model.embed_tokens.weight"),
        (["model.embed_tokens.weight", "lm_head.weight"], "lm_head.weight", "lm_head.weight"),
    ],
)
def test_names(names: list[str], asked: str, found: str | None) -> None:
    base = Base(specs({name: torch.zeros(4, 2) for name in names}), {})
    assert base.shared(asked) == found


def test_a_classifier_brings_its_head_and_unties_nothing(tmp_path: Path) -> None:
    import peft
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    options = {**sizes, "vocab_size": 64, "num_key_value_heads": 2, "num_labels": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options, tie_word_embeddings=True))
    base.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    kind = transformers.LlamaForSequenceClassification
    model = kind.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    made = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    tuned = peft.get_peft_model(model, made)
    randomise(tuned, 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    again = kind.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    peft.PeftModel.from_pretrained(again, str(tmp_path / "adapter")).merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    tensors = read_model(tmp_path / "base")
    setting = Setting(model_config=json.loads((tmp_path / "base" / "config.json").read_text()))
    changes = plan_changes(FileAdapter(tmp_path / "adapter"), specs(tensors), setting)
    assert differing(apply(changes, tensors), read_model(tmp_path / "merged")) == {}
    assert "score.weight" in apply(changes, tensors)
