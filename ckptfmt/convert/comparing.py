"""Merging back: a writer that writes nothing and counts where the merged model differs from the one it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

from ckptfmt.digest import Buffer
from ckptfmt.format.dtypes import BITS
from ckptfmt.merge.execute import TORCH
from ckptfmt.merge.source import TensorSource

_WORDS: Final = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@dataclass
class ComparingWriter:
    """A `ModelWriter` over another model.

    Attributes:
        tuned: the model that should come out.
        names: by the name that is begun, that of the tuned model; what is not here is passed over.
        sizes: by name, the Frobenius norm of the update; others have no relative error.
        differing: elements with other bits, by name, where there are any.
        errors: Frobenius norm of the difference over that of the update, by name, where there are differing elements.
        elements: elements compared.
    """

    tuned: TensorSource
    names: Mapping[str, str]
    sizes: Mapping[str, float]
    differing: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    elements: int = 0
    _name: str | None = None
    _dtype: str = "U8"
    _frames: Iterator[Buffer] | None = None
    _rest: memoryview = field(default_factory=lambda: memoryview(b""))
    _square: float = 0.0

    def begin(self, name: str) -> None:
        """See `ModelWriter.begin`."""
        self._end()
        here = self.names.get(name)
        if here is not None:
            self._name, self._square = name, 0.0
            self._dtype = self.tuned.specs()[here].dtype
            self._frames = self.tuned.frames(here)

    def write(self, data: Buffer) -> None:
        """See `ModelWriter.write`."""
        if self._name is None:
            return
        view = memoryview(data).cast("B")
        while view:
            there = self._next()
            length = min(len(view), len(there)) // self._width * self._width
            if not length:
                raise ValueError(f"{self._name}: the merged tensor has another size than the tuned one")
            self._compare(view[:length], there[:length])
            view, self._rest = view[length:], there[length:]

    def finish(self) -> None:
        """See `ModelWriter.finish`."""
        self._end()

    @property
    def _width(self) -> int:
        return max(BITS[self._dtype] // 8, 1)

    def _next(self) -> memoryview:
        """Bytes of the tuned tensor, at least one element of them where there are more."""
        while len(self._rest) < self._width and self._frames is not None:
            frame = next(self._frames, None)
            if frame is None:
                break
            self._rest = memoryview(bytes(self._rest) + bytes(frame) if self._rest else frame).cast("B")
        return self._rest

    def _compare(self, mine: memoryview, theirs: memoryview) -> None:
        words = _WORDS.get(8 * self._width, torch.uint8)
        first, second = (torch.frombuffer(bytearray(each), dtype=words) for each in (mine, theirs))
        count = int((first != second).sum())
        self.elements += len(first)
        if count and self._name is not None:
            self.differing[self._name] = self.differing.get(self._name, 0) + count
            if self._dtype in TORCH and TORCH[self._dtype].is_floating_point:
                dtype = TORCH[self._dtype]
                distance = first.view(dtype).double() - second.view(dtype).double()
                self._square += float(distance.square().sum())

    def _end(self) -> None:
        name, self._name = self._name, None
        if name is None:
            return
        if self._frames is not None:
            for _ in self._frames:  # Nothing is left: this asks for the proof that comes with the end.
                pass
        self._rest = memoryview(b"")
        if name in self.differing and self.sizes.get(name):
            self.errors[name] = math.sqrt(self._square) / self.sizes[name]
