"""Cleanups, undos, purges and repairs beside others, in every order of their calls that was tried: nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Tally, tally
from tests.faults.seam import Abort
from tests.faults.stepping import Policy, Randomly, Stepper
from tests.faults.test_schedules import KINDS, policy_of
from tests.reclaim.meeting import ACTORS, MEETINGS, Calls, Stage

IN_CI: Final = 4
"""Schedules of a meeting."""
FOR_A_RELEASE: Final = 100
WITH_READS: Final = 2
"""Of so many rounds of each kind of schedule, one takes turns at reads as well."""

KILLED_IN_CI: Final = 4

BY_NAME: Final = {meeting.name: meeting for meeting in MEETINGS}
MOVING: Final = (
    "known: cleanup + another cleanup",
    "known: cleanup + undo",
    "known: cleanup at once + rm + gc without history",
    "held: undo + cleanup",
    "held: undo + purge",
    "damaged: repair + another repair",
)


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules", BY_NAME, schedules=140) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules, for a release", BY_NAME, schedules=3_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_killed() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules with one killed", MOVING, schedules=20) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_killed_for_a_release() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules with one killed, for a release", BY_NAME, schedules=3_000) as counting:
        yield counting


def run(stage: Stage, policy: Policy, *, reads: bool, dies: tuple[int, int] | None = None) -> tuple[Stepper, int]:
    """Set the scene, let everyone come, look after each change of a name and at the end.

    Args:
        stage: where.
        policy: who is next.
        reads: take turns at reads of the store too.
        dies: an actor, and the number of the call that they do not come to make.

    Returns:
        How it went, and how many problems were left for one more repair.
    """
    stage.set()
    given: list[object] = [None] * len(stage.meeting.actors)

    def act(number: int, name: str) -> None:
        given[number] = ACTORS[name].act(stage.setting)

    calls = Calls(*(dies or ()))
    acts = [lambda n=number, name=name: act(n, name) for number, name in enumerate(stage.meeting.actors)]
    stepper = Stepper(acts, policy, stage.root / "caches", reads=reads, also=calls, stepped=stage.look)
    calls.taken = stepper.taken
    stepper.run()
    killed = {number for number, actor in enumerate(stepper.actors) if isinstance(actor.error, Abort)}
    assert killed <= {calls.dies}
    for number in killed:
        stepper.actors[number].error = None
    codes = stepper.outcomes(stage.meeting.may())
    assert None in codes
    return stepper, stage.check(["killed" if n in killed else code for n, code in enumerate(codes)], given, calls)


def meet(name: str, count: int, root: Path, *, killed: bool = False) -> tuple[int, int, int]:
    """Try schedules until `count` different ones were run: how many, of how many steps, how many problems they left."""
    stage = Stage(root, BY_NAME[name])
    steps = {reads: len(run(stage, Randomly(0), reads=reads)[0].taken) for reads in (False, True)}
    seen: set[tuple[int, ...]] = set()
    taken = left = 0
    for number in range(count * 3):
        reads = number // KINDS % WITH_READS == 1
        actors = len(stage.meeting.actors)
        policy = policy_of(number, actors, steps[reads])
        chance = random.Random(number)
        dies = (chance.randrange(actors), chance.randrange(steps[False] // actors)) if killed else None
        try:
            stepper, problems = run(stage, policy, reads=reads, dies=dies)
        except BaseException as error:
            error.add_note(f"{name}: {policy}, reads={reads}, dies={dies}")
            raise
        seen.add(tuple(stepper.taken))
        taken += len(stepper.taken)
        left += problems
        if len(seen) == count:
            break
    return len(seen), taken, left


@pytest.mark.parametrize("name", BY_NAME)
def test_whoever_meets(name: str, quick: Path, counted: Tally) -> None:
    schedules, steps, left = meet(name, IN_CI, quick)
    counted.add(name, schedules=schedules, steps=steps, left=left)


@pytest.mark.torture
@pytest.mark.parametrize("name", BY_NAME)
def test_whoever_meets_often(name: str, quick: Path, counted_for_a_release: Tally) -> None:
    schedules, steps, left = meet(name, FOR_A_RELEASE, quick)
    counted_for_a_release.add(name, schedules=schedules, steps=steps, left=left)


@pytest.mark.parametrize("name", MOVING)
def test_one_of_them_is_killed(name: str, quick: Path, counted_killed: Tally) -> None:
    schedules, steps, _ = meet(name, KILLED_IN_CI, quick, killed=True)
    counted_killed.add(name, schedules=schedules, steps=steps)


@pytest.mark.torture
@pytest.mark.parametrize("name", BY_NAME)
def test_one_of_them_is_killed_often(name: str, quick: Path, counted_killed_for_a_release: Tally) -> None:
    schedules, steps, _ = meet(name, FOR_A_RELEASE, quick, killed=True)
    counted_killed_for_a_release.add(name, schedules=schedules, steps=steps)
