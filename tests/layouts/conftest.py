from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Made = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make a checkpoint once a session: `made(maker, **variant)` gives its directory and what the maker returned."""
    done: dict[object, tuple[Path, Any]] = {}

    def make(maker: Callable[..., Any], name: str = "checkpoint", **variant: Any) -> tuple[Path, Any]:
        key = (maker.__module__, maker.__qualname__, name, tuple(sorted(variant.items())))
        if key not in done:
            directory = tmp_path_factory.mktemp(maker.__module__.rpartition(".")[2]) / name
            done[key] = directory, maker(directory, **variant)
        return done[key]

    return make
