"""Power lost after every mutating call: in every state that a disk may be left in, nothing saved is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import StoreDocument
from ckptfmt.storage import durable
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store import gc_run, publish, refs, shards
from ckptfmt.store.store import Store as Engine
from tests.faults import seam
from tests.faults.actors import ACTORS, MEETINGS, STANDING, Scene, Stage
from tests.faults.disk import Disk, State, materialize
from tests.faults.figures import Tally, tally
from tests.faults.looking import Looking, replay
from tests.faults.stepping import Randomly, Stepper
from tests.faults.verbs import (
    BY_NAME,
    VERBS,
    Expected,
    Place,
    Verb,
    check_refs,
    make_sources,
    refs_of,
    run_again,
)
from tests.store.making import content_of, files_of

STRIDES: Final = {"restore": 6, "restore-on-base": 15, "import-many": 20, "import-encoded": 7, "optimize": 7}
"""A verb is killed, and run again, at each so-manieth call only in CI; `STRIDE` where nothing is said. And after each
call that gives a name: what is seen then is not durable."""
STRIDE: Final = 3
IN_A_DIRECTORY: Final = 40
"""Of the states that differ for a reader, each so-manieth is looked at in a real directory too, once the command was
run again there."""
TOGETHER: Final = 2
"""Schedules of a meeting whose log is replayed; for a release `TOGETHER_OFTEN`."""
TOGETHER_OFTEN: Final = 60

NAMES: Final = tuple(verb.name for verb in VERBS)
FOLLOWED: Final = (
    "optimize",
    "gc-of-copies",
    "gc",
    "import-encoded",
    "import-sharing",
    "import-again-changed",
    "import-from-trash",
    "base-keep",
    "rm",
    "prune",
    "rollback",
)
"""Verbs that gc comes after, each killed at a name."""
MET: Final = tuple(
    " + ".join(meeting)
    for meeting in MEETINGS
    if "read" not in meeting and "verify" not in meeting and not any(ACTORS[each].forgets for each in meeting)
)


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    parts = (*NAMES, *(f"{name}, then gc" for name in FOLLOWED), *MET)
    with tally("power loss, model", parts, states=20_000, visible=2_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("power loss, model, for a release", (*NAMES, *MET), states=200_000, visible=10_000) as counting:
        yield counting


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that differ in the second they were written in are not two."""
    for module in (refs, publish, gc_run):
        monkeypatch.setattr(module, "utc_now", lambda: "2026-01-01T00:00:00Z")


