"""Small models made from one another in the ways that a store knows: trained on, saved as another dtype, reshaped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]

EXPERTS = "model.layers.1.mlp.experts"


def model(seed: int) -> Tensors:
    """A model of BF16 weights: an embedding, a layer, and a layer of two experts."""
    generator = torch.Generator().manual_seed(seed)

    def gauss(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    experts = {
        f"{EXPERTS}.{expert}.{module}.weight": gauss(24, 48)
        for expert in range(2)
        for module in ("gate_proj", "up_proj")
    }
    return {
        "model.embed_tokens.weight": gauss(60, 48),
        "model.layers.0.mlp.up_proj.weight": gauss(128, 96),
        "model.layers.0.mlp.down_proj.weight": gauss(48, 64),
        **experts,
        "model.norm.weight": torch.ones(48).bfloat16(),
        "position_ids": torch.arange(600),
    }


def trained(seed: int, scale: float = 3e-5) -> Change:
    """Every float moves a little."""

    def change(tensors: Tensors) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: (tensor.float() + torch.randn(tensor.shape, generator=generator) * scale).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in tensors.items()
        }

    return change


def recast(dtype: torch.dtype) -> Change:
    """All floats as another dtype."""
    return lambda tensors: {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def turned(tensors: Tensors) -> Tensors:
    """Every matrix transposed."""
    return {name: tensor.T.contiguous() if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}


def resized(rows: int) -> Change:
    """More rows of the embedding, or fewer."""

    def change(tensors: Tensors) -> Tensors:
        old = tensors["model.embed_tokens.weight"]
        fresh = torch.randn(max(0, rows - len(old)), old.shape[1], generator=torch.Generator().manual_seed(rows))
        grown = torch.cat([old[:rows], (fresh * 0.02).to(old.dtype)])
        return {**tensors, "model.embed_tokens.weight": grown}

    return change


def stacked(tensors: Tensors) -> Tensors:
    """The experts' matrices in one tensor."""
    parts = [
        tensors[f"{EXPERTS}.{expert}.{module}.weight"] for expert in range(2) for module in ("gate_proj", "up_proj")
    ]
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXPERTS)}
    return {**others, f"{EXPERTS}.gate_up_proj": torch.cat(parts).reshape(2, 48, 48)}


def after(tensors: Tensors, *changes: Change) -> Tensors:
    """`tensors` after one change and the next."""
    for change in changes:
        tensors = change(tensors)
    return tensors


def write_model(directory: Path, tensors: Tensors) -> Path:
    """A directory with the model's weights and its configuration."""
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return directory
