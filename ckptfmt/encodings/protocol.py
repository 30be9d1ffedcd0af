"""What an encoding is: a pure, lossless map of one frame's bytes, given the dtype it holds.

A plain encoding stores a frame by itself; a relative one stores what its *basis*, made of other objects, leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from ckptfmt.digest import Buffer
from ckptfmt.encodings.basis import Basis

Effort = Literal["fast", "balanced", "max"]
"""How much time to spend on smaller objects."""

Source = Callable[[int, int], Buffer]
"""Gives the bytes from `begin` to `end` of an object."""


class Encoding(Protocol):
    """Stores frames of at most 4 MiB. The bytes of a frame depend on nothing but the frame and the element type."""

    name: str

    def encode(self, frame: Buffer, element: str | None) -> Buffer | None:
        """Encode one frame.

        Args:
            frame: decoded bytes, at least one.
            element: dtype name of what the object holds, or None where it is not numbers.

        Returns:
            Fewer bytes than `frame`, or None where this encoding gains nothing: the frame is then stored raw.
        """
        ...

    def decode(self, stored: Buffer, length: int, element: str | None) -> Buffer:
        """Give back the `length` bytes of a frame that was not stored raw.

        Memory is bounded by `length`, whatever `stored` claims.

        Raises:
            FormatError: `stored` is no such frame, or decodes to more or fewer bytes.
        """
        ...


class Reference(Protocol):
    """How the basis of an object is made of the bytes of the objects that it depends on."""

    @property
    def name(self) -> str:
        """The one text that `Relative.parse` makes this of again."""
        ...

    def length(self, given: Sequence[int]) -> int:
        """Bytes of the basis.

        Args:
            given: bytes of each object that it is made of.

        Raises:
            FormatError: it is made of other objects.
        """
        ...

    def read(self, sources: Sequence[Source], begin: int, end: int) -> Basis:
        """The basis of the bytes from `begin` to `end`, both at elements' borders; to be called from any thread."""
        ...


class Relative(Protocol):
    """Stores frames by what a basis does not tell of them. As `Encoding`, with a basis both ways."""

    name: str

    def parse(self, name: str) -> Reference:
        """Read the text of a reference.

        Raises:
            FormatError: it is none of this encoding's.
        """
        ...

    def encode(self, frame: Buffer, element: str | None, basis: Basis) -> Buffer | None:
        """See `Encoding.encode`.

        Raises:
            FormatError: frame and basis differ in length.
        """
        ...

    def decode(self, stored: Buffer, length: int, element: str | None, basis: Basis) -> Buffer:
        """See `Encoding.decode`."""
        ...