class Unread(MemoryStorage):
    """Fails whoever looks at temporary files: so states that differ in these alone are the same to any reader."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        assert not key.startswith("tmp/"), key
        return super().read(key, offset, length)


def opened(state: State) -> Engine | None:
    """The store of a state, in memory; None where there is none."""
    storage = Unread()
    for path, data in state.items():
        if data is not None and path.startswith("store/"):
            storage.put(path.removeprefix("store/"), data)
    if storage.size("store.json") is None:
        return None
    return Engine(storage, documents.unseal(storage.read("store.json", 0, 1 << 20), StoreDocument, where="store.json"))


def start(quick: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> tuple[Place, Expected]:
    if verb.name == "import-large":
        monkeypatch.setattr(shards, "_HELD_BYTES", 100_000)
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
    engine = opened(state)
    if engine is None:
        assert verb.name == "init"
        assert not done
        return
    check_refs(verb, refs_of(engine), expected, done=done)
    if not verb.forgets:
        check_history(engine, expected.files)
    assert Store(engine).verify().damaged == ()
    engine.close()
    if verb.restores is not None:
        check_target(state, expected, verb.restores, done=done)


def check_history(engine: Engine, sources: Mapping[str, Mapping[str, bytes]]) -> dict[str, list[str | None]]:
    """Every generation there is gives one of the sources: which, by ref, the oldest first; None for a tombstone."""
    found: dict[str, list[str | None]] = {}
    for name, _ in engine.refs.names():
        if name.startswith("bases/"):
            continue
        for generation in reversed(engine.refs.history(name)):
            source = None
            if generation.target is not None:
                content = content_of(engine, generation.target)
                source = next((source for source, files in sources.items() if files == content), None)
                assert source is not None, f"generation {generation.number} of {name} is none of the sources"
            found.setdefault(name, []).append(source)
    return found


def check_target(state: State, expected: Expected, source: str, *, done: bool) -> None:
    shown = {path for path in state if path.startswith("out/") and not path.startswith("out/.")}
    assert "out/restored" in shown or not shown
    if shown:
        tree = expected.trees[source]
        prefix = "out/restored/"
        assert {path.removeprefix(prefix) for path in shown - {"out/restored"}} == tree.keys() - {"."}
        files = {path.removeprefix(prefix): state[path] for path in shown}
        assert all(files[path] == content for path, content in files_of(tree).items())
    assert shown or not done


def looking_at(verb: Verb, expected: Expected, place: Place, root: Path) -> Looking:
    def in_a_directory(state: State, done: object) -> None:
        materialize(state, root)
        run_again_ignoring_attributes(verb, place.at(root), expected)
        shutil.rmtree(root)

    return Looking(
        lambda state, done: check_state(verb, state, expected, done=done is True), in_a_directory, IN_A_DIRECTORY
    )


def run_again_ignoring_attributes(verb: Verb, place: Place, expected: Expected) -> None:
    """What was restored before the power went has no modes and mtimes in the model: it is restored afresh."""
    if verb.restores is not None and place.out.exists():
        shutil.rmtree(place.out)
    run_again(verb, place, expected)


class Resumed:
    """A verb that is killed, and run again on what is seen of it then: its names and data may not be durable yet.

    Args:
        verb: that is killed.
        then: what is run afterwards, where it is another.
    """

    def __init__(self, verb: Verb, place: Place, quick: Path, then: Verb | None = None) -> None:
        self.verb, self.then, self.place, self.before = verb, then or verb, place, quick / "before"
        shutil.copytree(place.work, self.before, symlinks=True)
        self.events = recorded(verb, place)

    def after(self, *killed: list[seam.Event]) -> tuple[Disk, list[seam.Event] | None]:
        """The disk after runs that were killed, and what another one does; None where it says that all is done."""
        shutil.rmtree(self.place.work)
        shutil.copytree(self.before, self.place.work, symlinks=True)
        disk = Disk(self.place.work)
        for events in killed:
            for event in events:
                disk.play(event)
        shutil.rmtree(self.place.work)
        materialize(disk.seen(), self.place.work)
        try:
            return disk, recorded(self.then, self.place)
        except CkptfmtError as error:
            assert error.code in (*self.then.said_when_done, *self.then.half_done)
            return disk, None


def gives_a_name(event: seam.Event) -> bool:
    """To what is the store's; where temporary files lie is of no account."""
    named = event.path if event.call == "mkdir" else event.other if event.call in ("link", "rename") else ""
    return "/store" in named and not named.endswith("/tmp")


@pytest.mark.parametrize("name", NAMES)
def test_power_lost_anywhere(name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally) -> None:
    """In a run, and in one after another that was killed: what it sees of that is not durable because it is seen."""
    verb = BY_NAME[name]
    place, expected = start(quick, verb, monkeypatch)
    resumed = Resumed(verb, place, quick)
    looking = looking_at(replace(verb, drops=False), expected, place, quick / "state")
    named = {at + 1 for at, event in enumerate(resumed.events) if gives_a_name(event)}
    for killed in sorted({*range(0, len(resumed.events), STRIDES.get(name, STRIDE)), *named}):
        disk, again = resumed.after(resumed.events[:killed])
        if again is not None:
            replay(looking, disk, again, drops=verb.drops and killed > 0)
        looking.check = looking_at(verb, expected, place, quick / "state").check
    counted.add_distinct(name, **looking.found())


