"""Cleanups, undos, purges and repairs beside others, in every order of their calls that was tried: nothing is lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Tally, tally
from tests.faults.seam import Abort
from tests.faults.stepping import Policy, Randomly, Scripted, Stepper, Switching
from tests.faults.test_schedules import KINDS, after_steps, policy_of
from tests.reclaim.meeting import ACTORS, MEETINGS, ONE, Calls, Stage

IN_CI: Final = 3
"""Schedules of a meeting."""
FOR_A_RELEASE: Final = 100
WITH_READS: Final = 2
"""Of so many rounds of each kind of schedule, one takes turns at reads as well."""

KILLED_IN_CI: Final = 3

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
    with tally("cleanup and repair, schedules", BY_NAME, schedules=120) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules, for a release", BY_NAME, schedules=4_000) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_killed() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules with one killed", MOVING, schedules=18) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_killed_for_a_release() -> Iterator[Tally]:
    with tally("cleanup and repair, schedules with one killed, for a release", BY_NAME, schedules=4_000) as counting:
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

    stage.calls = calls = Calls(*(dies or ()))
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
    first = {reads: run(stage, Randomly(-1), reads=reads) for reads in (False, True)}
    steps = {reads: len(stepper.taken) for reads, (stepper, _) in first.items()}
    seen = set() if killed else {tuple(stepper.taken) for stepper, _ in first.values()}
    taken, left = (0, 0) if killed else (sum(steps.values()), sum(problems for _, problems in first.values()))
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


def begins_to_move(pending: str) -> bool:
    return pending.startswith("mkdir") and pending.endswith("/.ckptfmt-hold")


def moves(pending: str) -> bool:
    return pending.startswith("rename") and "/.ckptfmt-hold/" in pending


def notes(pending: str) -> bool:
    return pending.startswith("link") and "/receipts/" in pending


def tidies(pending: str) -> bool:
    return pending.startswith("rmdir")


def never(_pending: str) -> bool:
    return False


def test_a_move_that_another_cleanup_takes_for_a_stopped_one(quick: Path) -> None:
    """It looked before anything was moved, and notes that nothing was when all is moved and noted."""
    stage = Stage(quick, BY_NAME["known: cleanup + another cleanup"])
    run(stage, Scripted([(0, begins_to_move), (1, notes), (0, never)]), reads=False)


def test_what_is_deleted_stays_in_the_store_whoever_took_its_move_for_a_stopped_one(quick: Path) -> None:
    """Its name has moved on since, and gc keeps no history: only the receipt tells that it is needed."""
    stage = Stage(quick, BY_NAME["known: cleanup + cleanup at once"])
    run(stage, Scripted([(1, begins_to_move), (0, notes), (1, never)]), reads=False)
    assert "runs/one/model.safetensors" in stage.gone()
    with stage.setting.open() as store:
        store.import_path(stage.setting.work / ONE, name=ONE)
        store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
        store.restore(f"{ONE}@1", quick / "back")
    assert (quick / "back" / "model.safetensors").read_bytes() == stage.files()["runs/one/model.safetensors"]


def test_a_hold_that_two_tidy_up(quick: Path) -> None:
    """Of a move that it takes for a stopped one, a cleanup removes empty directories; a file comes into them."""
    stage = Stage(quick, BY_NAME["known: cleanup + another cleanup"])
    run(stage, Scripted([(0, moves), (1, tidies), (0, after_steps(1))]), reads=False)


def test_a_move_that_an_undo_ended_and_that_is_stopped_after_it_went_on(quick: Path) -> None:
    """What it moved then lies in the hold of a part that is said to be undone: another undo gives it back."""
    stage = Stage(quick, BY_NAME["known: cleanup + undo"])
    phases = [(0, begins_to_move), (1, never)]
    run(stage, Scripted(list(phases)), reads=False)
    calls = [f"{call} {path} {other}" for _, who, call, path, other in stage.calls.made if who == 0]
    last = next(number for number, call in enumerate(calls) if moves(call))
    run(stage, Scripted(list(phases)), reads=False, dies=(0, last + 1))


def test_a_shard_that_another_repair_sets_aside_while_it_is_copied(quick: Path) -> None:
    """One repair is stopped somewhere in what it copies; the other ends; the first looks again."""
    stage = Stage(quick, BY_NAME["damaged: repair + another repair"])
    steps = len(run(stage, Switching(0, 2, frozenset()), reads=False)[0].taken) // 2
    for at in range(steps // 4, steps * 2 // 3, 6):
        run(stage, Switching(0, 2, frozenset({at})), reads=False)


@pytest.mark.parametrize("before", range(1, 5))
def test_a_name_that_is_dropped_and_forgotten_while_a_repair_looks(before: int, quick: Path) -> None:
    """What it stood for is needed by nobody by then: there is no damage, wherever in its look it is overtaken."""
    stage = Stage(quick, BY_NAME["known: repair + rm + gc without history"])
    left = itertools.count(before, -1)

    def looks_at_shards(pending: str) -> bool:
        return pending == "list shards/" and next(left) <= 1

    run(stage, Scripted([(0, looks_at_shards), (1, never), (2, never)]), reads=True)


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
