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
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_stated_version(data, where)
        raise FormatError(f"{where}: {error}", code="malformed-document") from None
    _check_version(getattr(document, "version", FORMAT_VERSION), where)
    return document


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


def _check_stated_version(data: bytes, where: str) -> None:
    try:
        stated = msgspec.json.decode(data, type=_Versioned)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    _check_version(stated.version, where)


def _check_version(version: int, where: str) -> None:
    if version > FORMAT_VERSION:
        raise UnsupportedVersion(f"{where}: format version {version}; this ckptfmt reads up to {FORMAT_VERSION}")
    if version < 1:
        raise FormatError(f"{where}: version: expected at least 1, got {version}", code="malformed-document")
