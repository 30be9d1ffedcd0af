from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.made import Shell, adapter, full


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a directory of its own, with no store in sight and a catalog of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # What a power loss costs is tested elsewhere.
    monkeypatch.delenv("CKPTFMT_STORE", raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    return tmp_path


@pytest.fixture
def sh(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def store(sh: Shell, elsewhere: Path) -> Shell:
    """A store in `.ckptfmt` that holds a referenced base, an adapter on it, and a full model under another name."""
    full(elsewhere / "base")
    adapter(elsewhere / "stage-1")
    full(elsewhere / "other", seed=5)
    sh.ok("init")
    sh.ok("base", "add", "tiny", "./base")
    sh.ok("import", "./stage-1", "--name", "runs/stage-1", "--base", "tiny", "--message", "the first")
    sh.ok("import", "./other", "--name", "full/other")
    return sh
