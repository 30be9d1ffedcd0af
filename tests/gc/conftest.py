"""Stores for gc to work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt.api import Store
from tests.store import making


@pytest.fixture
def sparse(quick: Path) -> Iterator[Store]:
    """A shard of eight tensors, of which one is still needed, by `narrow`."""
    making.write_small(quick / "wide", {name: seed for seed, name in enumerate("abcdefgh")}, elements=3000)
    making.write_small(quick / "narrow", {"a": 0}, elements=3000)
    with Store.init(quick / "store") as store:
        store.import_path(quick / "wide", name="wide")
        store.import_path(quick / "narrow", name="narrow")
        store.drop("wide")
        yield store
