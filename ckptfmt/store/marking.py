"""What the roots reach: documents, and the objects that these need. Reads documents only, each once."""

from __future__ import annotations

import msgspec

from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError, IncompleteStore, IntegrityError, NotFound
from ckptfmt.format import documents
from ckptfmt.format.manifest import BASE_TAG, MANIFEST_TAG
from ckptfmt.store.roots import Roots
from ckptfmt.store.store import Store, manifest_key, record_key


class _Extent(msgspec.Struct, frozen=True):
    digest: str


class _File(msgspec.Struct, frozen=True):
    content: str | None = None
    skeleton: str | None = None
    extents: tuple[_Extent, ...] = ()


class _Base(msgspec.Struct, frozen=True):
    record: str


class _Lineage(msgspec.Struct, frozen=True):
    parent: str | None = None


class _Outline(msgspec.Struct, frozen=True):
    """Of a manifest or a base record only what leads on: its tensors are left out, which are most of it."""

    format: str
    version: int
    files: tuple[_File, ...] = ()
    base: _Base | None = None
    lineage: _Lineage | None = None


class Marker:
    """Follows roots to all that they reach. What was read once is not read again: documents never change.

    Attributes:
        manifests, records: digests of the documents that were reached and are there.
        objects: digests, 32 bytes each, of the objects that they need.
        hoped: those of them that only claims and earlier generations need. They may be nowhere: a writer that is not
            done yet may still have to write them (again), and an earlier gc may have kept less of the history.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._whole: set[str] = set()
        self.manifests: set[str] = set()
        self.records: set[str] = set()
        self.objects: set[bytes] = set()
        self.hoped: set[bytes] = set()
        self._needed = self.objects
        self._certain = self.manifests, self.records, self._whole

    def mark(self, roots: Roots) -> None:
        """Follow `roots`.

        Raises:
            IncompleteStore, IntegrityError: a document that must be there is not, or is damaged.
        """
        self.objects -= self.hoped  # Claims may have ended or become refs, refs may have moved on.
        self.manifests, self.records, self._whole = self._certain
        self._needed = self.objects
        self._follow([(digest, True) for digest in roots.current], set(roots.records), roots, roots.kept)
        self._certain = set(self.manifests), set(self.records), set(self._whole)
        self._needed = set()
        hoped = [(digest, False) for digest in (*roots.earlier, *roots.claimed)]
        self._follow(hoped, set(roots.claimed), roots, roots.kept | roots.claimed)
        self.hoped = self._needed - self.objects
        self.objects |= self.hoped

    def _follow(self, waiting: list[tuple[str, bool]], records: set[str], roots: Roots, whole: frozenset[str]) -> None:
        while waiting:
            digest, required = waiting.pop()
            if digest in self.manifests:
                continue
            outline = self._read(manifest_key(digest), digest, MANIFEST_TAG, required=required)
            if outline is None:
                continue
            self.manifests.add(digest)
            self._need(outline)
            if outline.base is not None:
                records.add(outline.base.record)
            if outline.lineage is not None and outline.lineage.parent is not None:
                waiting.append((outline.lineage.parent, required))
        for digest in records:
            self._mark_record(digest, whole=digest in whole, roots=roots)

    def _mark_record(self, digest: str, *, whole: bool, roots: Roots) -> None:
        if digest in self._whole or (digest in self.records and not whole):
            return
        outline = self._read(record_key(digest), digest, BASE_TAG, required=digest in roots.records)
        if outline is None:
            return
        self.records.add(digest)
        if whole:
            self._whole.add(digest)
            self._need(outline)

    def _need(self, outline: _Outline) -> None:
        need = self._needed.update
        for file in outline.files:
            need(bytes.fromhex(each) for each in (file.content, file.skeleton) if each is not None)
            need([bytes.fromhex(extent.digest) for extent in file.extents])

    def _read(self, key: str, digest: str, tag: str, *, required: bool) -> _Outline | None:
        try:
            data = self._store.document_bytes(key)
        except NotFound:
            if not required:
                return None
            raise IncompleteStore(
                f"nothing was freed: {key} is needed and not there", digest=digest, hint="ckptfmt fsck --repair"
            ) from None
        try:
            if digest_of(data) != digest:
                raise IntegrityError(f"{key}: the document is damaged (its digest is not its name)")
            outline = documents.decode(data, _Outline, where=key)
            if outline.format != tag:
                raise IntegrityError(f"{key}: it is a {outline.format}, not a {tag}")
        except CkptfmtError as error:
            raise IntegrityError(f"nothing was freed: {error.message}", hint="ckptfmt fsck --repair") from error
        return outline
