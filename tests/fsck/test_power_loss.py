"""Power lost anywhere in `fsck --repair`: nothing that was there is gone, and the next repair ends what was begun.

In a run, and in one after another that was killed: what that one wrote is seen, and not durable because it is seen.
The model is that of `tests/faults/disk.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.fsck import opening
from ckptfmt.storage import durable
from ckptfmt.store import publish, refs
from tests.faults import seam
from tests.faults.disk import Disk, State, materialize
from tests.faults.figures import Tally, tally
from tests.faults.looking import Looking, replay
from tests.fsck import test_killed_exactly
from tests.fsck.damaging import World, everything, flip, looked
from tests.fsck.test_every_damage import truncate
from tests.store.making import Tree

SPREAD: Final = 4
"""In CI each so-manieth state that a reader can tell apart is repaired; of all it is seen that nothing is gone."""
KILLED: Final = 7
"""In CI a run is killed after each so-manieth of the calls that give a name; for a release after each of them."""
STRIDE: Final = 6
"""For a release it is killed after each so-manieth call as well."""


def every_frame(world: World) -> None:
    """No shard is sound to its end."""
    for shard in world.shards():
        flip(shard, -1)


def no_shards(world: World) -> None:
    for shard in world.shards():
        shard.unlink()


def torn(world: World) -> None:
    """What a disk leaves of files that were not synced: of each kind one."""
    shard, manifest = world.shard_of("runs/stage-1"), world.manifest("full/model")
    for path, left in ((shard, 40), (manifest, 700), (world.record(), 100), (world.store / "store.json", 0)):
        truncate(path, left)


def half_of_the_originals(world: World) -> None:
    """One object has to come from the originals, and others can only come from the damaged shard."""
    flip(world.shard_of("full/model"), -1)
    for path in [world.source(name) / "config.json" for name in ("first", "second")]:
        path.unlink()


DAMAGES: Final = {
    "something of every kind": test_killed_exactly.damage,
    "a bit in the last frame of each shard": every_frame,
    "no shards": no_shards,
    "torn files": torn,
    "half of the originals": half_of_the_originals,
}


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("fsck --repair, power loss", DAMAGES, states=1_000, repaired=20) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("fsck --repair, power loss, for a release", DAMAGES, states=20_000, repaired=300) as counting:
        yield counting


class Remembering(World):
    """Knows what its originals were, whatever is done to them."""

    trees: dict[str, Tree]

    def make(self) -> World:
        super().make()
        self.trees = {name: super(Remembering, self).expected(name) for name in self.NAMES}
        return self

    def expected(self, name: str) -> Tree:
        return self.trees[name]


@pytest.fixture
def world(quick: Path) -> World:
    """In a directory of its own: the model of the disk holds all of it."""
    (quick / "world").mkdir()
    return Remembering(quick / "world").make()


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that differ in the second they were written in are not two."""
    for module in (refs, publish, opening):
        monkeypatch.setattr(module, "utc_now", lambda: "2026-01-01T00:00:00Z")


def looking_at(world: World, spread: int) -> Looking:
    """Nothing is gone, whatever a reader sees; from each `spread`-th state the next repair goes on."""
    before = set(everything(world.store).values())

    def check(shown: State, _done: object) -> None:
        assert before <= {data for data in shown.values() if data is not None}, "something is gone"

    def repair(state: State, _done: object) -> None:
        """It leaves no problem, drops nothing, and everything comes back."""
        put(world, state)
        assert looked(world.store, repair=True).problems == ()
        assert before <= set(everything(world.store).values())
        world.check_restores(attributes=False)

    return Looking(check, repair, spread)


def figures(looking: Looking) -> dict[str, int]:
    told = len(looking.told)
    return {"states": len(looking.seen), "visible": told, "repaired": told // looking.spread}


def put(world: World, state: State) -> None:
    """Let the store be as in a state of a disk that holds the world."""
    shutil.rmtree(world.store)
    prefix = "store/"
    materialize(
        {path.removeprefix(prefix): data for path, data in state.items() if path.startswith(prefix)}, world.store
    )


def recorded(world: World) -> list[seam.Event]:
    recorder = seam.Recorder()
    with durable.observed(recorder):
        assert looked(world.store, repair=True).problems == ()
    return recorder.events


def gives_a_name(event: seam.Event) -> bool:
    return event.call in ("link", "rename") and "/store/" in event.other


def lose_power(world: World, damage: str, *, every: bool) -> Looking:
    """Lose power after each call of a repair, and of one that follows a killed one; `every` for a release."""
    DAMAGES[damage](world)
    damaged = Disk(world.root).seen()
    looking = looking_at(world, 1 if every else SPREAD)
    first = recorded(world)
    put(world, damaged)
    replay(looking, Disk(world.root), first, ends=False)
    named = [at + 1 for at, event in enumerate(first) if gives_a_name(event)]
    for number in sorted({*named, *range(1, len(first), STRIDE)}) if every else named[::KILLED]:
        put(world, damaged)
        disk = Disk(world.root)
        for event in first[:number]:
            disk.play(event)
        put(world, disk.seen())
        second = recorded(world)
        replay(looking, disk, second, ends=False)
    return looking


@pytest.mark.parametrize("damage", DAMAGES)
def test_power_lost_anywhere(damage: str, world: World, counted: Tally) -> None:
    looking = lose_power(world, damage, every=False)
    counted.add(damage, **figures(looking))


@pytest.mark.torture
@pytest.mark.parametrize("damage", DAMAGES)
def test_power_lost_anywhere_and_all_of_it(damage: str, world: World, counted_for_a_release: Tally) -> None:
    looking = lose_power(world, damage, every=True)
    counted_for_a_release.add(damage, **figures(looking))
