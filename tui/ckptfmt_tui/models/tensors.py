"""The tensors of a checkpoint as a list that is filtered and sorted: 100,000 of them in a tenth of a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from ckptfmt.format.dtypes import BITS
from ckptfmt.format.manifest import Manifest, Tensor
from ckptfmt.wording import shape_words
from ckptfmt_tui.models.filters import words_of

ORDERS: Final = ("file", "name", "size", "stored", "encoding", "ratio", "dtype", "role")
FALLS: Final = frozenset({"size", "stored", "ratio"})
"""Orders that begin with the largest."""

_Kept = tuple[tuple[str | None, int], ...]


class TensorList:
    """Tensors by their place in the manifest. What a filter or an order looks at is made once.

    Args:
        manifest: whose tensors they are.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tensors: Sequence[Tensor] = manifest.tensors
        self.kept: _Kept | None = None
        self._texts: list[str] = []
        self._orders: dict[str, list[int]] = {"file": list(range(len(manifest.tensors)))}
        self._keys: dict[str, Callable[[int], Any]] = {
            "name": lambda at: self.tensors[at].name,
            "size": lambda at: -self.size(at),
            "stored": lambda at: -(self.stored(at) or 0),
            "encoding": lambda at: self.encoding(at) or "",
            "ratio": lambda at: -(self.ratio(at) or 0.0),
            "dtype": lambda at: self.tensors[at].dtype,
            "role": lambda at: (self.tensors[at].role, self.tensors[at].part or ""),
        }

    def learn(self, kept: _Kept, texts: list[str]) -> None:
        """Take in how the tensors are stored, and the texts that `texts_of` made of that."""
        self.kept = kept
        self._texts = texts
        for order in ("stored", "encoding", "ratio"):
            self._orders.pop(order, None)

    def size(self, at: int) -> int:
        """Bytes of its elements, dense."""
        tensor = self.tensors[at]
        return -(-BITS.get(tensor.dtype, 0) * math.prod(tensor.shape) // 8)

    def encoding(self, at: int) -> str | None:
        """How its object is stored; `base` where that lies in a referenced base, None where it is not known yet."""
        return None if self.kept is None else self.kept[at][0] or "base"

    def stored(self, at: int) -> int | None:
        """Bytes that its object takes; None where it is not known yet."""
        return None if self.kept is None else self.kept[at][1]

    def ratio(self, at: int) -> float | None:
        """How many times smaller its object is stored; None where it is not known, or takes nothing here."""
        stored = self.stored(at)
        tensor = self.tensors[at]
        length = self.manifest.files[tensor.file].extents[tensor.extent].length
        return length / stored if stored else None

    def rows(self, order: str, *, turned: bool, words: str) -> list[int]:
        """Places of the tensors that fit the words of a filter, in an order.

        Args:
            order: one of `ORDERS`.
            turned: the other way around.
            words: each has to stand in the name, role, dtype, encoding, adapter or shape, small letters as capitals.
        """
        if order not in self._orders:
            self._orders[order] = sorted(self._orders["file"], key=self._keys[order])
        rows = self._orders[order]
        if wanted := words_of(words):
            if not self._texts:
                self._texts = texts_of(self.manifest, self.kept)
            texts = self._texts
            first, *others = wanted
            rows = [at for at in rows if first in texts[at]]
            for word in others:
                rows = [at for at in rows if word in texts[at]]
        return rows[::-1] if turned else rows


def texts_of(manifest: Manifest, kept: _Kept | None) -> list[str]:
    """What a filter looks at, of each tensor, in small letters."""
    told = ("",) * len(manifest.tensors) if kept is None else [encoding or "base" for encoding, _ in kept]
    return [
        f"{tensor.name} {tensor.role} {tensor.dtype} {tensor.part or ''} {encoding} {shape_words(tensor.shape)}".lower()
        for tensor, encoding in zip(manifest.tensors, told, strict=True)
    ]
