"""Repairs that give files their very bytes back, killed before and after any change: the next one ends it."""

from __future__ import annotations

import os
import shutil

import pytest

from ckptfmt.storage import durable
from tests.faults import seam
from tests.fsck.damaging import World, everything, flip, looked
from tests.fsck.test_every_damage import truncate

SIGKILLED = -9
STRIDE = 5


def damage(world: World) -> None:
    """Something of every kind."""
    flip(world.shard_of("full/model"), 100)
    truncate(world.manifest("full/model"), 700)
    flip(world.manifest("runs/stage-1"), 60)
    flip(world.record(), 60)
    truncate(world.generation("runs/stage-2", 1), 200)
    flip(world.generation("full/model", 3), 100)
    world.generation("full/model", 2).unlink()
    truncate(world.store / "store.json", 60)


def test_killed_anywhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(world)
    before = set(everything(world.store).values())
    shutil.copytree(world.store, world.root / "damaged")
    monkeypatch.setattr(os, "fsync", lambda _: None)  # SIGKILL takes nothing back.
    boundary, status = 0, SIGKILLED
    while status == SIGKILLED:
        shutil.rmtree(world.store)
        shutil.copytree(world.root / "damaged", world.store)

        def act(at: int = boundary) -> None:
            with durable.observed(seam.Killer(at)):
                looked(world.store, repair=True)

        status = seam.in_child(act)
        assert status in (0, SIGKILLED)
        assert before <= set(everything(world.store).values()), "nothing that was there is gone"
        assert looked(world.store, repair=True).problems == (), boundary
        world.check_restores(attributes=False)  # Those of the second stage stood in its only generation.
        assert before <= set(everything(world.store).values())
        assert looked(world.store, repair=True).repaired == ()
        boundary += STRIDE
    assert boundary > 10 * STRIDE
