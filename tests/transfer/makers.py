"""Every checkpoint that `tests/fixtures` can make, by a name that says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fixtures import dcp, experts, hf, nanogpt, peft_adapters, stages, torchtune_outputs, trainer, training_pt

Maker = tuple[Callable[..., Any], dict[str, Any]]

MAKERS: dict[str, Maker] = {
    "llama": (hf.make, {}),
    "llama-sharded": (hf.make, {"sharded": True}),
    "llama-bf16": (hf.make, {"dtype": "bfloat16"}),
    "llama-fp16-sharded-bin": (hf.make, {"dtype": "float16", "pickled": True, "sharded": True}),
    "llama-bin": (hf.make, {"pickled": True}),
    "gpt2": (hf.make, {"kind": "gpt2"}),
    "gpt2-bin": (hf.make, {"kind": "gpt2", "pickled": True}),
    "mixtral": (hf.make, {"kind": "mixtral"}),
    "mixtral-sharded": (hf.make, {"kind": "mixtral", "sharded": True}),
    **{
        f"peft-{method}": (peft_adapters.make, {"method": method})
        for method in ("lora", "dora", "ia3", "loha", "lokr", "prompt", "lora-head")
    },
    "peft-bin": (peft_adapters.make, {"pickled": True}),
    "peft-several": (peft_adapters.make_several, {}),
    "peft-unmerged": (peft_adapters.make_unmerged, {}),
    "peft-unmerged-dora": (peft_adapters.make_unmerged, {"method": "dora"}),
    "stages": (stages.make, {}),
    "torchtune": (torchtune_outputs.make, {}),
    "torchtune-adapter-only": (torchtune_outputs.make, {"full": False}),
    "torchtune-experiment": (torchtune_outputs.make_experiment, {}),
    "training-pt-bigram": (training_pt.make, {}),
    "training-pt-gpt2": (training_pt.make, {"model_type": "gpt2"}),
    "trainer-full": (trainer.make, {}),
    "trainer-peft": (trainer.make_peft, {}),
    "trainer-bloated": (trainer.make_bloated, {}),
    "trainer-bloated-unmerged": (trainer.make_bloated, {"merged": False}),
    "trainer-bloated-bin": (trainer.make_bloated, {"pickled": True}),
    "experts": (experts.make, {}),
    "experts-merged": (experts.make, {"weights": "merged"}),
    "experts-unmerged": (experts.make, {"weights": "unmerged"}),
    "experts-nested": (experts.make, {"nested": True}),
    "nanogpt": (nanogpt.make, {}),
    "nanogpt-lora-merged": (nanogpt.make, {"lora": True}),
    "nanogpt-lora-inside": (nanogpt.make, {"lora": True, "merged": False}),
    "nanogpt-compiled": (nanogpt.make, {"compiled": True}),
    "dcp": (dcp.make, {}),
}
