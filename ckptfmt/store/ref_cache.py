"""Newest generations of refs in the catalog, so that listing 10,000 of them opens no file."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from ckptfmt.format.refs import Generation
from ckptfmt.storage.machine import is_network
from ckptfmt.store.catalog import Catalog

_KIND: Final = "ref"
_YOUNG_NS: Final = 2_000_000_000


class CatalogRefCache:
    """A `RefCache` in a catalog. Nothing is cached of a ref that changed within two seconds, or over a network.

    Args:
        catalog: keeps the facts.
        path: the store's directory.
    """

    def __init__(self, catalog: Catalog, path: str | None) -> None:
        self._catalog = catalog
        self._trusted = path is not None and not is_network(path)

    def load(self) -> dict[tuple[str, int], Generation]:
        """See `RefCache.load`."""
        if not self._trusted:
            return {}
        decoder = msgspec.json.Decoder(Generation)
        return {
            (name, int(stamp)): decoder.decode(value) for name, (stamp, value) in self._catalog.facts(_KIND).items()
        }

    def save(self, fresh: list[tuple[int, Generation]]) -> None:
        """See `RefCache.save`."""
        limit = time.time_ns() - _YOUNG_NS
        old = [(changed, generation) for changed, generation in fresh if changed < limit]
        if self._trusted and old:
            self._catalog.remember(
                _KIND, ((item.name, str(changed), msgspec.json.encode(item)) for changed, item in old)
            )
