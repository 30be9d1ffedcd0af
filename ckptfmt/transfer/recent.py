"""The checkpoints of a store that changed last: what a new one is likely to have to do with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ckptfmt.errors import CkptfmtError
from ckptfmt.format.manifest import Manifest
from ckptfmt.format.refs import BASES
from ckptfmt.store.store import Store

_MOST: Final = 100


def standing_target(store: Store, ref: str) -> str | None:
    """The manifest that a ref stands for; None where it stands for none, or cannot be read."""
    try:
        newest = store.refs.newest(ref)
    except CkptfmtError:
        return None
    return newest.target if newest is not None else None


class Recent:
    """Names, ids and manifests of the checkpoints whose refs changed last, the last one first.

    Each is read when it is first asked for, and once; those that cannot be read are left out: nothing relies on them.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: list[tuple[str, str, Manifest]] = []
        self._rest = self._reading()

    def __iter__(self) -> Iterator[tuple[str, str, Manifest]]:
        index = 0
        while True:
            if index == len(self._read):
                found = next(self._rest, None)
                if found is None:
                    return
                self._read.append(found)
            yield self._read[index]
            index += 1

    def _reading(self) -> Iterator[tuple[str, str, Manifest]]:
        newest = sorted(self.store.refs.names(), key=lambda item: -item[1])
        for name, _ in [item for item in newest if not item[0].startswith(BASES)][:_MOST]:
            target = standing_target(self.store, name)
            if target is None:
                continue
            try:
                manifest = self.store.manifest(target)
            except CkptfmtError:
                continue
            yield name, target, manifest
