"""Where the files of bases were seen, and whether they are there now. Looks at sizes; reads no content."""

from __future__ import annotations

import os

import msgspec

from ckptfmt.api.bases import describe
from ckptfmt.api.results import BaseReport
from ckptfmt.format.manifest import BaseRecord
from ckptfmt.store.bases import all_bases, places_of
from ckptfmt.store.refs import Damaged
from ckptfmt.store.store import Store


class BasePlace(msgspec.Struct, frozen=True):
    """A directory where a base was seen.

    `is_there` tells whether the directory is there now; `missing` are files of the record that are not in it, or have
    another size. The content of those that are there is proven by `verify_base` alone.
    """

    path: str
    is_there: bool
    missing: tuple[str, ...]


class BaseLook(msgspec.Struct, frozen=True):
    """A base as it was recorded, and its `places`, those of this host and the newest first."""

    base: BaseReport
    places: tuple[BasePlace, ...]

    @property
    def is_whole(self) -> bool:
        """Whether one of its places has all of its files, with their sizes."""
        return any(place.is_there and not place.missing for place in self.places)


def look_at_all(store: Store, damaged: Damaged | None = None) -> list[BaseLook]:
    """See `Store.look_at_bases`."""
    looks = []
    for base in all_bases(store, damaged):
        places = places_of(store, base.digest)
        looks.append(BaseLook(describe(store, base, places), tuple(_look(path, base.record) for path in places)))
    return looks


def _look(path: str, record: BaseRecord) -> BasePlace:
    missing = tuple(file.path for file in record.files if not _has(f"{path}/{file.path}", file.size))
    return BasePlace(path, os.path.isdir(path), missing)


def _has(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False
