"""Memory in which a thread computes block after block: fresh pages cost more than the arithmetic on them."""

from __future__ import annotations

import math
import threading
from typing import Final, Literal

import torch

Use = Literal["product", "sum"]

_KEPT_BYTES: Final = 32 << 20
"""What is larger is no block, but a tensor that is changed whole: its memory is not kept."""
_STEP: Final = 256 << 10


class _Memory(threading.local):
    """What one thread keeps, by what it is used for."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Use, torch.dtype], torch.Tensor] = {}


_memory: Final = _Memory()


def scratch(use: Use, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """A tensor of `shape` with the dtype and on the device of `like`; what is in it is not defined.

    This thread's next scratch for the same use overwrites it.
    """
    count = math.prod(shape)
    size_bytes = count * like.element_size()
    if like.device.type != "cpu" or size_bytes > _KEPT_BYTES:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    key = (use, like.dtype)
    kept = _memory.kept.get(key)
    if kept is None or kept.numel() < count:
        _memory.kept.pop(key, None)
        del kept
        room = -(-size_bytes // _STEP) * _STEP
        _memory.kept[key] = kept = torch.empty(room // like.element_size(), dtype=like.dtype)
    return kept[:count].view(shape)
