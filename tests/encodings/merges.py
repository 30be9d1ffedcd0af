"""Merges as PEFT makes them on a CPU, and predictions of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ckptfmt.digest import FRAME_BYTES
from ckptfmt.encodings.basis import Basis
from ckptfmt.encodings.prediction import Prediction

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
WIDTHS = {"BF16": 2, "F16": 2, "F32": 4}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def scale_text(scale: float) -> str:
    return struct.pack(">f", scale).hex()


def source(data: bytes) -> Callable[[int, int], bytes]:
    return lambda begin, end: data[begin:end]


class Merge(NamedTuple):
    """A merged weight and what it was made of: base, then U and V."""

    merged: bytes
    tensors: list[bytes]


def merge(base: str, adapter: str, rows: int, columns: int, rank: int, scale: float, seed: int = 0) -> Merge:
    """The arithmetic of peft's `Linear.merge` (peft 0.21, tuners/lora/layer.py) without its layers."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(rows, columns, generator=generator) * 0.02).to(TORCH[base])
    left = (torch.randn(rows, rank, generator=generator) * 0.003).to(TORCH[adapter])
    right = (torch.randn(rank, columns, generator=generator) / columns**0.5).to(TORCH[adapter])
    update = (left.float() @ right.float()) * scale
    merged = weight.clone()
    merged += update.to(TORCH[adapter])
    return Merge(bytes_of(merged), [bytes_of(weight), bytes_of(left), bytes_of(right)])


def frames_of(prediction: Prediction, tensors: Sequence[bytes]) -> list[Basis]:
    """The basis of every frame."""
    sources = [source(each) for each in tensors]
    length = prediction.length([len(each) for each in tensors])
    return [
        prediction.read(sources, begin, min(begin + FRAME_BYTES, length)) for begin in range(0, length, FRAME_BYTES)
    ]


def predicted(prediction: Prediction, tensors: Sequence[bytes]) -> bytes:
    return b"".join(bytes(each.words) for each in frames_of(prediction, tensors))


def missed(prediction: Prediction, merge_: Merge, element: str) -> float:
    """The share of elements that were predicted wrong."""
    words: Any = [
        np.frombuffer(each, f"<u{WIDTHS[element]}") for each in (merge_.merged, predicted(prediction, merge_.tensors))
    ]
    return float((words[0] != words[1]).mean())
