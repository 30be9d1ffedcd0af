"""Stores that hold a chain of stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import chains


@pytest.fixture(scope="session")
def chain(checkpoint: Any) -> Path:
    """`base/`, `stage_1..3/` and PEFT's merges of them, in bf16."""
    return checkpoint(chains.make, "chain")


@pytest.fixture
def chained(store: Any, chain: Path) -> Any:
    """A store with the base and three stages, each continued from the one before."""
    store.add_base("llama", chain / "base")
    parent = None
    for stage in (1, 2, 3):
        store.import_checkpoint(
            chain / f"stage_{stage}",
            f"run/stage-{stage}",
            base="llama",
            parent=parent,
            stage=stage,
            how="continue" if parent else None,
        )
        parent = f"run/stage-{stage}"
    return store
