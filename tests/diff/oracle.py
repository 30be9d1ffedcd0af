"""Everything that a comparison says of two tensors, the plain way: whole arrays, float64, an SVD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Said:
    norm_a: float
    norm_b: float
    norm: float
    relative_norm: float | None
    cosine: float | None
    largest: float
    changed: int
    changed_bits: int | None
    not_finite: int
    rank: float | None


def tensor(data: bytes, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=TORCH[dtype])
    return torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).reshape(shape)


def numbers(value: torch.Tensor) -> Any:
    if value.is_complex():
        return value.numpy().astype(np.complex128)
    return value.to(torch.float64).numpy()


def compare(first: torch.Tensor, second: torch.Tensor) -> Said:
    a, b = numbers(first), numbers(second)
    finite = np.isfinite(a) & np.isfinite(b)
    kept_a, kept_b = np.where(finite, a, 0), np.where(finite, b, 0)
    d = kept_b - kept_a
    norm_a, norm_b, norm = (float(np.linalg.norm(each.reshape(-1))) for each in (kept_a, kept_b, d))
    bits = None
    if first.dtype == second.dtype:
        words = [
            np.frombuffer(each.contiguous().view(torch.uint8).numpy().tobytes(), np.uint8) for each in (first, second)
        ]
        bits = sum(int(byte).bit_count() for byte in words[0] ^ words[1])
    return Said(
        norm_a,
        norm_b,
        norm,
        0.0 if norm == 0 else norm / norm_a if norm_a else None,
        float(np.vdot(kept_a, kept_b).real) / norm_a / norm_b if norm_a and norm_b else None,
        float(np.abs(d).max()) if d.size else 0.0,
        int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b)))),
        bits,
        int(np.count_nonzero(~finite)),
        rank(d),
    )


def rank(d: Any) -> float | None:
    if d.ndim < 2 or not d.any():
        return None
    squares = np.linalg.svd(d.reshape(d.shape[0], -1), compute_uv=False) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def near(found: float | None, wanted: float | None, tolerance: float = 2e-6) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=1e-300)
