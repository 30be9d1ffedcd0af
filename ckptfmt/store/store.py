"""A store: a directory with documents, shards and refs, opened for reading and writing."""

from __future__ import annotations

import os
import shlex
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, TypeVar

from ckptfmt.digest import digest_of, is_digest
from ckptfmt.errors import CkptfmtError, Conflict, IntegrityError, InvalidInput, NotFound
from ckptfmt.format import documents
from ckptfmt.format.check import check_document
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.manifest import BaseRecord, Manifest
from ckptfmt.format.refs import Generation, StoreDocument, check_name
from ckptfmt.storage import durable
from ckptfmt.storage.local import TEMPORARY, LocalStorage
from ckptfmt.storage.protocol import Listed, Storage
from ckptfmt.store.catalog import Catalog, catalog_path
from ckptfmt.store.elsewhere import OutsideObjects
from ckptfmt.store.objects import Objects
from ckptfmt.store.refs import Refs, utc_now
from ckptfmt.store.shards import PREFIX, read_shard_header, shard_of
from ckptfmt.store.trash import Trashed, WithTrash, has_runs, trashed

DOCUMENT: Final = "store.json"
_MAX_DOCUMENT_BYTES: Final = 1 << 30
_SHORTEST_PREFIX: Final = 8

Kind = TypeVar("Kind", Manifest, BaseRecord)


