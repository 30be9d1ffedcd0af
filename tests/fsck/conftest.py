from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fsck.damaging import World


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory on a fast file system, with a cache directory of its own."""
    memory = "/dev/shm"
    if os.path.isdir(memory) and os.access(memory, os.W_OK):
        directory = Path(tempfile.mkdtemp(prefix="ckptfmt-test-", dir=memory))
    else:
        directory = tmp_path / "quick"
        directory.mkdir()
    monkeypatch.setenv("CKPTFMT_CACHE", str(directory / "cache"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def world(quick: Path) -> World:
    return World(quick).make()
