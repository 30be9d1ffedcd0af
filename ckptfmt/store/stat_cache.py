"""Whether a file was read before and has not changed since: what makes a second verification instant.

Only a hint for looking: what merges, restores or deletes reads the bytes. A file whose mtime or ctime is younger than
two seconds at the time of reading, or that lies on a network file system, is never remembered.
"""

from __future__ import annotations

import os
import time
from typing import Final

from ckptfmt.storage.machine import is_network
from ckptfmt.store.catalog import Catalog

_YOUNG_NS: Final = 2_000_000_000
_KIND: Final = "file"


class StatCache:
    """SHA-256 by file identity, in a catalog's facts."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def get(self, path: str) -> str | None:
        """The SHA-256 of the file at `path` as it was read last, if nothing speaks for a change since."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        value = self._catalog.fact(_KIND, os.path.realpath(path), stamp_of(found))
        return None if value is None else value.decode()

    def put(self, path: str, before: os.stat_result, sha256: str) -> None:
        """Remember what was read of `path`, whose state before reading was `before`."""
        young = max(before.st_mtime_ns, before.st_ctime_ns) > time.time_ns() - _YOUNG_NS
        if not young and not is_network(path):
            self._catalog.remember(_KIND, [(os.path.realpath(path), stamp_of(before), sha256.encode())])


def stamp_of(found: os.stat_result) -> str:
    """What changes when a file does: device, inode, size, mtime and ctime, as one string."""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
