"""Temporary merged models: shared while they are used, gone afterwards, also after a kill.

A model lies in `materialized/<key>/model`, the key being a digest of all that decides its bits. Whoever uses it holds
a lease, a file in `materialized/<key>/leases/` that is touched every minute. The last one to go removes the model; who
was killed leaves a lease that grows old, and the next command sweeps it. `maker` is a link to the lease of the one who
makes the model: the others wait for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ckptfmt.digest import digest_of
from ckptfmt.errors import Conflict
from ckptfmt.storage import durable
from ckptfmt.storage.machine import host_name

DIRECTORY: Final = "materialized"
_TOUCH_SECONDS: Final = 60
_OLD_SECONDS: Final = 300
_WAIT_SECONDS: Final = 0.1
_SWEPT: Final = ".swept-"


def key_of(parts: object) -> str:
    """The key of a merged model, from all that decides its bits."""
    return digest_of(msgspec.json.encode(parts, order="deterministic"))[:32]


@contextmanager
def materialized(top: str, key: str, make: Callable[[str], object]) -> Iterator[str]:
    """The path of a temporary merged model, made by `make` unless it is there already.

    Args:
        top: the directory of all temporary models.
        key: of this one.
        make: writes it into a directory that does not exist; it appears whole.
    """
    model = f"{top}/{key}/model"
    try:
        with _lease(f"{top}/{key}/leases") as lease:
            _make_once(f"{top}/{key}", lease, make)
            yield model
    finally:
        sweep(top)


def _make_once(place: str, lease: str, make: Callable[[str], object]) -> None:
    """Make the model, unless somebody with a living lease is about to: then wait. Two makers only waste time."""
    model, maker = f"{place}/model", f"{place}/maker"
    while not os.path.isdir(model):
        if not _claim(maker, lease):
            if _makes(place, maker):
                time.sleep(_WAIT_SECONDS)
            else:
                _remove(maker)
            continue
        try:
            if not os.path.isdir(model):
                make(model)
        except Conflict:
            if not os.path.isdir(model):
                raise  # Else somebody made the same meanwhile: one result.
        finally:
            _remove(maker)


def _claim(maker: str, lease: str) -> bool:
    """Say that the holder of `lease` makes the model; False where somebody has said so."""
    with durable.storage_errors(maker):
        try:
            durable.symlink(os.path.basename(lease), maker)
        except FileExistsError:
            return False
    return True


def _makes(place: str, maker: str) -> bool:
    """Tell whether the one who said that it makes the model lives; gone is as good, the model is looked for again."""
    try:
        return _lives(f"{place}/leases/{os.readlink(maker)}")
    except FileNotFoundError:
        return True


@contextmanager
def _lease(leases: str) -> Iterator[str]:
    path = f"{leases}/{host_name()}-{durable.unique_name()}"
    _take(leases, path)
    done = threading.Event()
    toucher = threading.Thread(target=_touch, args=(path, done), name="lease", daemon=True)
    toucher.start()
    try:
        yield path
    finally:
        done.set()
        toucher.join()
        _remove(path)


def _take(leases: str, path: str) -> None:
    """Create a lease that stays: a sweep that had looked before moves the whole directory away."""
    with durable.storage_errors(leases):
        while True:
            durable.make_directories(leases)
            try:
                os.close(durable.create(path))
            except FileNotFoundError:
                continue
            if os.path.exists(path):
                return


def _touch(path: str, done: threading.Event) -> None:
    while not done.wait(_TOUCH_SECONDS):
        try:
            durable.set_mtime(path, time.time_ns())
        except FileNotFoundError:
            return


def sweep(top: str) -> list[str]:
    """Remove the temporary models that nobody holds a living lease on; the paths that were removed."""
    removed = []
    for entry in _entries(top):
        if os.path.basename(entry).startswith(_SWEPT):
            durable.remove_tree(entry)
        elif not _leased(entry):
            away = f"{top}/{_SWEPT}{durable.unique_name()}"
            try:
                durable.rename(entry, away)
            except FileNotFoundError:
                continue  # Another sweep was quicker.
            if _leased(away):  # Somebody came between the look and the rename.
                durable.rename(away, entry)
                continue
            durable.remove_tree(away)
            removed.append(entry)
    return removed


def _leased(entry: str) -> bool:
    """Tell whether a living lease is held; dead ones are removed."""
    living = False
    for lease in _entries(f"{entry}/leases"):
        if _lives(lease):
            living = True
        else:
            _remove(lease)
    return living


def _lives(lease: str) -> bool:
    """A lease lives while its process does, if that is one of this host, and while it is touched."""
    name = os.path.basename(lease)
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    try:
        age = time.time() - os.stat(lease).st_mtime
    except FileNotFoundError:
        return False
    if host == host_name() and rest.isdecimal() and not _runs(int(rest)):
        return False
    return age < _OLD_SECONDS


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _entries(path: str) -> list[str]:
    try:
        return sorted(f"{path}/{name}" for name in os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: str) -> None:
    try:
        durable.unlink(path)
    except FileNotFoundError:
        return
