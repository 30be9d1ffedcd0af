"""`fsck --repair` in which a system call fails: nothing that was there is gone, it is told, the next one ends it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.api.repairing import FsckReport
from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.format import documents
from ckptfmt.format.refs import TrashMarker
from ckptfmt.storage import durable
from tests.faults import seam
from tests.faults.figures import Tally, tally
from tests.faults.test_errno import ERRNOS, REMOVES, cases
from tests.fsck import test_power_loss
from tests.fsck.damaging import World, everything, flip, looked
from tests.fsck.test_power_loss import Remembering, every_frame
from tests.store.making import files_below

IN_CI: Final = 14
"""In CI so many cases of each damage, spread over all calls."""


def a_byte_more(world: World) -> None:
    """The data are sound, the lengths are not."""
    for shard in world.shards():
        shard.write_bytes(shard.read_bytes() + b"\0")
    flip(world.record(), 50)


def in_a_backup(world: World) -> None:
    """Only another store still has what is lost."""
    shutil.copytree(world.store, world.root / "backup")
    every_frame(world)
    world.without_originals()


def in_the_trash(world: World) -> None:
    """What is needed lies in the trash; of one shard and one manifest a damaged copy stands in its place."""
    run = world.store / "trash" / "one"
    run.mkdir(parents=True)
    (run / "marker.json").write_bytes(documents.seal(TrashMarker(version=1, host="x", time="2026-01-01T00:00:00Z")))
    shard, manifest = world.shard_of("full/model"), world.manifest("full/model")
    for path in [*world.shards(), *(world.store / "manifests").rglob("*.json"), world.record()]:
        shutil.move(path, run / path.relative_to(world.store).as_posix().replace("/", ","))
    for path in (shard, manifest):
        shutil.copy(run / path.relative_to(world.store).as_posix().replace("/", ","), path)
        flip(path, 100)


DAMAGES: Final[dict[str, Callable[[World], None]]] = {
    **test_power_loss.DAMAGES,
    "a byte more": a_byte_more,
    "a backup": in_a_backup,
    "the trash": in_the_trash,
}


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("fsck --repair, errno", DAMAGES, failures=100) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("fsck --repair, errno, for a release", DAMAGES, failures=10_000) as counting:
        yield counting


@pytest.fixture
def world(quick: Path) -> World:
    (quick / "world").mkdir()
    return Remembering(quick / "world").make()


@dataclass(frozen=True)
class Damaged:
    """A damaged store, and what its host knows of it, to be put there again for each case."""

    world: World
    cache: Path
    before: frozenset[bytes]

    def put(self) -> None:
        for place in (self.world.store, self.cache):
            shutil.rmtree(place)
            shutil.copytree(place.with_name(f"{place.name}-damaged"), place, symlinks=True)

    def repair(self) -> FsckReport:
        backup = self.world.root / "backup"
        return looked(self.world.store, repair=True, places=(backup,) if backup.exists() else ())

    def check_nothing_is_gone(self) -> None:
        assert self.before <= set(everything(self.world.store).values()), "something is gone"


def damaged_by(world: World, damage: str) -> Damaged:
    DAMAGES[damage](world)
    damaged = Damaged(world, Path(os.environ["CKPTFMT_CACHE"]), frozenset(everything(world.store).values()))
    for place in (world.store, damaged.cache):
        shutil.copytree(place, place.with_name(f"{place.name}-damaged"), symlinks=True)
    return damaged


def check_case(damaged: Damaged, *, call: str, case: tuple[int, int, bool]) -> None:
    at, number, lasting = case
    damaged.put()
    store = damaged.world.store
    observer = seam.failing_with(number, at, lasting=lasting)
    report = None
    try:
        with durable.observed(observer):
            report = damaged.repair()
    except CkptfmtError as error:
        assert isinstance(error, StorageError)
        assert (error.code, error.exit_code) == (ERRNOS[number], 1)
        assert str(store) in error.message
    assert observer.hit
    damaged.check_nothing_is_gone()
    if not lasting and call not in REMOVES:
        assert files_below(store / "tmp") == set()
        assert files_below(store / "pins") == set()
    if report is not None:
        assert looked(store).problems == report.problems, "it was of account, and was not told"
    assert damaged.repair().problems == ()
    damaged.check_nothing_is_gone()
    damaged.world.check_restores(attributes=False)  # Those of the second stage stood in its only generation.
    assert damaged.repair().repaired == ()


def fail_everywhere(world: World, damage: str, spread: int, most: int | None) -> int:
    """Each case of a damage, or `most` of them; how many."""
    damaged = damaged_by(world, damage)
    counter = seam.Counter()
    with durable.observed(counter):
        assert damaged.repair().problems == ()
    every = list(cases(counter.calls, spread))
    tried = every if most is None else every[:: len(every) // most]
    for case in tried:
        try:
            check_case(damaged, call=counter.calls[case[0]], case=case)
        except (AssertionError, CkptfmtError) as error:
            error.add_note(f"{damage}: call {case[0]}, {counter.calls[case[0]]}, errno {case[1]}, lasting {case[2]}")
            raise
    return len(tried)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_call_fails(damage: str, world: World, counted: Tally) -> None:
    counted.add(damage, failures=fail_everywhere(world, damage, 3, IN_CI))


def test_a_shard_takes_a_damaged_ones_place_and_is_not_known_to_be_durable(world: World) -> None:
    """It has the very name of the damaged one, which nobody may take for the new one then."""
    damaged = damaged_by(world, "a backup")
    recorder = seam.Recorder()
    with durable.observed(recorder):
        assert damaged.repair().problems == ()
    events = recorder.events
    taken = [at + 1 for at, event in enumerate(events) if event.call == "rename" and "/shards/" in event.other]
    assert taken
    for at in taken:
        assert events[at].call == "fsync_directory"
        check_case(damaged, call="fsync_directory", case=(at, errno.EIO, False))


@pytest.mark.torture
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_call_fails_in_every_way(damage: str, world: World, counted_for_a_release: Tally) -> None:
    counted_for_a_release.add(damage, failures=fail_everywhere(world, damage, len(ERRNOS), None))
