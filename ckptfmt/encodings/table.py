"""Every encoding, by name."""

from __future__ import annotations

from typing import Final

from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.protocol import Encoding
from ckptfmt.encodings.raw import RAW
from ckptfmt.encodings.zstd import ZSTD
from ckptfmt.errors import FormatError

_ALL: Final[tuple[Encoding, ...]] = (RAW, ZSTD, PLANES)

ENCODINGS: Final[dict[str, Encoding]] = {encoding.name: encoding for encoding in _ALL}
"""Every encoding this version reads, by name."""


def encoding_named(name: str) -> Encoding:
    """The encoding called `name`.

    Raises:
        FormatError: there is none; the message lists those there are.
    """
    try:
        return ENCODINGS[name]
    except KeyError:
        raise FormatError(
            f"unknown encoding {name!r}; this ckptfmt reads {', '.join(ENCODINGS)}",
            hint="pip install --upgrade ckptfmt",
        ) from None
