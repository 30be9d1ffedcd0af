"""Models that transformers does not know: modules made from names and shapes, convolutions among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckptfmt.errors import MergeError
from ckptfmt.merge.methods import plan_changes
from ckptfmt.merge.protocol import Setting
from tests.merge_methods.applying import FileAdapter, apply, differing, specs
from tests.merge_methods.equality import randomise

pytestmark = [pytest.mark.fixtures, pytest.mark.filterwarnings("ignore")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Conv1d(16, 24, 3)
        self.image = nn.Conv2d(8, 16, 3, bias=False)
        self.point = nn.Conv2d(16, 300, 1)
        self.volume = nn.Conv3d(4, 8, 2)
        self.embed = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"fc": nn.Linear(16, 530), "norm": nn.LayerNorm(16), "out": nn.Linear(530, 16, bias=False)})
            for _ in range(2)
        )


def made(tmp_path: Path, config: Any, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The base's tensors and those that peft merges."""
    import peft

    torch.manual_seed(0)
    model = Net().to(dtype)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = peft.get_peft_model(model, config)
    randomise(tuned, 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    again = Net().to(dtype)
    again.load_state_dict(base)
    merged = peft.PeftModel.from_pretrained(again, str(tmp_path / "adapter")).merge_and_unload()
    return base, merged.state_dict()


def configs() -> dict[str, Any]:
    import peft

    linear = ["fc", "out"]
    everything = [*linear, "wave", "image", "point", "volume", "embed"]
    return {
        "lora": peft.LoraConfig(r=4, target_modules=everything),
        "dora": peft.LoraConfig(r=4, target_modules=everything, use_dora=True),
        "loha": peft.LoHaConfig(r=2, target_modules=[*linear, "image"]),
        "lokr": peft.LoKrConfig(r=2, target_modules=[*linear, "image"]),
        "ln": peft.LNTuningConfig(target_modules=["norm"]),
        "vera": peft.VeraConfig(r=4, target_modules=linear),
        "ia3": peft.IA3Config(target_modules=["fc", "image"], feedforward_modules=["fc"]),
    }


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr", "ln", "vera", "ia3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_peft(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    base, merged = made(tmp_path, configs()[method], dtype)
    changes = plan_changes(FileAdapter(tmp_path / "adapter"), specs(base), Setting())
    assert differing(apply(changes, base), merged) == {}
    assert differing(base, merged)


def test_grouped_convolutions_are_refused_in_pefts_words(tmp_path: Path) -> None:
    import peft

    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4))
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["0"]))
    tuned.save_pretrained(tmp_path / "adapter")
    base = {name.replace("base_layer.", ""): t for name, t in model.state_dict().items() if "lora" not in name}
    with pytest.raises(MergeError, match="adapter adapter cannot be merged"):
        plan_changes(FileAdapter(tmp_path / "adapter"), specs(base), Setting())
