"""Bases: records of base models, and the files of those that are referenced and not copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ckptfmt.errors import BaseMismatch, CkptfmtError, IntegrityError, NotFound
from ckptfmt.format.manifest import BaseLink, BaseRecord, File, file_objects
from ckptfmt.format.refs import BASES, Generation, check_name
from ckptfmt.storage import durable
from ckptfmt.storage.machine import host_name
from ckptfmt.store.elsewhere import Called
from ckptfmt.store.graph import resolve
from ckptfmt.store.refs import Damaged
from ckptfmt.store.store import Store


@dataclass(frozen=True, slots=True)
class Base:
    """A base as a store knows it: the generation that names it, its record's digest and its record."""

    name: str
    generation: Generation
    digest: str
    record: BaseRecord


def find_base(store: Store, name: str) -> Base:
    """The base that is called `name`.

    Raises:
        NotFound: there is none; the message lists those there are.
    """
    try:
        generation = store.refs.current(BASES + check_name(name))
    except NotFound:
        known = ", ".join(base.name for base in all_bases(store)) or "none yet"
        raise NotFound(f"no base {name!r} (known: {known})", hint=f"ckptfmt base add {name} PATH") from None
    digest = generation.target or ""
    return Base(name, generation, digest, store.record(digest))


def all_bases(store: Store, damaged: Damaged | None = None) -> list[Base]:
    """Every base that stands, by name; `damaged` is told of those that cannot be read, as in `Refs.standing`."""
    found = []
    for generation in store.refs.standing(BASES, damaged):
        digest = generation.target or ""
        try:
            record = store.record(digest)
        except CkptfmtError as error:
            if damaged is None:
                raise
            damaged(generation.name, error)
            continue
        found.append(Base(generation.name.removeprefix(BASES), generation, digest, record))
    return found


def places_of(store: Store, record: str) -> list[str]:
    """Directories where the files of a base record were said to lie, those of this host and the newest first."""
    here: list[str] = []
    elsewhere: list[str] = []
    for name, _ in store.refs.names(BASES):
        for generation in store.refs.readable(name):
            if generation.target == record and generation.origin:
                (here if generation.host == host_name() else elsewhere).append(generation.origin)
    return list(dict.fromkeys([*here, *elsewhere]))


def outside_files(store: Store, link: BaseLink) -> BaseFiles:
    """The files of the base that a manifest is bound to, wherever they lie now."""
    places = places_of(store, link.record)
    return BaseFiles(link.name, link.record, lambda: store.record(link.record), places)


class BaseFiles:
    """The files of a base record outside the store. What is read here is proven by whoever reads it whole.

    Args:
        name: what to call the base in errors.
        digest: of its record.
        record: gives its record, when something is looked for here.
        places: directories to look in, in order.
    """

    def __init__(self, name: str, digest: str, record: Callable[[], BaseRecord], places: list[str]) -> None:
        self.name = f"base {name!r}"
        self.base = name
        self.digest = digest
        self._read_record = record
        self._places = places

    @property
    def last_seen(self) -> str | None:
        """Where the files were seen last; None where they never were."""
        return next(iter(self._places), None)

    @cached_property
    def _record(self) -> BaseRecord:
        return self._read_record()

    @cached_property
    def directory(self) -> str:
        """The first place where all files of the record are, with their sizes.

        Raises:
            BaseMismatch: it is nowhere; the message says where it was last seen.
        """
        for place in self._places:
            if all(_size(f"{place}/{file.path}") == file.size for file in self._record.files):
                return place
        seen = f"last seen in {self.last_seen}" if self._places else "never seen on this host"
        raise BaseMismatch(
            f"{self.name} is needed and its files are not there ({seen})",
            tensors=(),
            hint=f"ckptfmt base verify {self.base} --path DIR",
        )

    @property
    def is_there(self) -> bool:
        """Whether all its files are in one place, with their sizes."""
        try:
            return bool(self.directory)
        except CkptfmtError:
            return False

    @cached_property
    def _index(self) -> dict[str, tuple[File, int, int]]:
        index = {}
        for file in self._record.files:
            if file.content is not None:
                index[file.content] = (file, 0, file.size)
            for extent in file.extents:
                index[extent.digest] = (file, extent.offset, extent.length)
        return index

    def lengths(self) -> frozenset[int]:
        """Lengths, in bytes, of the objects that lie here."""
        return frozenset(length for _, _, length in self._index.values())

    def called(self, digest: str) -> Called:
        """See `OutsideObjects.called`."""
        return Called(self.name, f"ckptfmt base verify {self.base} --full")

    def has(self, digest: str) -> bool:
        """See `OutsideObjects.has`."""
        return digest in self._index

    def length(self, digest: str) -> int:
        """See `OutsideObjects.length`."""
        return self._index[digest][2]

    def place(self, digest: str) -> tuple[str, int]:
        """The file that an object is recorded to lie in, relative to the base's directory, and its byte offset."""
        file, begin, _ = self._index[digest]
        return file.path, begin

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """See `OutsideObjects.read`.

        Raises:
            BaseMismatch: the base is nowhere.
            IntegrityError: the file has become shorter.
        """
        file, begin, _ = self._index[digest]
        path = f"{self.directory}/{file.path}"
        with durable.storage_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, length, begin + offset)
            finally:
                os.close(descriptor)
        if len(data) != length:
            raise IntegrityError(f"{path}: shorter than {self.name} was recorded", code="base-mismatch")
        return data


def missing_from(store: Store, objects: dict[str, int]) -> list[str]:
    """Those of `objects` that cannot be decoded from shards alone, as far as the catalog knows."""
    missing = resolve(store.catalog().find_many, objects, lambda digest: False).missing
    return [digest for digest in objects if digest in missing]


def needed_objects(record: BaseRecord) -> dict[str, int]:
    """Every object that the base's files are made of: digest to decoded length in bytes."""
    return {digest: length for file in record.files for digest, length in file_objects(file)}


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
