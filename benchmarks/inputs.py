"""Checkpoints to measure with: the shapes of a small Llama, bf16 numbers that do not compress to nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK_BYTES = 64 << 20
_SHARD_BYTES = 512 << 20
_WIDTH = 2048
_INNER = 5632
_LAYER = {
    "input_layernorm": (_WIDTH,),
    "post_attention_layernorm": (_WIDTH,),
    "self_attn.q_proj": (_WIDTH, _WIDTH),
    "self_attn.k_proj": (_WIDTH, _WIDTH),
    "self_attn.v_proj": (_WIDTH, _WIDTH),
    "self_attn.o_proj": (_WIDTH, _WIDTH),
    "mlp.gate_proj": (_INNER, _WIDTH),
    "mlp.up_proj": (_INNER, _WIDTH),
    "mlp.down_proj": (_WIDTH, _INNER),
}

Shapes = dict[str, tuple[int, ...]]


class Numbers:
    """An endless run of bf16 numbers, Gaussian like weights: one random block of 64 MiB again and again, each time
    with other low bits, so that no two blocks are equal and none is cheaper to encode than real weights are."""

    def __init__(self) -> None:
        drawn = np.random.default_rng(0).standard_normal(BLOCK_BYTES // 2, dtype=np.float32) * np.float32(0.02)
        self._block = (drawn.view(np.uint32) >> 16).astype(np.uint16)
        self._number = 0
        self._left = memoryview(b"")

    def parts(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes."""
        while length:
            if not self._left:
                changed = (self._number & 0x7F) | (self._number >> 7 & 1) << 15
                self._left = memoryview((self._block ^ np.uint16(changed)).view(np.uint8).data)
                self._number += 1
            part = self._left[:length]
            self._left = self._left[len(part) :]
            length -= len(part)
            yield part


def write_safetensors(path: Path, tensors: Shapes, numbers: Numbers) -> None:
    """One file of bf16 tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        length = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in numbers.parts(position):
            done = 0
            while done < len(part):
                done += file.write(part[done:])
        os.fsync(file.fileno())


def layers(size_bytes: int) -> Iterator[Shapes]:
    """The tensors of as many layers as make `size_bytes`, a layer at a time."""
    layer = 2 * sum(map(math.prod, _LAYER.values()))
    for index in range(math.ceil(size_bytes / layer)):
        yield {f"model.layers.{index}.{name}.weight": shape for name, shape in _LAYER.items()}


def make_sharded(directory: Path, size_bytes: int) -> int:
    """A Hugging Face model in shards of about 512 MB, with its index; returns its bytes."""
    directory.mkdir(parents=True)
    numbers = Numbers()
    shards: list[Shapes] = [{}]
    for tensors in layers(size_bytes):
        if 2 * sum(math.prod(shape) for shape in (*shards[-1].values(), *tensors.values())) > _SHARD_BYTES:
            shards.append({})
        shards[-1] |= tensors
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / name, tensors, numbers)
        index |= dict.fromkeys(tensors, name)
    _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    _write_json(directory / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    return bytes_below(directory)


def make_single_tensor(directory: Path, size_bytes: int) -> int:
    """A model that is one file with one tensor; returns its bytes."""
    directory.mkdir(parents=True)
    shape = (size_bytes // 2 // _WIDTH, _WIDTH)
    write_safetensors(directory / "model.safetensors", {"model.embed_tokens.weight": shape}, Numbers())
    _write_json(directory / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    return bytes_below(directory)


def files_below(directory: Path) -> list[Path]:
    """Every file, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def bytes_below(directory: Path) -> int:
    """Bytes of every file."""
    return sum(path.stat().st_size for path in files_below(directory))


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))
