"""Tensors of other models, as they are looked up by what may be made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ckptfmt.format.manifest import Role

Key = tuple[Role, str | None, str]
"""Role, part and name of a tensor."""

WIDTHS: Final = frozenset({8, 16, 32, 64})
"""Bits of the elements that references are made of."""


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that fills an object: its dtype and shape, and the object's digest."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


Find = Callable[[str], Held | None]
"""Gives a tensor of another model by its name."""
