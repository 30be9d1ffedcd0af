"""What gc runs took out and did not unlink yet: `trash/<run>/`, one flat directory each, with a marker.

A key below a run is the key it had, with '/' as ','. So taking one value out is one rename into a directory that is
there, and taking a whole run over is one rename of that directory: whoever moved values into it can move no more.
Readers look here before they miss anything, and writers bring back what they rely on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ckptfmt.errors import NotFound
from ckptfmt.storage.protocol import Listed, Storage

TRASH: Final = "trash/"
MARKER: Final = "marker.json"
_KINDS: Final = ("shards/", "manifests/", "bases/")
_LOOKS: Final = 8


@dataclass(frozen=True, slots=True)
class Trashed:
    """A value that was taken out: the `key` it had, where it lies now, its size in bytes and its age's mark in ns."""

    key: str
    at: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one gc run took out.

    Attributes:
        prefix: of its keys, ending with '/'.
        marked_ns: when it was begun, by the storage's clock.
        values: what lies there.
        has_marker: whether its marker is there; without one, and without values, it is only just begun.
    """

    prefix: str
    marked_ns: int
    values: tuple[Trashed, ...]
    has_marker: bool


def run_prefix(name: str) -> str:
    """The prefix of the keys of the run that is called `name`."""
    return f"{TRASH}{name}/"


def place_in(prefix: str, key: str) -> str:
    """Where `key` goes in a run."""
    return prefix + key.replace("/", ",")


def runs(storage: Storage) -> list[Run]:
    """Every run that has left something, the oldest first."""
    for _ in range(_LOOKS):  # What lies in a run that is taken over meanwhile is seen under neither name.
        found = _runs(storage)
        if {run.prefix for run in found} >= set(_prefixes(storage)):
            break
    return found


def _runs(storage: Storage) -> list[Run]:
    marked = {listed.key + "/": listed.modified_ns for listed in storage.directories(TRASH)}
    values: dict[str, list[Trashed]] = {prefix: [] for prefix in marked}
    markers = set()
    for listed in storage.list(TRASH):
        prefix, _, name = listed.key.rpartition("/")
        prefix += "/"
        if name == MARKER:
            marked[prefix] = listed.modified_ns
            markers.add(prefix)
        elif (value := _value(listed, name)) is not None:
            values.setdefault(prefix, []).append(value)
    found = [Run(prefix, marked.get(prefix, 0), tuple(values[prefix]), prefix in markers) for prefix in values]
    return sorted(found, key=lambda run: (run.marked_ns, run.prefix))


def _value(listed: Listed, name: str) -> Trashed | None:
    key = name.replace(",", "/")
    return Trashed(key, listed.key, listed.size, listed.modified_ns) if key.startswith(_KINDS) else None


def trashed(storage: Storage) -> Iterator[Trashed]:
    """Everything that was taken out."""
    for run in runs(storage):
        yield from run.values


def has_runs(storage: Storage) -> bool:
    """Tell whether some run has left something."""
    return any(True for _ in storage.directories(TRASH))


def bring_back(storage: Storage, key: str) -> bool:
    """Let what was taken out be at its key again, which is durable after `settle`.

    Returns:
        Whether it is there now.
    """
    for _ in range(_LOOKS):  # A run that is taken over between the look and the link has another prefix.
        if storage.size(key) is not None:
            return True
        for prefix in _prefixes(storage):
            if storage.link(place_in(prefix, key), key):
                return True
    return storage.size(key) is not None


def _prefixes(storage: Storage) -> list[str]:
    return [listed.key + "/" for listed in storage.directories(TRASH)]


class WithTrash:
    """The values of a storage for whoever only reads: those that were taken out, too."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Storage.read`."""
        try:
            return self._storage.read(key, offset, length)
        except NotFound as error:
            missing = error
        for _ in range(_LOOKS):
            for prefix in _prefixes(self._storage):
                try:
                    return self._storage.read(place_in(prefix, key), offset, length)
                except NotFound:
                    continue
            try:
                return self._storage.read(key, offset, length)  # Brought back meanwhile.
            except NotFound:
                continue
        raise missing

    def size(self, key: str) -> int | None:
        """See `Storage.size`."""
        if (size := self._storage.size(key)) is not None:
            return size
        for _ in range(_LOOKS):
            for place in (*(place_in(prefix, key) for prefix in _prefixes(self._storage)), key):
                if (size := self._storage.size(place)) is not None:
                    return size
        return None
