"""Cleanups, undos, purges and repairs beside others, in every order of their calls that was tried: nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Tally, tally
from tests.faults.stepping import Policy, Randomly, Stepper
from tests.faults.test_schedules import KINDS, policy_of
from tests.reclaim.meeting import ACTORS, MEETINGS, Calls, Stage

IN_CI: Final = 4
"""Schedules of a meeting."""
FOR_A_RELEASE: Final = 100
WITH_READS: Final = 2
"""Of so many rounds of each kind of schedule, one takes turns at reads as well."""

BY_NAME: Final = {meeting.name: meeting for meeting in MEETINGS}


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules", BY_NAME, schedules=140) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules, for a release", BY_NAME, schedules=3_000) as counting:
        yield counting


def run(stage: Stage, policy: Policy, *, reads: bool) -> tuple[Stepper, int]:
    """Set the scene, let everyone come, look after each change of a name and at the end."""
    stage.set()
    given: list[object] = [None] * len(stage.meeting.actors)

    def act(number: int, name: str) -> None:
        given[number] = ACTORS[name].act(stage.setting)

    calls = Calls()
    acts = [lambda n=number, name=name: act(n, name) for number, name in enumerate(stage.meeting.actors)]
    stepper = Stepper(acts, policy, stage.root / "caches", reads=reads, also=calls, stepped=stage.look)
    calls.taken = stepper.taken
    stepper.run()
    codes = stepper.outcomes(stage.meeting.may())
    assert None in codes
    return stepper, stage.check(codes, given, calls)


def meet(name: str, count: int, root: Path) -> tuple[int, int, int]:
    """Try schedules until `count` different ones were run; how many, of how many steps, and how many problems it left."""
    stage = Stage(root, BY_NAME[name])
    steps = {reads: len(run(stage, Randomly(0), reads=reads)[0].taken) for reads in (False, True)}
    seen: set[tuple[int, ...]] = set()
    taken = left = 0
    for number in range(count * 3):
        reads = number // KINDS % WITH_READS == 1
        policy = policy_of(number, len(stage.meeting.actors), steps[reads])
        try:
            stepper, problems = run(stage, policy, reads=reads)
        except BaseException as error:
            error.add_note(f"{name}: {policy}, reads={reads}")
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
