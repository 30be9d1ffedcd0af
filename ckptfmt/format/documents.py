"""JSON documents: one way to write them, one strict way to read them.

A document is a `msgspec.Struct` that rejects unknown fields. It is written compactly with fields in declaration
order and defaults left out, so equal contents have equal bytes. Mutable ones (refs, `store.json`) are *sealed*:
their last field is the XXH3-128 of all their other bytes.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from ckptfmt.digest import CHECKSUM_HEX, checksum_of
from ckptfmt.errors import FormatError, IntegrityError, UnsupportedVersion

FORMAT_VERSION: Final = 1

_SEAL_KEY: Final = b',"xxh3":"'
_SEAL_END: Final = b'"}\n'
_SEAL_BYTES: Final = len(_SEAL_KEY) + CHECKSUM_HEX + len(_SEAL_END)

Document = TypeVar("Document", bound=msgspec.Struct)


class _Versioned(msgspec.Struct):
    format: str
    version: int


def encode(document: msgspec.Struct) -> bytes:
    """Write `document` as its canonical bytes, ending in a newline."""
    return msgspec.json.encode(document, order="deterministic") + b"\n"


def decode(data: bytes, kind: type[Document], *, where: str) -> Document:
    """Read a document of type `kind`.

    Raises:
        UnsupportedVersion: it was written by a newer ckptfmt.
        FormatError: it is not such a document; the message names the field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse_newer(data, where)
        raise FormatError(f"{where}: {error}", code="malformed-document") from None


def seal(document: msgspec.Struct) -> bytes:
    """Write `document` with the XXH3-128 of its other bytes as its last field."""
    body = msgspec.json.encode(document, order="deterministic")
    head, tail = body[:-1] + _SEAL_KEY, _SEAL_END
    return head + checksum_of(head + tail).encode() + tail


def unseal(data: bytes, kind: type[Document], *, where: str) -> Document:
    """Read a sealed document of type `kind`.

    Raises:
        IntegrityError: its bytes are not those that were sealed.
        UnsupportedVersion: it was written by a newer ckptfmt.
        FormatError: the sealed bytes are not such a document.
    """
    head, tail = data[: -CHECKSUM_HEX - len(_SEAL_END)], data[-len(_SEAL_END) :]
    stated = data[len(head) : len(head) + CHECKSUM_HEX]
    sound = (
        len(data) > _SEAL_BYTES
        and head.endswith(_SEAL_KEY)
        and tail == _SEAL_END
        and checksum_of(head + tail).encode() == stated
    )
    if not sound:
        raise IntegrityError(f"{where}: the document is damaged (its checksum does not hold)", hint="ckptfmt fsck")
    return decode(data[:-_SEAL_BYTES] + b"}", kind, where=where)


def _refuse_newer(data: bytes, where: str) -> None:
    try:
        found = msgspec.json.decode(data, type=_Versioned)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if found.version > FORMAT_VERSION:
        raise UnsupportedVersion(
            f"{where}: {found.format} has format version {found.version}; this ckptfmt reads up to {FORMAT_VERSION}"
        )
