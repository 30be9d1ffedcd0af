"""What a look at one tensor gives: frozen data, as in `results`."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, frozen=True):
    """What a tensor's elements come to. Moments and the histogram are of the finite ones.

    Attributes:
        counted: elements, of a complex tensor its real and imaginary parts.
        zeros, nans, positive_infinities, negative_infinities: how many of each.
        least, most: of the finite ones; None where there is none.
        mean, deviation, norm: deviation is that of the whole population, norm the square root of the sum of squares.
        edges, counts: a histogram: bin i holds the elements from edge i on and below edge i + 1, the last one the
            highest too.
    """

    counted: int
    zeros: int
    nans: int
    positive_infinities: int
    negative_infinities: int
    least: float | int | None
    most: float | int | None
    mean: float | None
    deviation: float | None
    norm: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Holder(msgspec.Struct, frozen=True):
    """A tensor (or, with `tensor` None, a file's own content) of a ref that is made of the same object."""

    ref: str
    tensor: str | None


class Against(msgspec.Struct, frozen=True):
    """An object that a copy is stored against, and one of those it belongs to; None where nobody standing has it."""

    digest: str
    holder: Holder | None


class Copy(msgspec.Struct, frozen=True):
    """A copy of an object: `begin` is the byte offset in the shard's file."""

    shard: str
    begin: int
    stored_bytes: int
    encoding: str
    element: str | None
    reference: str
    against: tuple[Against, ...]
    dependencies: int


class Outside(msgspec.Struct, frozen=True):
    """Where an object lies in a referenced base: `path` is absolute where its files are there now."""

    base: str
    path: str
    offset: int
    there: bool


class TensorLook(msgspec.Struct, frozen=True):
    """One tensor.

    Attributes:
        ref, name, role, part, dtype, shape: of it.
        size_bytes: of its elements, dense.
        file, key: the file that it came in, and its name in there.
        object: digest of the object that holds it.
        object_bytes, offset: decoded bytes of that object, and where in it the tensor begins.
        figures: of its elements; None where there are none, for the reason `unread`.
        copies: every copy of the object in the store, the smallest first.
        outside: where it lies in a referenced base.
        holders: refs that need the same object, this one not among them; at most 200.
        holding: how many tensors or files those are in all.
    """

    ref: str
    name: str
    role: str
    part: str | None
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str
    key: str
    object: str
    object_bytes: int
    offset: int
    figures: Figures | None
    unread: str | None
    copies: tuple[Copy, ...]
    outside: Outside | None
    holders: tuple[Holder, ...]
    holding: int
