"""With whom a checkpoint shares what it takes: asked for one at a time, within a time that a person waits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import takewhile

import msgspec

from ckptfmt.api.shared import standing_refs
from ckptfmt.digest import is_digest
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.refs import BASES, Generation
from ckptfmt.store.graph import closure
from ckptfmt.store.refs import pass_over
from ckptfmt.store.store import Store, manifest_key, record_key


class Sharer(msgspec.Struct, frozen=True):
    """A ref that needs some of the same objects; bases are called `bases/NAME`."""

    ref: str
    bytes: int
    objects: int


class Sharing(msgspec.Struct, frozen=True):
    """With whom a checkpoint shares.

    Attributes:
        ref: the checkpoint.
        shared_bytes: stored bytes that some other ref among those looked at needs too.
        sharers: those refs, whoever shares most first.
        same: refs that stand for the very same manifest.
        looked_at, refs: how many other refs were looked at, of how many.
    """

    ref: str
    shared_bytes: int
    sharers: tuple[Sharer, ...]
    same: tuple[str, ...]
    looked_at: int
    refs: int


class _Extent(msgspec.Struct, gc=False):
    digest: str


class _File(msgspec.Struct):
    content: str | None = None
    skeleton: str | None = None
    extents: list[_Extent] = []


class _Document(msgspec.Struct):
    """What is read of a manifest or base record here: the digests, and nothing else."""

    files: list[_File] = []


def sharing(store: Store, ref: str, *, seconds: float) -> Sharing:
    """With whom a checkpoint shares stored bytes.

    The refs nearest by name are looked at first, bases too, and no more once `seconds` are over.

    Raises:
        NotFound, InvalidInput, IntegrityError, FormatError: there is no such checkpoint, or it cannot be read.
    """
    end = time.monotonic() + seconds
    target, _ = store.resolve(ref)
    catalog = store.catalog()
    own = _with_dependencies(store, objects_of(store.manifest_uncached(target)))
    sizes = catalog.stored_bytes(own)
    others = [item for item in standing_refs(store, pass_over) if item.name != ref]
    same = tuple(item.name for item in others if item.target == target)
    waiting = sorted((item for item in others if item.target != target), key=lambda item: _distance(ref, item.name))
    decoder = msgspec.json.Decoder(_Document)
    seen: dict[str, tuple[int, int]] = {}
    found: list[Sharer] = []
    shared: set[str] = set()
    looked_at = 0
    for item in waiting:
        if time.monotonic() > end:
            break
        looked_at += 1
        document = item.target or ""
        if document not in seen:
            common = sizes.keys() & _needed(store, item, decoder)
            shared |= common
            seen[document] = sum(sizes[digest] for digest in common), len(common)
        size, count = seen[document]
        if size:
            found.append(Sharer(item.name, size, count))
    found.sort(key=lambda sharer: -sharer.bytes)
    return Sharing(
        ref=ref,
        shared_bytes=sum(sizes.values()) if same else sum(sizes[digest] for digest in shared),
        sharers=tuple(found),
        same=same,
        looked_at=looked_at + len(same),
        refs=len(others),
    )


def _needed(store: Store, item: Generation, decoder: msgspec.json.Decoder[_Document]) -> set[str]:
    """Every object that a ref needs; nothing where its document cannot be read."""
    target = item.target or ""
    key = record_key(target) if item.name.startswith(BASES) else manifest_key(target)
    try:
        document = decoder.decode(store.document_bytes(key))
    except (CkptfmtError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
    digests = {extent.digest for file in document.files for extent in file.extents}
    for file in document.files:
        digests |= {digest for digest in (file.content, file.skeleton) if digest is not None}
    return _with_dependencies(store, filter(is_digest, digests))


def _with_dependencies(store: Store, digests: Iterable[str]) -> set[str]:
    own = set(digests)
    return own | closure(store.catalog().dependencies, own)


def _distance(ref: str, other: str) -> tuple[int, int, str]:
    """Refs of the same run first, then those nearby, bases among them."""
    if other.startswith(BASES):
        return (-1, 0, other)
    parts, others = ref.split("/"), other.split("/")
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False)))
    return (len(parts) - common, len(others) - common, other)
