"""Writing an adapter as PEFT's `save_pretrained` does: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import torch

from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.format.safetensors import LENGTH_BYTES
from ckptfmt.merge.hf_writer import write_file
from ckptfmt.merge.protocol import Adapter
from ckptfmt.storage import durable

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_ALIGNMENT: Final = 8


def write_adapter(directory: str, adapter: Adapter, config: Mapping[str, Any] | None = None) -> None:
    """Write an adapter into a directory that exists, one tensor in memory at a time."""
    named = adapter.config if config is None else config
    write_file(f"{directory}/{CONFIG}", json.dumps(named, indent=2, sort_keys=True).encode() + b"\n")
    order = sorted(adapter.tensors, key=lambda name: (-BITS[adapter.tensors[name].dtype], name))
    file = durable.WriteFile(f"{directory}/{WEIGHTS}")
    try:
        file.write(_header(adapter, order))
        for name in order:
            tensor = adapter.read(name).contiguous()
            if tensor.numel():
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        file.sync()
    finally:
        file.close()


def _header(adapter: Adapter, order: list[str]) -> bytes:
    document: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in order:
        spec = adapter.tensors[name]
        end = position + (size_bytes(spec.dtype, spec.shape) or 0)
        document[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
