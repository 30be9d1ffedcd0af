"""safetensors files written byte by byte, so that a test can choose, or lie about, anything in them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Written:
    """A tensor as it is to stand in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def noise(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(length)


def file_of(
    *tensors: Written, metadata: dict[str, str] | None = None, padding: int = 0, keys: list[str] | None = None
) -> bytes:
    """A file whose data lie in the order of `tensors`, and whose header lists them in the order of `keys`."""
    entries: dict[str, Any] = {}
    position = 0
    for tensor in tensors:
        end = position + len(tensor.data)
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    if keys is not None:
        entries = {key: entries[key] for key in keys}
    document = entries if metadata is None else {"__metadata__": metadata, **entries}
    return with_header(json.dumps(document), b"".join(tensor.data for tensor in tensors), padding=padding)


def with_header(header: str | bytes, data: bytes, *, padding: int = 0) -> bytes:
    raw = (header.encode() if isinstance(header, str) else header) + b" " * padding
    return struct.pack("<Q", len(raw)) + raw + data
