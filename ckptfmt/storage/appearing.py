"""Directories that appear whole and at once, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ckptfmt.errors import Conflict
from ckptfmt.storage import durable

_SHOWN_BYTES: Final = 150
"""Of a target's name, in that of the directory it is built in: a name has at most 255 bytes."""


@contextmanager
def appearing(target: str) -> Iterator[str]:
    """A directory to build in, beside `target`, that becomes `target` by one rename; gone after an error.

    Raises:
        Conflict: `target` exists and is not empty, before or after.
        StorageError: the file system refuses.
    """
    parent, name = os.path.split(target)
    with durable.storage_errors(target, instead="another directory to write to"):
        _refuse_occupied(target)
        durable.make_directories(parent)
        shown = os.fsencode(name)[:_SHOWN_BYTES].decode(errors="ignore")
        building = f"{parent}/.{shown}.{durable.unique_name()}.ckptfmt-partial"
        durable.mkdir(building)
        try:
            yield building
            durable.fsync_directory(building)
            try:
                durable.rename(building, target)
            except OSError:
                _refuse_occupied(target)
                raise
        except BaseException:
            _discard_tree(building)
            raise
        durable.fsync_directory(parent)


def _refuse_occupied(target: str) -> None:
    if os.path.lexists(target) and (os.path.islink(target) or not os.path.isdir(target) or os.listdir(target)):
        raise Conflict(
            f"{target} exists already", code="target-exists", hint="choose a directory that does not exist or is empty"
        )


def _discard_tree(path: str) -> None:
    """Remove what was built; that it cannot be removed never hides what went wrong before."""
    try:
        durable.remove_tree(path)
    except OSError:
        return
