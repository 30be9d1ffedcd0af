"""SIGKILL before and after every mutating call of every mutating verb."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfmt.storage import durable
from ckptfmt.store import shards
from tests.faults import seam
from tests.faults.figures import Tally, tally
from tests.faults.verbs import VERBS, Expected, Place, Verb, check_place, make_sources, run_again

SIGKILLED = -9
STRIDES = {"import-many": 3, "import-encoded": 3, "optimize": 3}
"""A verb of which only each so-manieth boundary is tried in CI: it repeats itself, or another verb."""


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("kill", [verb.name for verb in VERBS], points=1_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("kill, for a release", [verb.name for verb in VERBS], points=1_600) as counting:
        yield counting


def prepared(quick: Path, verb: Verb) -> tuple[Place, Expected]:
    place = Place(quick / "sources", quick / "before")
    make_sources(place.sources)
    place.work.mkdir()
    verb.prepare(place)
    return place, Expected(place.sources)


def killed_at(verb: Verb, place: Place, boundary: int) -> bool:
    """Run the verb in a fork that is killed at a boundary; False where it ended before."""

    def act() -> None:
        with durable.observed(seam.Killer(boundary)):
            verb.act(place)

    status = seam.in_child(act)
    assert status in (0, SIGKILLED), f"{verb.name}, boundary {boundary}: exit status {status}"
    return status == SIGKILLED


def boundaries_of(verb: Verb, place: Place) -> int:
    """A call that fails has a boundary before it and none after."""
    counter = seam.Counter()
    with durable.observed(counter):
        verb.act(place)
    return len(counter.calls) + counter.made


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_verb_killed_anywhere(verb: Verb, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally) -> None:
    counted.add(verb.name, points=kill_everywhere(verb, quick, monkeypatch, STRIDES.get(verb.name, 1)))


@pytest.mark.torture
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_verb_killed_everywhere(
    verb: Verb, quick: Path, monkeypatch: pytest.MonkeyPatch, counted_for_a_release: Tally
) -> None:
    counted_for_a_release.add(verb.name, points=kill_everywhere(verb, quick, monkeypatch, 1))


def kill_everywhere(verb: Verb, quick: Path, monkeypatch: pytest.MonkeyPatch, stride: int) -> int:
    """Kill a verb at each `stride`-th boundary; how many."""
    if verb.name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)  # Spills in the middle of an object of 120,000 bytes.
    before, expected = prepared(quick, verb)
    boundary = points = 0
    while True:
        place = before.at(quick / "work")
        shutil.copytree(before.work, place.work, symlinks=True)
        alive = not killed_at(verb, place, boundary)
        check_place(verb, place, expected, done=alive)
        run_again(verb, place, expected)
        shutil.rmtree(place.work)
        if alive:
            break
        boundary, points = boundary + stride, points + 1
    assert boundary >= boundaries_of(verb, before)
    return points


@pytest.mark.torture
def test_a_large_import_killed_while_it_really_spills(quick: Path) -> None:
    from tests.store import making

    place = Place(quick / "sources", quick / "before")
    making.write_small(place.sources / "large", {"a": 1, "b": 2}, elements=5 << 20)
    verb = next(verb for verb in VERBS if verb.name == "import-large")
    make_sources(quick / "small")
    for name in ("first", "second", "third", "wide", "narrow", "base", "bloated", "adapter", "runs", "tuned"):
        shutil.move(quick / "small" / name, place.sources / name)
    place.work.mkdir()
    verb.prepare(place)
    expected = Expected(place.sources)
    boundary = 0
    while True:
        work = place.at(quick / "work")
        shutil.copytree(place.work, work.work, symlinks=True)
        alive = not killed_at(verb, work, boundary)
        check_place(verb, work, expected, done=alive)
        run_again(verb, work, expected)
        shutil.rmtree(work.work)
        if alive:
            break
        boundary += 1
