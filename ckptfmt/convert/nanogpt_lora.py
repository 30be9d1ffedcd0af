"""The LoRA of universal checkpoints (`main_weight` with `lora_A` and `lora_B`) as PEFT would write it.

A linear layer's update is `B @ A`, as PEFT's; an embedding's is `A @ B.T`, which is PEFT's with A transposed. The scale
is `lora_alpha` over the rank of each layer, so every other rank than the usual one stands in the patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import torch

from ckptfmt.errors import MergeError
from ckptfmt.format.manifest import Adapter
from ckptfmt.layouts.names import NANOGPT_LORA
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.merge.methods.bases import INPUTS
from ckptfmt.merge.protocol import Adapter as Mergeable
from ckptfmt.merge.protocol import Spec

_LINEAR: Final = {"lora_A.weight": "lora_A.weight", "lora_B.weight": "lora_B.weight"}
_EMBEDDING: Final = {"lora_A.weight": "lora_embedding_A", "lora_B.weight": "lora_embedding_B"}


def is_nanogpt_lora(adapter: Adapter) -> bool:
    """Whether an adapter is of this kind: its base is the model that it lies in."""
    return adapter.method == NANOGPT_LORA


class PeftOfNanogpt:
    """A `merge.protocol.Adapter` in PEFT's names over one in nanoGPT's.

    Args:
        inner: the adapter as it lies in the `.pt`.
        conv1d: for a base of Hugging Face's GPT-2, whose linear weights are (in, out).

    Raises:
        MergeError: its scale is not known, or a tensor has no place in PEFT.
    """

    method = "LORA"

    def __init__(self, inner: Mergeable, *, conv1d: bool = False) -> None:
        self._inner = inner
        self._conv1d = conv1d
        self.name = inner.name
        self._names: dict[str, tuple[str, bool]] = {}
        for name in inner.tensors:
            module, _, part = name.rpartition(".lora_")
            embedding = module.rpartition(".")[2] in INPUTS
            parts = _EMBEDDING if embedding else _LINEAR
            if f"lora_{part}" not in parts:
                raise MergeError(f"adapter {self.name}: PEFT has no place for {name}")
            self._names[f"{PREFIX}{module}.{parts[f'lora_{part}']}"] = (name, embedding and part == "A.weight")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """See `merge.protocol.Adapter`."""
        alpha = self._inner.config.get("lora_alpha")
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            raise MergeError(
                f"adapter {self.name}: its scale is not known: neither model_args nor config say lora_alpha",
                hint="merge it where its model is defined, or save it again with lora_alpha in model_args",
            )
        ranks = {
            name.removeprefix(PREFIX).removesuffix(".lora_A.weight").removesuffix(".lora_embedding_A"): spec.shape[0]
            for name, spec in self.tensors.items()
            if name.endswith((".lora_A.weight", ".lora_embedding_A"))
        }
        usual = max(ranks.values(), key=list(ranks.values()).count)
        pattern = {module: rank for module, rank in sorted(ranks.items()) if rank != usual}
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": None,
            "revision": None,
            "inference_mode": True,
            "r": usual,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "rank_pattern": pattern,
            "alpha_pattern": {},
            "target_modules": sorted(ranks),
            "modules_to_save": None,
            "fan_in_fan_out": self._conv1d,
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "init_lora_weights": True,
        }

    @cached_property
    def tensors(self) -> Mapping[str, Spec]:
        """See `merge.protocol.Adapter`."""
        found = {}
        for name, (inner, turned) in sorted(self._names.items()):
            spec = self._inner.tensors[inner]
            found[name] = Spec(spec.dtype, spec.shape[::-1]) if turned else spec
        return found

    @property
    def has_embedding(self) -> bool:
        """Whether an embedding is among what it changes."""
        return any(turned for _, turned in self._names.values())

    def read(self, name: str) -> torch.Tensor:
        """See `merge.protocol.Adapter`."""
        inner, turned = self._names[name]
        tensor = self._inner.read(inner)
        return tensor.T.contiguous() if turned else tensor
