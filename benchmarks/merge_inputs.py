"""What merges are measured with: Llama-style models that transformers loads, and LoRA adapters that peft loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.inputs import Numbers, Shapes, layers, write_safetensors

WIDTH = 2048
INNER = 5632
RANK = 16
_SHARD_BYTES = 512 << 20
_SIZES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}


def make_base(directory: Path, size_bytes: int, *, single: bool = False, vocabulary: int = 32_000) -> int:
    """A model of about `size_bytes` in shards of 512 MB or in one file; returns its number of layers.

    Args:
        directory: it does not exist.
        size_bytes: of its layers; embedding and head come with them.
        single: all in one file.
        vocabulary: rows of the embedding and of the head.
    """
    directory.mkdir(parents=True)
    ends: Shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH), "lm_head.weight": (vocabulary, WIDTH)}
    blocks = list(layers(max(size_bytes - 4 * vocabulary * WIDTH, 1)))
    shards: list[Shapes] = [{}]
    for tensors in (ends, *blocks, {"model.norm.weight": (WIDTH,)}):
        if not single and 2 * sum(map(_elements, (*shards[-1].values(), *tensors.values()))) > _SHARD_BYTES:
            shards.append({})
        shards[-1] |= tensors
    shards = [shard for shard in shards if shard]
    numbers = Numbers()
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        several = f"model-{number:05}-of-{len(shards):05}.safetensors"
        name = "model.safetensors" if len(shards) == 1 else several
        write_safetensors(directory / name, tensors, numbers)
        index |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    _write_json(directory / "config.json", _config(len(blocks), vocabulary))
    return len(blocks)


def make_adapter(directory: Path, layer_count: int, seed: int, *, method: str = "LORA") -> None:
    """An adapter of rank 16 on every linear layer, as peft saves it; none of its factors is zero.

    Args:
        directory: it does not exist.
        layer_count: of the base.
        seed: other seeds give other numbers.
        method: "LORA", or "LOHA" which is merged by peft's own layers.
    """
    from safetensors.numpy import save_file

    directory.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(layer_count):
        for name, (out, into) in _SIZES.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            if method == "LORA":
                shapes = {"lora_A.weight": (RANK, into), "lora_B.weight": (out, RANK)}
            else:
                shapes = {f"hada_w{side}_{half}": _half(half, out, into) for side in (1, 2) for half in "ab"}
            for part, shape in shapes.items():
                tensors[f"{prefix}.{part}"] = generator.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    common = {
        "base_model_name_or_path": "base",
        "inference_mode": True,
        "peft_type": method,
        "r": RANK,
        "target_modules": sorted({name.rpartition(".")[2] for name in _SIZES}),
        "task_type": "CAUSAL_LM",
    }
    own = {"lora_alpha": 2 * RANK, "lora_dropout": 0.0, "bias": "none"} if method == "LORA" else {"alpha": 2 * RANK}
    _write_json(directory / "adapter_config.json", {**common, **own})


def _half(half: str, out: int, into: int) -> tuple[int, int]:
    return (out, RANK) if half == "a" else (RANK, into)


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _config(layer_count: int, vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layer_count,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))
