"""The base as an adapter sees it: which of its tensors a module's name means.

Adapters name modules of the model in memory; a base names tensors of its files. The two differ by a leading prefix
(`h.0` and `transformer.h.0`), by tied weights that lie in the files once, and by fused experts (`fused.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch

from ckptfmt.errors import MergeError
from ckptfmt.merge.methods.arithmetic import TORCH_DTYPES
from ckptfmt.merge.protocol import Spec

INPUTS: Final = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared"})
"""Last names of modules that embed tokens."""
HEADS: Final = frozenset({"lm_head", "embed_out", "output_layer"})
"""Last names of modules that may share their weight with the input embedding."""

_PREFIXES: Final = ("model.", "transformer.", "language_model.", "base_model.")
_CONV1D_MODELS: Final = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"})
_CONV1D_MODULES: Final = frozenset({"c_attn", "q_attn", "c_fc", "c_proj"})
"""transformers' users of `Conv1D`, whose weight is (in, out). Source: `pytorch_utils.Conv1D` in its models."""
_PACKED: Final = re.compile(
    r"\.(qweight|qzeros|absmax|SCB|weight_packed|weight_scale_inv)$|\.quant_state\b|_proj_blocks$"
)
"""Tensors that only packed weights have beside them (GPTQ, AWQ, bitsandbytes, compressed-tensors, FP8, MXFP4)."""


@dataclass(frozen=True)
class Base:
    """A base's tensors by name, and its `config.json`."""

    tensors: Mapping[str, Spec]
    config: Mapping[str, Any]

    @cached_property
    def embedding(self) -> str | None:
        """The input embedding's weight."""
        names = [name for name in self.tensors if name.endswith(".weight") and _leaf(name) in INPUTS]
        return min(names, key=lambda name: (name.count("."), name), default=None)

    @cached_property
    def head(self) -> str | None:
        """The output embedding's weight, where the files hold one."""
        return next((name for name in self.tensors if name.endswith(".weight") and _leaf(name) in HEADS), None)

    @property
    def tied(self) -> bool:
        """Whether input and output embedding are one parameter: the files hold it once, or the config says so.

        transformers ties two that are in the files only where they are equal, which a plan cannot see.
        """
        if self.head is None:
            return self.embedding is not None
        return bool(self.config.get("tie_word_embeddings", False)) and self.embedding is not None

    def find(self, name: str) -> str | None:
        """The base's name of the tensor that the model in memory calls `name`; None if it has none such.

        A head that shares the embedding's parameter is not found by its own name: see `shared`.
        """
        if name in self.tensors:
            return name
        for prefix in _PREFIXES:
            if name.removeprefix(prefix) in self.tensors:
                return name.removeprefix(prefix)
            if prefix + name in self.tensors:
                return prefix + name
        return None

    def shared(self, name: str) -> str | None:
        """The base's name of the parameter behind `name`, a head's being the embedding's where they are tied."""
        if _leaf(name) in HEADS and name.endswith(".weight") and self.head is None and self.tied:
            return self.embedding
        return self.find(name)

    def is_conv1d(self, module: str) -> bool:
        """Whether a module is transformers' `Conv1D`, by its model and its name."""
        return str(self.config.get("model_type")) in _CONV1D_MODELS and module.rpartition(".")[2] in _CONV1D_MODULES

    def in_mixture(self, module: str) -> bool:
        """Whether a module is an expert, or stands beside experts as a router does: the model may hold those fused."""
        return ".experts." in f"{module}." or f"{module.rpartition('.')[0]}.experts" in self._mixtures

    @cached_property
    def _mixtures(self) -> frozenset[str]:
        return frozenset(name.partition(".experts.")[0] + ".experts" for name in self.tensors if ".experts." in name)

    def dtype(self, name: str) -> torch.dtype:
        """The torch dtype of one of the base's tensors.

        Raises:
            MergeError: it is not one that a merge computes in.
        """
        found = TORCH_DTYPES.get(self.tensors[name].dtype)
        if found is None:
            raise MergeError(
                f"{name} is stored as {self.tensors[name].dtype}: no update can be added to that",
                hint="merge onto the 16-bit sibling of this base",
            )
        return found

    def refuse_quantized(self, adapter: str) -> None:
        """Raise where the weights are packed integers.

        Raises:
            MergeError: the base is quantized.
        """
        found = self.config.get("quantization_config")
        method = found.get("quant_method", "unknown") if isinstance(found, Mapping) else None
        packed = next((name for name in self.tensors if _PACKED.search(name)), None)
        if found or packed:
            reason = f"quantized ({method})" if method else f"quantized: it holds {packed}"
            raise MergeError(
                f"adapter {adapter} cannot be merged: the base is {reason}",
                hint="merge onto the 16-bit model that this base was quantized from",
            )


def _leaf(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]
