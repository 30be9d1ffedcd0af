"""An adapter of a manifest, as merging reads it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import torch

from ckptfmt.errors import MergeError
from ckptfmt.format.manifest import Adapter, Manifest
from ckptfmt.merge.execute import TORCH
from ckptfmt.merge.protocol import Spec
from ckptfmt.merge.source import TensorSource
from ckptfmt.store.objects import Objects

_FLOATS: Final = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_PART: Final = 1 << 20
"""Elements that are looked at together."""


class StoredAdapter:
    """An adapter in the store. Its tensors are read when they are asked for, and proven by their digests.

    Args:
        manifest: the checkpoint it lies in.
        adapter: which of its adapters.
        objects: gives the bytes.
    """

    def __init__(self, manifest: Manifest, adapter: Adapter, objects: Objects) -> None:
        self._adapter = adapter
        self._source = TensorSource(f"adapter {adapter.name!r}", manifest, objects, adapter=adapter.name)

    @property
    def name(self) -> str:
        """See `merge.protocol.Adapter`."""
        return self._adapter.name

    @property
    def method(self) -> str:
        """See `merge.protocol.Adapter`."""
        return self._adapter.method

    @property
    def config(self) -> Mapping[str, Any]:
        """See `merge.protocol.Adapter`."""
        return self._adapter.config

    @cached_property
    def tensors(self) -> Mapping[str, Spec]:
        """See `merge.protocol.Adapter`."""
        return self._source.specs()

    def read(self, name: str) -> torch.Tensor:
        """See `merge.protocol.Adapter`."""
        spec = self.tensors[name]
        data = bytearray(b"".join(self._source.frames(name)))
        dtype = TORCH[spec.dtype]
        tensor = (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(spec.shape)
        if not _is_finite(tensor):
            raise MergeError(
                f"adapter {self.name} cannot be merged: {name} holds NaN or infinite numbers",
                hint="its training went astray: merge an earlier checkpoint of it",
            )
        return tensor


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.dtype not in _FLOATS:
        return True
    flat = tensor.reshape(-1)
    return all(bool(flat[at : at + _PART].isfinite().all()) for at in range(0, flat.numel(), _PART))
