"""Models loaded back, and the real adapters that conversions are tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures import hf, nanogpt
from tests.fixtures.common import batch, quiet


@quiet
def load_model(directory: Path) -> tuple[Any, dict[str, Any]]:
    """A model by `AutoModelForCausalLM`, and what it says of missing and unexpected keys."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype="auto")
    model.eval()
    torch.manual_seed(0)
    return model, info


def loads_whole(directory: Path) -> Any:
    model, info = load_model(directory)
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    return model


def logits(model: Any) -> Any:
    """Of a Hugging Face model or of the fixture's GPT."""
    import torch

    model.eval()
    with torch.no_grad():
        return model(batch(16)) if isinstance(model, nanogpt.Gpt) else model(input_ids=batch(16)).logits


def nano_model(directory: Path, args: dict[str, Any]) -> Any:
    """The fixture's GPT with the weights of a `ckpt.pt`; masks are computed."""
    import torch

    document = torch.load(directory / "ckpt.pt", weights_only=True)
    model = nanogpt.Gpt({**nanogpt.STANDARD, **args})
    result = model.load_state_dict(document["model"], strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith(".attn.bias") for key in result.missing_keys), result
    return model


@quiet
def make_tuned(
    directory: Path,
    *,
    kind: hf.Kind = "llama",
    dtype: str = "float32",
    rank: int = 4,
    head: bool = False,
    tied: bool = False,
) -> None:
    """`base`, a PEFT `adapter` for it with LoRA of two ranks, and `full`: the base with it merged by PEFT.

    With `head` the head and the last norm are trained in full beside it. With `tied` the base's embeddings are one.
    """
    import peft
    import torch

    hf.make(directory / "base", kind=kind, dtype=dtype)
    if tied and kind == "llama":
        _tie(directory / "base")
    base, _ = load_model(directory / "base")
    base.name_or_path = str(directory / "base")
    gpt2 = kind == "gpt2"
    torch.manual_seed(7)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["c_attn", "c_fc"] if gpt2 else ["q_proj", "v_proj", "up_proj"],
        rank_pattern={"c_fc" if gpt2 else "up_proj": 2},
        fan_in_fan_out=gpt2,
        modules_to_save=["lm_head", "model.norm"] if head else None,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
            elif parameter.requires_grad and "lora_" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(directory / "adapter")
    model.merge_and_unload().save_pretrained(directory / "full")


def _tie(directory: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory)
