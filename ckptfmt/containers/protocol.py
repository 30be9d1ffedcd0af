"""What a container is: a weight file cut into a skeleton and extents, without a guess at what names mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class ByteSource(Protocol):
    """Random access to one file's bytes."""

    @property
    def where(self) -> str:
        """What to call the file in errors."""
        ...

    @property
    def size(self) -> int:
        """Its length in bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `offset`.

        Raises:
            FormatError: the file is shorter than that.
        """
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A run of the file that holds tensor data: `length` bytes at byte `offset`.

    `dtype` and `shape` are those of the one tensor that fills it in C order; where several share it, the element
    type that they have in common and the number of elements; else None and (). Spans of length 0 are allowed.
    """

    offset: int
    length: int
    dtype: str | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CutTensor:
    """A tensor of the container.

    Attributes:
        key: its name as the container spells it; for nested pickles the path joined with '.'.
        path: the keys that lead to it, outermost first (a safetensors tensor: its one name).
        dtype: name as in `format.dtypes`.
        shape: dimensions.
        extent: index into `Cut.extents`.
        offset: bytes from that extent's start to the element at index 0.
        strides: in elements, or None for C order.
    """

    key: str
    path: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    extent: int
    offset: int = 0
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TensorAt:
    """Stands in `Cut.tree` where a tensor was: `index` into `Cut.tensors`."""

    index: int


@dataclass(frozen=True, slots=True)
class Inert:
    """Stands in `Cut.tree` where something was that we do not interpret: `name` is the class or function it named."""

    name: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A file cut: extents sorted by offset, disjoint, inside the file; all other bytes are the skeleton.

    Attributes:
        container: "safetensors" or "torch-zip".
        extents: where tensor data lies.
        tensors: what lies there.
        metadata: safetensors `__metadata__`.
        tree: the pickled value of a torch file as plain dicts, lists and scalars, with `TensorAt` and `Inert`.
    """

    container: str
    extents: tuple[Span, ...]
    tensors: tuple[CutTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tree: Any = None


@dataclass(frozen=True, slots=True)
class Opaque:
    """A file that is kept whole: `reason` says why it was not cut; None for what is no weight file at all."""

    reason: str | None = None


class Container(Protocol):
    """One kind of weight file."""

    name: str

    def claims(self, source: ByteSource, path: str) -> bool:
        """Tell, from its first bytes and its name, whether the file is of this kind."""
        ...

    def cut(self, source: ByteSource) -> Cut | Opaque:
        """Cut the file.

        Returns:
            The cut, or Opaque with the reason where the file is well-formed but not interpreted.

        Raises:
            FormatError: the file contradicts itself.
            UnsafeFile: it goes beyond the bounds set for files from elsewhere.
        """
        ...