class Store:
    """An open store. Opening reads one document and writes nothing.

    Attributes:
        storage: its bytes at rest.
        readable: the same for whoever only reads: also what gc took out and did not unlink yet.
        refs: its names.
        document: its `store.json`.
        path: its directory; None for one in memory.
    """

    def __init__(self, storage: Storage, document: StoreDocument, path: str | None = None) -> None:
        self.storage = storage
        self.readable = WithTrash(storage)
        self.document = document
        self.path = path
        self.refs = Refs(storage)
        self.unreadable_shards: dict[str, CkptfmtError] = {}
        self._synced = self._rebuilt = False
        self._lock = threading.RLock()
        self._manifest = lru_cache(maxsize=64)(self._checked_manifest)
        self._record = lru_cache(maxsize=16)(self._read_record)

    @cached_property
    def _catalog(self) -> Catalog:
        path = catalog_path(self.document.store_id, f"{self.path}/{DOCUMENT}") if self.path else None
        return Catalog(path, refill=self._sync)

    def catalog(self, *, refresh: bool = False) -> Catalog:
        """The catalog, after it followed the store once since opening (or once more)."""
        with self._lock:
            if refresh or not self._synced:
                self._sync()
            return self._catalog

    def _sync(self) -> None:
        # What is taken out meanwhile is seen in the trash, what is brought back meanwhile by the second look.
        again = has_runs(self.storage)
        present = self._shards_of(self.storage.list(PREFIX)) | self._shards_of(trashed(self.storage))
        if again or has_runs(self.storage):
            present |= self._shards_of(self.storage.list(PREFIX))
        self.unreadable_shards = self._catalog.sync(present, lambda shard: read_shard_header(self.readable, shard))
        self._synced = True

    @staticmethod
    def _shards_of(values: Iterable[Listed | Trashed]) -> dict[str, int]:
        return {shard: value.size for value in values if (shard := shard_of(value.key)) is not None}

    def _look_again(self) -> None:
        """What the catalog says is not there: make it follow the store; the first time, read every shard's header."""
        # Another thread that looked between the two would miss what is there.
        with self._lock, self._catalog.alone():
            if not self._rebuilt:
                self._rebuilt = True
                self._catalog.clear()
            self._sync()

    def facts(self) -> Catalog:
        """The catalog for its facts alone: what it knows of shards may be old."""
        with self._lock:
            return self._catalog

    def close(self) -> None:
        """Let go of the catalog."""
        if "_catalog" in self.__dict__:
            self._catalog.close()

    def forget_documents(self) -> None:
        """Read documents anew that were read before: a repair may have replaced what was damaged."""
        self._manifest.cache_clear()
        self._record.cache_clear()

    def objects(self, outside: OutsideObjects | None = None) -> Objects:
        """The store's objects, and those of a referenced base."""
        return Objects(self.readable, self.catalog(), refresh=self._look_again, outside=outside)

    def manifest(self, digest: str) -> Manifest:
        """A manifest by its id.

        Raises:
            NotFound, IntegrityError, FormatError: it is not there, damaged, or not one.
        """
        return self._manifest(digest)

    def manifest_uncached(self, digest: str) -> Manifest:
        """As `manifest`, for whoever passes over thousands of them and restores none."""
        return self._document(manifest_key(digest), digest, Manifest)

    def _checked_manifest(self, digest: str) -> Manifest:
        manifest = self.manifest_uncached(digest)
        check_document(manifest, where=manifest_key(digest))
        return manifest

    def record(self, digest: str) -> BaseRecord:
        """A base record by its digest.

        Raises:
            NotFound, IntegrityError, FormatError: it is not there, damaged, or not one.
        """
        return self._record(digest)

    def _read_record(self, digest: str) -> BaseRecord:
        record = self._document(record_key(digest), digest, BaseRecord)
        check_document(record, where=record_key(digest))
        return record

    def document_bytes(self, key: str) -> bytes:
        """A manifest or base record as it lies there, or in the trash: neither its digest nor its form was looked at.

        Raises:
            NotFound: it is not there.
        """
        return self.readable.read(key, 0, _MAX_DOCUMENT_BYTES)

    def _document(self, key: str, digest: str, kind: type[Kind]) -> Kind:
        try:
            data = self.document_bytes(key)
        except NotFound:
            raise NotFound(f"{key} is not in the store: gc has freed it, or it is lost", hint="ckptfmt fsck") from None
        if digest_of(data) != digest:
            raise IntegrityError(f"{key}: the document is damaged (its digest is not its name)", hint="ckptfmt fsck")
        return documents.decode(data, kind, where=key)

    def put_manifest(self, manifest: Manifest) -> str:
        """Make a manifest durable and return its id."""
        return self._put(documents.encode(manifest), manifest_key)

    def _put(self, data: bytes, key_of: Callable[[str], str]) -> str:
        digest = digest_of(data)
        key = key_of(digest)
        if self._holds(key, data):
            self.storage.settle([key])
        else:
            self.storage.put(key, data)
        return digest

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.storage.size(key) == len(data) and self.storage.read(key, 0, len(data)) == data
        except NotFound:  # gc took it out between the two.
            return False

    def put_record(self, record: BaseRecord) -> str:
        """Make a base record durable and return its digest."""
        return self._put(documents.encode(record), record_key)

    def manifest_ids(self, prefix: str = "") -> Iterator[str]:
        """Ids of all manifests that begin with `prefix` (of at least two digits, or '')."""
        below = f"manifests/{prefix[:2]}/" if prefix else "manifests/"
        for listed in self.storage.list(below):
            name = listed.key.rpartition("/")[2].removesuffix(".json")
            if is_digest(name) and name.startswith(prefix):
                yield name

    def resolve(self, name: str) -> tuple[str, Generation | None]:
        """A checkpoint as users name it: a ref, `ref@generation`, or a prefix of a manifest id, tried in this order.

        Returns:
            The manifest id, and the generation it was found by.

        Raises:
            InvalidInput: it is none of these, or a prefix of several ids.
            NotFound: there is no such checkpoint.
        """
        ref, at, number = name.partition("@")
        if at:
            if not number.isdecimal():
                raise InvalidInput(
                    f"{name!r}: a generation is a number, as in {ref}@3", code="ref-name", hint=f"ckptfmt log {ref}"
                )
            generation = self.refs.read(check_name(ref), int(number))
            if generation.target is None:
                raise NotFound(f"{name!r} is where the ref was dropped", hint=f"ckptfmt log {ref}")
            return generation.target, generation
        try:
            newest = self.refs.newest(check_name(name))
            problem: CkptfmtError | None = None
        except InvalidInput as error:
            newest, problem = None, error
        if newest is not None and newest.target is not None:
            return newest.target, newest
        if len(name) > 1 and is_digest(name.ljust(64, "0")):
            found = sorted(self.manifest_ids(name))
            # Sorted, those that begin alike are neighbours.
            enough = max([_SHORTEST_PREFIX, *(_alike(*pair) + 1 for pair in pairwise(found))])
            if len(found) > 1 and len(name) >= _SHORTEST_PREFIX:
                raise InvalidInput(
                    f"{name!r} begins {len(found)} manifest ids; give at least {enough} digits",
                    code="ambiguous",
                    hint=f"ckptfmt show {found[0][:enough]}",
                )
            if found and len(name) < _SHORTEST_PREFIX:
                raise NotFound(
                    f"no ref {name!r}; as the beginning of a manifest id it has too few digits: give at least {enough}",
                    hint=f"ckptfmt show {found[0][:enough]}",
                ) from problem
            if found:
                return found[0], None
        if problem is not None:
            raise problem
        generation = self.refs.current(name)  # It tells what is there instead.
        return generation.target or "", generation


