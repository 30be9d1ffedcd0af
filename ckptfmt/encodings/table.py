"""Every encoding, by name."""

from __future__ import annotations

from typing import Final

from ckptfmt.encodings.delta import DELTA
from ckptfmt.encodings.lowrank import LOWRANK
from ckptfmt.encodings.planes import PLANES
from ckptfmt.encodings.protocol import Encoding, Relative
from ckptfmt.encodings.raw import RAW
from ckptfmt.encodings.zstd import ZSTD
from ckptfmt.errors import FormatError

_PLAIN: Final[tuple[Encoding, ...]] = (RAW, ZSTD, PLANES)
_RELATIVE: Final[tuple[Relative, ...]] = (DELTA, LOWRANK)

ENCODINGS: Final[dict[str, Encoding]] = {encoding.name: encoding for encoding in _PLAIN}
"""Every encoding that stores a frame by itself."""

RELATIVE: Final[dict[str, Relative]] = {encoding.name: encoding for encoding in _RELATIVE}
"""Every encoding that stores a frame against other objects."""


def encoding_named(name: str) -> Encoding:
    """The plain encoding called `name`.

    Raises:
        FormatError: there is none; the message lists those there are.
    """
    try:
        return ENCODINGS[name]
    except KeyError:
        raise FormatError(
            f"unknown encoding {name!r}; this ckptfmt reads {', '.join((*ENCODINGS, *RELATIVE))}",
            hint="pip install --upgrade ckptfmt",
        ) from None
