"""One site of everything, made once a session by the real tools; and small checkpoints made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt import Store
from tests.reclaim import making


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site as the tools made it. Do not change it."""
    site = tmp_path_factory.mktemp("original") / "site"
    making.make_site(site)
    return site


@pytest.fixture
def place(tmp_path: Path) -> Iterator[making.Place]:
    """A store and a tree beside it, both empty."""
    (tmp_path / "tree").mkdir()
    with Store.init(tmp_path / "store") as store:
        yield making.Place(tmp_path, store)
