"""What every test gets: a cache of its own, no network, one thread for torch; and checkpoints made once a session."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

Made = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`CKPTFMT_CACHE` is an empty directory, and no store is meant unless it is named."""
    cache = tmp_path_factory.mktemp("cache", numbered=True)
    monkeypatch.setenv("CKPTFMT_CACHE", str(cache))
    monkeypatch.delenv("CKPTFMT_STORE", raising=False)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield cache


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make a checkpoint once a session: `checkpoint(maker, **variant)` is its directory. Do not change it."""
    done: dict[object, Path] = {}

    def make(maker: Callable[..., Any], name: str = "checkpoint", **variant: Any) -> Path:
        key = (maker.__module__, maker.__qualname__, name, tuple(sorted(variant.items())))
        if key not in done:
            directory = tmp_path_factory.mktemp(maker.__module__.rpartition(".")[2]) / name
            maker(directory, **variant)
            done[key] = directory
        return done[key]

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """A new, empty store."""
    from ckptfmt import Store

    with Store.init(tmp_path / "store.ckptfmt") as opened:
        yield opened
