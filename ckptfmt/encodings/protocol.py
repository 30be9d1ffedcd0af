"""What an encoding is: a pure, lossless map of one frame's bytes, given the dtype it holds."""

from __future__ import annotations

from typing import Literal, Protocol

from ckptfmt.digest import Buffer

Effort = Literal["fast", "balanced", "max"]
"""How much time to spend on smaller objects."""


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
