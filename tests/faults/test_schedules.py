"""Two or three at once, in every order of their calls that was tried: no ref names anything that is not whole."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.store.store import manifest_key, open_store
from tests.faults.actors import ACTORS, MEETINGS, Scene, Stage, check_outcomes
from tests.faults.figures import Tally, tally
from tests.faults.stepping import ByPriority, Policy, Randomly, Scripted, Stepper, Switching

IN_CI = 45
"""Schedules of a meeting."""
FORGETFUL_IN_CI = 20
"""Of one with a gc that keeps no history."""
FOR_A_RELEASE = 450
KINDS = 4
WITH_READS = 4
"""Of so many rounds of each kind of schedule, one takes turns at reads as well; with gc, of two."""

NAMES = [" + ".join(meeting) for meeting in MEETINGS]


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("schedules", NAMES, schedules=1_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("schedules, for a release", NAMES, schedules=10_000) as counting:
        yield counting


def run(stage: Stage, meeting: tuple[str, ...], policy: Policy, *, reads: bool, also: Any = None) -> Stepper:
    """Set the scene, let everyone come, look at each step and at the end."""
    scene = Scene(stage.before.sources, stage.root / "store", stage.root / "out")
    shutil.copytree(stage.before.store, scene.store)
    scene.out.mkdir()
    acts = [lambda name=name: ACTORS[name].act(scene) for name in meeting]
    stepper = Stepper(
        acts,
        policy,
        stage.root / "caches",
        reads=reads,
        also=also,
        stepped=lambda: stage.sight.check(scene.store),
    )
    stepper.run()
    codes = stepper.outcomes({number: ACTORS[name].may for number, name in enumerate(meeting)})
    assert None in codes
    stage.sight.check(scene.store)
    check_outcomes(meeting, codes, scene, stage.sight)
    shutil.rmtree(scene.store)
    shutil.rmtree(scene.out)
    return stepper


def policy_of(number: int, actors: int, steps: int) -> Policy:
    """In turn: anyone at any time, few switches by priority, one switch anywhere, two switches anywhere."""
    chance = random.Random(number)
    kind = number % KINDS
    if kind == 0:
        return Randomly(number)
    if kind == 1:
        return ByPriority(number, actors, steps)
    at = chance.sample(range(1, steps), min(kind - 1, steps - 1))
    return Switching(chance.randrange(actors), actors, frozenset(at))


def meet(name: str, count: int, quick: Path) -> tuple[int, int, int]:
    """Try schedules until `count` different ones were run; how many, of how many steps, with how many looks."""
    meeting = MEETINGS[NAMES.index(name)]
    stage = Stage(quick, forgets=any(ACTORS[each].forgets for each in meeting))
    steps = {reads: len(run(stage, meeting, Randomly(0), reads=reads).taken) for reads in (False, True)}
    seen: set[tuple[int, ...]] = set()
    taken = 0
    for number in range(count * 3):
        reads = number // KINDS % (2 if any("gc" in each for each in meeting) else WITH_READS) == 0
        policy = policy_of(number, len(meeting), steps[reads])
        try:
            stepper = run(stage, meeting, policy, reads=reads)
        except BaseException:
            print(f"{name}: {policy}, reads={reads}")
            raise
        seen.add(tuple(stepper.taken))
        taken += len(stepper.taken)
        if len(seen) == count:
            break
    return len(seen), taken, stage.sight.asked


@pytest.mark.parametrize("name", NAMES)
def test_whoever_meets(name: str, quick: Path, counted: Tally) -> None:
    forgets = any(ACTORS[each].forgets for each in MEETINGS[NAMES.index(name)])
    schedules, steps, looks = meet(name, FORGETFUL_IN_CI if forgets else IN_CI, quick)
    counted.add(name, schedules=schedules, steps=steps, looks=looks)


def after_steps(count: int) -> Callable[[str], bool]:
    """Ends a phase after so many calls."""
    left = itertools.count(count, -1)
    return lambda _pending: next(left) <= 0


def test_a_manifest_that_gc_takes_out_while_it_is_compared(quick: Path) -> None:
    """An import that failed left it; the next one looks whether it is the same, and it goes in the middle of that."""
    stage = Stage(quick)
    engine = open_store(str(stage.before.store))
    named = {item.target for name, _ in engine.refs.names() for item in engine.refs.history(name)}
    left = {f"read {manifest_key(digest)}" for digest in engine.manifest_ids() if digest not in named}
    engine.close()
    assert left
    phases: list[tuple[int, Callable[[str], bool]]] = [
        (1, lambda pending: pending.startswith("mkdir") and "/trash/" in pending),
        (0, lambda pending: pending in left),
        (1, lambda _pending: False),
    ]
    run(stage, ("import over", "gc"), Scripted(phases), reads=True)


@pytest.mark.parametrize("writer", ["import", "import against a base"])
def test_a_name_that_appears_while_gc_looks_for_names(writer: str, quick: Path) -> None:
    """What gc took out after the writer confirmed it, and looks for reasons to keep: wherever it looks just then.

    gc plans; the writer claims, confirms, and is about to give the name; gc takes out, takes over, and looks so far;
    the writer gives the name and takes its claim back; gc goes on.
    """
    stage = Stage(quick)
    looked, steps = True, 0
    while looked:
        phases: list[tuple[int, Callable[[str], bool]]] = [
            (1, lambda pending: pending.startswith("mkdir") and "/trash/" in pending),
            (0, lambda pending: pending.startswith("link") and "/refs/" in pending),
            (1, lambda pending: pending.startswith("rename") and pending.count("/trash/") == 2),
            (1, after_steps(steps)),
            (0, lambda _pending: False),
        ]
        stepper = run(stage, (writer, "gc"), Scripted(phases), reads=True)
        looked = 1 in stepper.taken[max(at for at, number in enumerate(stepper.taken) if number == 0) :]
        steps += 1
    assert steps > 20


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_whoever_meets_often(name: str, quick: Path, counted_for_a_release: Tally) -> None:
    schedules, steps, looks = meet(name, FOR_A_RELEASE, quick)
    counted_for_a_release.add(name, schedules=schedules, steps=steps, looks=looks)
