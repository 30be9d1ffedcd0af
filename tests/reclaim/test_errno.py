"""cleanup, undo and purge in which a system call fails: nothing is lost, it is told, and the next run ends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.format.receipt import HOLDING
from ckptfmt.storage import durable
from ckptfmt.store.receipts import Receipts
from tests.faults import seam
from tests.faults.figures import Tally, tally
from tests.faults.test_errno import ERRNOS, REMOVES, cases
from tests.reclaim.making import purge_of
from tests.reclaim.test_kill import BY_NAME, Act, Setting, check, make, prepared, undo
from tests.store.making import files_below, tree_of

SPREAD: Final = {"cleanup, taking in": 41, "cleanup": 13, "cleanup at once": 13, "undo": 7, "purge": 7}
"""In CI each so-manieth case."""
HOLDS: Final = ("cleanup, taking in", "cleanup")


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("cleanup, errno", BY_NAME, failures=100) as counting:
        yield counting


@pytest.fixture(scope="module")
def counted_for_a_release() -> Iterator[Tally]:
    with tally("cleanup, errno, for a release", BY_NAME, failures=5_000) as counting:
        yield counting


@pytest.fixture
def setting(quick: Path) -> Iterator[Setting]:
    yield make(quick / "before")


def ready_for(setting: Setting, act: Act, quick: Path) -> Setting:
    shutil.rmtree(quick / "ready", ignore_errors=True)
    return prepared(setting, act, quick)


def attempt(act: Act, ready: Setting, observer: seam.Failing) -> tuple[StorageError | None, list[str]]:
    """Run an act under an observer: what it raised, and what its reports say was refused."""
    try:
        with durable.observed(observer):
            reports = act.act(ready)
    except CkptfmtError as error:
        assert isinstance(error, StorageError)
        return error, []
    given = reports if isinstance(reports, list) else [reports]
    return None, [f"{each.path}: {each.reason}" for report in given for each in report.refused]


def not_done(act: Act, ready: Setting) -> list[str]:
    """What keeps an act from having come to its end: what is half way, and files that are not where they are to be."""
    with ready.open() as store:
        receipts = Receipts(store.engine.storage)
        states = {part.state for each in receipts.ids() for part in receipts.parts(each)}
    held = act.name in HOLDS
    ends = {"undone"} if act.name == "undo" else {"undone", "held" if held else "purged"}
    wrong = [f"a part is {state}" for state in sorted(states - ends)]
    if act.name == "undo":
        return wrong + ["the tree is not what it was"] * (tree_of(ready.tree) != ready.before)
    weights = [ready.tree / "runs" / each / "model.safetensors" for each in ("one", "two")]
    wrong += [f"{path} is there" for path in weights if path.exists()]
    hold = list((ready.tree / ".ckptfmt-hold").glob("*"))
    return wrong if bool(hold) == held else [*wrong, f"in the hold: {hold}"]


def check_case(setting: Setting, act: Act, quick: Path, *, call: str, case: tuple[int, int, bool]) -> None:
    at, number, lasting = case
    ready = ready_for(setting, act, quick)
    observer = seam.failing_with(number, at, lasting=lasting)
    error, refused = attempt(act, ready, observer)
    assert observer.hit
    if error is not None:
        assert (error.code, error.exit_code) == (ERRNOS[number], 1)
        assert str(ready.work) in error.message
    assert error is not None or refused or not_done(act, ready) == [], "neither done nor told"
    check(ready, whole=False)
    if not lasting and call not in REMOVES:
        assert files_below(ready.work / "store" / "tmp") == set()
        assert files_below(ready.work / "store" / "pins") == set()
    assert attempt(act, ready, seam.failing_with(number, -1)) == (None, [])
    if act.name == "cleanup at once":  # What was moved and not deleted is held, for no time.
        with ready.open() as store:
            assert purge_of(store).refused == ()
    assert not_done(act, ready) == [], "the same command ends it"
    check(ready, whole=act.name == "undo")
    if act.gone and not ended(ready):
        undo(ready)
        assert tree_of(ready.tree) == setting.before


def ended(ready: Setting) -> bool:
    """Whether nothing is held."""
    with ready.open() as store:
        receipts = Receipts(store.engine.storage)
        return not any(part.state in HOLDING for each in receipts.ids() for part in receipts.parts(each))


def fail_everywhere(setting: Setting, act: Act, quick: Path, spread: int, every: int) -> int:
    """Each `every`-th case, with `spread` errnos a call; how many."""
    counter = seam.Counter()
    ready = ready_for(setting, act, quick)
    with durable.observed(counter):
        act.act(ready)
    tried = list(cases(counter.calls, spread))[::every]
    for case in tried:
        try:
            check_case(setting, act, quick, call=counter.calls[case[0]], case=case)
        except AssertionError as error:
            error.add_note(f"{act.name}: call {case[0]}, {counter.calls[case[0]]}, errno {case[1]}, lasting {case[2]}")
            raise
    return len(tried)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_fails(setting: Setting, quick: Path, name: str, counted: Tally) -> None:
    counted.add(name, failures=fail_everywhere(setting, BY_NAME[name], quick, 3, SPREAD[name]))


@pytest.mark.torture
@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_fails_in_every_way(setting: Setting, quick: Path, name: str, counted_for_a_release: Tally) -> None:
    counted_for_a_release.add(name, failures=fail_everywhere(setting, BY_NAME[name], quick, len(ERRNOS), 1))
