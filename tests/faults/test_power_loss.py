"""Power lost after every mutating call: in every state that a disk may be left in, nothing saved is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import StoreDocument
from ckptfmt.storage import durable
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store import shards
from ckptfmt.store.store import Store as Engine
from tests.faults import seam
from tests.faults.disk import Disk, State, canonical, materialize
from tests.faults.verbs import VERBS, Expected, Place, Verb, check_refs, make_sources, refs_of, run_again
from tests.store.making import files_of

RESUMED = ("import-fresh", "import-sharing", "import-again-same", "import-on-base", "base-keep", "restore", "init")
STRIDE = 7
"""Of the states after a run that was resumed, and of those looked at in a real directory, each so-manieth in CI."""

LEAST_STATES = 2000


def start(quick: Path, verb: Verb) -> tuple[Place, Expected]:
    place = Place(quick / "sources", quick / "work")
    make_sources(place.sources)
    place.work.mkdir()
    verb.prepare(place)
    (place.work / "out").mkdir()
    return place, Expected(place.sources)


def recorded(verb: Verb, place: Place) -> list[seam.Event]:
    recorder = seam.Recorder()
    with durable.observed(recorder):
        verb.act(place)
    return recorder.events


def check_state(verb: Verb, state: State, expected: Expected, *, done: bool) -> None:
    """Open the store of a state, in memory, and look at everything in it."""
    storage = MemoryStorage()
    for path, data in state.items():
        if data is not None and path.startswith("store/"):
            storage.put(path.removeprefix("store/"), data)
    if storage.size("store.json") is None:
        assert verb.name == "init"
        assert not done
        return
    data = storage.read("store.json", 0, 1 << 20)
    engine = Engine(storage, documents.unseal(data, StoreDocument, where="store.json"))
    check_refs(verb, refs_of(engine), expected, done=done)
    assert Store(engine).verify().damaged == ()
    engine.close()
    if verb.restores is not None:
        check_target(state, expected, verb.restores, done=done)


def check_target(state: State, expected: Expected, source: str, *, done: bool) -> None:
    visible = {path for path in state if path.startswith("out/") and not path.startswith("out/.")}
    assert "out/restored" in visible or not visible
    if visible:
        tree = expected.trees[source]
        prefix = "out/restored/"
        assert {path.removeprefix(prefix) for path in visible - {"out/restored"}} == tree.keys() - {"."}
        files = {path.removeprefix(prefix): state[path] for path in visible}
        assert all(files[path] == content for path, content in files_of(tree).items())
    assert visible or not done


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_power_lost_anywhere(verb: Verb, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if verb.name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
    place, expected = start(quick, verb)
    disk = Disk(place.work)
    events = recorded(verb, place)
    seen: set[tuple[str, bool]] = set()
    for number in range(len(events) + 1):
        done = number == len(events)
        for state in disk.states():
            key = canonical(state), done
            if key in seen:
                continue
            seen.add(key)
            check_state(verb, state, expected, done=done)
            if len(seen) % (10 * STRIDE) == 0:
                check_directory(verb, state, place, quick / "state", expected)
        if not done:
            disk.play(events[number])


def check_directory(verb: Verb, state: State, place: Place, root: Path, expected: Expected) -> None:
    """The same state in a real directory, where the command is run again."""
    materialize(state, root)
    run_again_ignoring_attributes(verb, place.at(root), expected)
    shutil.rmtree(root)


def run_again_ignoring_attributes(verb: Verb, place: Place, expected: Expected) -> None:
    """What was restored before the power went has no modes and mtimes in the model: it is restored afresh."""
    if verb.restores is not None and place.out.exists():
        shutil.rmtree(place.out)
    run_again(verb, place, expected)


@pytest.mark.parametrize("name", RESUMED)
def test_power_lost_after_a_killed_run_was_run_again(name: str, quick: Path) -> None:
    """What a run sees of one that was killed is not durable because it is seen."""
    verb = next(verb for verb in VERBS if verb.name == name)
    place, expected = start(quick, verb)
    before = quick / "before"
    shutil.copytree(place.work, before, symlinks=True)
    events = recorded(verb, place)
    for killed in range(len(events)):
        shutil.rmtree(place.work)
        shutil.copytree(before, place.work, symlinks=True)
        disk = Disk(place.work)
        for event in events[:killed]:
            disk.play(event)
        shutil.rmtree(place.work)
        materialize(disk.seen(), place.work)
        try:
            again = recorded(verb, place)
        except CkptfmtError as error:
            assert error.code in verb.said_when_done
            continue
        for event in again:
            disk.play(event)
        seen: set[str] = set()
        for state in disk.states():
            key = canonical(state)
            if key not in seen:
                seen.add(key)
                check_state(verb, state, expected, done=True)


def test_the_states_are_many(quick: Path) -> None:
    make_sources(quick / "sources")
    count = 0
    for verb in VERBS:
        place = Place(quick / "sources", quick / verb.name)
        place.work.mkdir()
        verb.prepare(place)
        (place.work / "out").mkdir()
        disk = Disk(place.work)
        seen = set()
        for event in recorded(verb, place):
            seen.update(map(canonical, disk.states()))
            disk.play(event)
        seen.update(map(canonical, disk.states()))
        count += len(seen)
    print(f"{count} states")
    assert count >= LEAST_STATES
