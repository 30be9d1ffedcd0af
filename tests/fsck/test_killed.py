"""A repair that is killed before or after any change leaves a store that the next one repairs, and drops nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.storage import durable
from tests.faults import seam
from tests.fsck.test_repair import DAMAGES, all_shards, comes_back, filled, flip

__all__ = ["filled"]

SIGKILLED = -9
STRIDE = 7


def repair(root: Path) -> None:
    with Store.open(root) as store:
        store.fsck(full=True, repair=True)


def contents(root: Path) -> set[bytes]:
    kept = (path for path in root.rglob("*") if path.is_file() and not {"tmp", "pins"} & set(path.parts))
    return {path.read_bytes() for path in kept}


@pytest.mark.parametrize("damage", ["a bit in the last frame of each", "a byte more", "gone"])
def test_killed_anywhere(damage: str, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DAMAGES[damage](filled)
    for record in filled.glob("bases/*.json"):
        flip(record, 50)
    before, boundary = contents(filled), 0
    shutil.copytree(filled, tmp_path / "damaged", symlinks=True)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # SIGKILL takes nothing back.
    status = SIGKILLED
    while status == SIGKILLED:
        shutil.rmtree(filled)
        shutil.copytree(tmp_path / "damaged", filled, symlinks=True)

        def act(at: int = boundary) -> None:
            with durable.observed(seam.Killer(at)):
                repair(filled)

        status = seam.in_child(act)
        assert status in (0, SIGKILLED)
        assert before <= contents(filled)
        with Store.open(filled) as store:
            report = store.fsck(full=True, repair=True)
        assert report.problems == (), boundary
        assert before <= contents(filled)
        boundary += STRIDE
    assert boundary > 2 * STRIDE
    assert all_shards(filled)
    comes_back(filled, tmp_path, "one", "full")
