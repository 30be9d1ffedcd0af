"""The encoding `raw`: a frame as it is. Specified in docs/format/encodings/raw.md."""

from __future__ import annotations

from typing import Final

from ckptfmt.digest import Buffer
from ckptfmt.errors import FormatError


class Raw:
    """Stores every frame as it is; any safetensors reader can then read the object without this library."""

    name = "raw"

    def encode(self, frame: Buffer, element: str | None) -> Buffer | None:
        """Encode nothing: a frame that `encode` declines is stored raw."""
        return None

    def decode(self, stored: Buffer, length: int, element: str | None) -> Buffer:
        """Give back `stored`.

        Raises:
            FormatError: it is not `length` bytes long.
        """
        if len(stored) != length:
            raise FormatError(f"a raw frame of {length} bytes is stored in {len(stored)}")
        return stored


RAW: Final = Raw()