@pytest.mark.parametrize("name", FOLLOWED)
def test_power_lost_in_a_gc_after_a_killed_run(
    name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted: Tally
) -> None:
    """What gc keeps instead of what it unlinks is certain first, whoever wrote it and was killed."""
    verb, gc = BY_NAME[name], BY_NAME["gc"]
    place, expected = start(quick, verb, monkeypatch)
    resumed = Resumed(verb, place, quick, gc)
    looking = looking_at(replace(verb, forgets=True), expected, place, quick / "state")
    for killed in sorted(at + 1 for at, event in enumerate(resumed.events) if gives_a_name(event)):
        disk, then = resumed.after(resumed.events[:killed])
        assert then is not None
        for event in then:
            looking.look(disk, False)
            disk.play(event)
        looking.look(disk, False)
    counted.add_distinct(f"{name}, then gc", **looking.found())


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_power_lost_after_two_killed_runs(
    name: str, quick: Path, monkeypatch: pytest.MonkeyPatch, counted_for_a_release: Tally
) -> None:
    """Every second call of the first run, each tenth of the second, every prefix of the third."""
    verb = BY_NAME[name]
    place, expected = start(quick, verb, monkeypatch)
    resumed = Resumed(verb, place, quick)
    looking = looking_at(verb, expected, place, quick / "state")
    for killed in range(0, len(resumed.events), 2):
        first = resumed.events[:killed]
        disk, again = resumed.after(first)
        if again is None:
            continue
        replay(looking, disk, again, drops=verb.drops)
        for number in range(1 + killed % 10, len(again), 10):
            disk, third = resumed.after(first, again[:number])
            if third is not None:
                replay(looking, disk, third, drops=verb.drops)
    counted_for_a_release.add_distinct(name, **looking.found())


def together(name: str, count: int, quick: Path) -> dict[str, set[object]]:
    """Several at once, by random schedules: power lost after each prefix of what they did together."""
    meeting = next(meeting for meeting in MEETINGS if " + ".join(meeting) == name)
    stage = Stage(quick)
    looking = Looking(lambda state, done: check_together(meeting, state, stage, done))
    for seed in range(count):
        lose_power_together(looking, meeting, stage, seed)
    return looking.found()


def lose_power_together(looking: Looking, meeting: tuple[str, ...], stage: Stage, seed: int) -> None:
    root = stage.root / "work"
    scene = Scene(stage.before.sources, root / "store", stage.root / "out")
    shutil.copytree(stage.before.store, scene.store)
    scene.out.mkdir()
    disk = Disk(root)
    recorder = seam.Recorder()
    ended: list[tuple[int, int]] = []
    stepper = Stepper(
        [lambda name=name: ACTORS[name].act(scene) for name in meeting],
        Randomly(seed),
        stage.root / "caches",
        also=recorder,
        finished=lambda number: ended.append((len(recorder.events), number)),
    )
    stepper.run()
    codes = stepper.outcomes({number: ACTORS[name].may for number, name in enumerate(meeting)})
    for number in range(len(recorder.events) + 1):
        looking.look(disk, frozenset(actor for at, actor in ended if at <= number and codes[actor] is None))
        if number < len(recorder.events):
            disk.play(recorder.events[number])
    shutil.rmtree(root)
    shutil.rmtree(scene.out)


def check_together(meeting: tuple[str, ...], state: State, stage: Stage, done: object) -> None:
    assert isinstance(done, frozenset)
    engine = opened(state)
    assert engine is not None
    history = check_history(engine, stage.sight.files)
    assert Store(engine).verify().damaged == ()
    engine.close()
    for number in done:
        actor = ACTORS[meeting[number]]
        if actor.adds is not None:
            ref, source = actor.adds
            assert any(source in (None, found) for found in history.get(ref, [])), f"{meeting[number]} is lost"
        if actor.removes is not None:
            assert None in history[actor.removes]
    for ref, source in STANDING.items():
        assert source in history[ref]


@pytest.mark.parametrize("name", MET)
def test_power_lost_while_several_write(name: str, quick: Path, counted: Tally) -> None:
    counted.add_distinct(name, **together(name, TOGETHER, quick))


@pytest.mark.torture
@pytest.mark.parametrize("name", MET)
def test_power_lost_while_several_write_in_many_ways(name: str, quick: Path, counted_for_a_release: Tally) -> None:
    counted_for_a_release.add_distinct(name, **together(name, TOGETHER_OFTEN, quick))
