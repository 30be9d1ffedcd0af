"""A store whose own document is damaged or gone: it says nothing that the rest of the store depends on."""

from __future__ import annotations

import os
import re
import uuid
from typing import Final

from ckptfmt.errors import CkptfmtError, UnsupportedVersion
from ckptfmt.format import documents
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.refs import StoreDocument
from ckptfmt.fsck import bits
from ckptfmt.fsck.objects_again import aside
from ckptfmt.fsck.problem import Repair
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.refs import utc_now
from ckptfmt.store.store import DOCUMENT

_PARTS: Final = ("refs", "manifests", "shards")
_ID: Final = re.compile(rb'"store_id":"([0-9a-f]{32})"')
_CREATED: Final = re.compile(rb'"created":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"')
_VERSION: Final = re.compile(rb'"version":(\d+)')
_MAX_BYTES: Final = 1 << 20


def is_store_without_document(path: str) -> bool:
    """Tell whether all but the store's own document is there."""
    return all(os.path.isdir(os.path.join(path, part)) for part in _PARTS)


def repair_document_of(path: str) -> Repair:
    """Let the store's own document be there again; what is damaged is set aside.

    Raises:
        UnsupportedVersion: what is left of it says that it is of another version.
        StorageError: the file system refuses.
    """
    storage = LocalStorage(os.path.abspath(path))
    data = _made_again(storage)
    if storage.size(DOCUMENT) is not None:
        aside(storage, DOCUMENT)
        storage.delete(DOCUMENT)
    storage.put_if_absent(DOCUMENT, data)
    return Repair("store-document", DOCUMENT, "made again; the store's id may be another, which no file depends on")


def _made_again(storage: LocalStorage) -> bytes:
    """The document, corrected where that can be proven, else with what is left of it.

    Raises:
        UnsupportedVersion: what is left says that it is of another version.
    """
    try:
        data = storage.read(DOCUMENT, 0, _MAX_BYTES)
    except CkptfmtError:
        data = b""
    corrected = bits.by_seal(data)
    if corrected is not None:
        return corrected
    version, store_id, created = _VERSION.search(data), _ID.search(data), _CREATED.search(data)
    if version is not None and int(version[1]) > FORMAT_VERSION:
        raise UnsupportedVersion(f"{DOCUMENT}: it seems to be of format version {version[1].decode()}")
    document = StoreDocument(
        version=FORMAT_VERSION,
        store_id=store_id[1].decode() if store_id else uuid.uuid4().hex,
        hash="blake3-256",
        created=created[1].decode() if created else utc_now(),
    )
    return documents.seal(document)