def _alike(one: str, other: str) -> int:
    """How many digits two ids begin with alike."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def manifest_key(digest: str) -> str:
    """The storage key of a manifest."""
    return f"manifests/{digest[:2]}/{digest}.json"


def record_key(digest: str) -> str:
    """The storage key of a base record."""
    return f"bases/{digest}.json"


def init_store(path: str) -> Store:
    """Make a store in `path`, a directory that does not exist or is empty.

    Raises:
        Conflict: there is a store or something else already.
        StorageError: the file system refuses.
    """
    path = os.path.abspath(path)
    with durable.storage_errors(path, instead="another directory: ckptfmt init PATH"):
        if os.path.lexists(path) and (not os.path.isdir(path) or _is_occupied(path)):
            if os.path.exists(f"{path}/{DOCUMENT}"):
                raise _is_there(path)
            raise Conflict(f"{path} exists and is not empty", code="target-exists", hint="choose another directory")
        if path not in durable.make_directories(path):
            _settle_name(path)
    storage = LocalStorage(path)
    document = StoreDocument(version=FORMAT_VERSION, store_id=uuid.uuid4().hex, hash="blake3-256", created=utc_now())
    if not storage.put_if_absent(DOCUMENT, documents.seal(document)):
        raise _is_there(path)
    return Store(storage, document, path)


def _is_there(path: str) -> Conflict:
    hint = f"ckptfmt ls --store {shlex.quote(path)}"
    return Conflict(f"{path} is a store already", code="store-exists", hint=hint)


def _is_occupied(path: str) -> bool:
    """Tell whether a directory holds anything but what an `init` that was stopped leaves: temporary files."""
    if set(os.listdir(path)) - {TEMPORARY}:
        return True
    temporary = f"{path}/{TEMPORARY}"
    return os.path.lexists(temporary) and (
        not os.path.isdir(temporary) or not all(map(durable.is_unique_name, os.listdir(temporary)))
    )


def _settle_name(path: str) -> None:
    """Make the name of a directory durable that somebody else made, perhaps just before they were stopped."""
    try:
        durable.fsync_directory(os.path.dirname(path))
    except PermissionError:
        return  # Then it was there before anybody without that permission came.


def open_store(path: str) -> Store:
    """Open the store in `path`.

    Raises:
        NotFound: there is none (`no-store`).
        UnsupportedVersion: a newer ckptfmt made it.
        IntegrityError: its `store.json` is damaged.
    """
    path = os.path.abspath(path)
    storage = LocalStorage(path)
    try:
        data = storage.read(DOCUMENT, 0, _MAX_DOCUMENT_BYTES)
    except NotFound:
        raise _is_missing(path) from None
    except CkptfmtError as error:
        if os.path.isdir(path):
            raise
        raise _is_missing(path) from error
    return Store(storage, documents.unseal(data, StoreDocument, where=f"{path}/{DOCUMENT}"), path)


def _is_missing(path: str) -> NotFound:
    return NotFound(f"no store in {path}", code="no-store", hint=f"ckptfmt init {shlex.quote(path)}")
