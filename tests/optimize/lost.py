"""Merged matrices whose adapter is lost, and what a store would make of recovered factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.prediction import parse_prediction
from ckptfmt.encodings.references import parse_reference
from ckptfmt.optimize.recovery import Recovered

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def words_of(tensor: torch.Tensor) -> Any:
    width = tensor.element_size()
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[width]).numpy().view(f"<u{width}")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base_of(rows: int, columns: int, element: str) -> torch.Tensor:
    return (normal(rows, columns, seed=0) * 0.02).to(TYPES[element])


def update_of(rows: int, columns: int, rank: int, rms: float) -> torch.Tensor:
    return normal(rows, rank, seed=1) @ normal(rank, columns, seed=2) * (rms / math.sqrt(rank))


def merge(base: torch.Tensor, update: torch.Tensor, rounded: torch.dtype | None = None) -> torch.Tensor:
    if rounded is not None:
        update = update.to(rounded)
    return (base.float() + update.float()).to(base.dtype)


def stored_bytes(base: Any, merged: Any, found: Recovered) -> tuple[int, float]:
    """Bytes of the residual, which is decoded and compared, and the share of elements in it."""
    prediction = parse_prediction(found.prediction(parse_reference("")).name)
    buffers = [each.tobytes() for each in (base, found.left, found.right)]
    sources = [lambda begin, end, data=data: memoryview(data)[begin:end] for data in buffers]
    frame = merged.tobytes()
    assert prediction.length([len(each) for each in buffers]) == len(frame)
    basis = prediction.read(sources, 0, len(frame))
    stored = LOWRANK.encode(frame, found.element, basis)
    assert stored is not None
    assert bytes(LOWRANK.decode(stored, len(frame), found.element, basis)) == frame
    wrong = np.frombuffer(basis.words, merged.dtype) != merged.reshape(-1)
    return len(stored), float(wrong.mean())
