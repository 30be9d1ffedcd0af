"""Hosts that stored objects against one another's, and reclaim by plans that were made at other times."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.digest import digest_of
from ckptfmt.store.gc_plan import REPACKED, GcPlan
from ckptfmt.store.store import open_store
from tests.faults.actors import names_below
from tests.faults.figures import Tally, tally
from tests.faults.stepping import ByPriority, Policy, Randomly, Stepper, Switching
from tests.gc.test_doubt import NEAR, write_copy
from tests.store import making
from tests.store.making import content_of, files_of, tree_of
from tests.store.test_against import moved, weights

COUNT = 3000
"""Words of a tensor."""
IN_CI = 20
"""Schedules of a meeting."""
MAY = ("lost-race",)


@dataclass
class Crosswise:
    """X is stored as it is, among much that is dead, and against Y; Y as it is, and against X.

    Attributes:
        store: as all hosts find it.
        plans: made before the other copies were there, between them, and after: each leaves other copies.
    """

    root: Path
    store: Path
    plans: dict[str, GcPlan]
    files: dict[str, dict[str, bytes]]


def tensors_file(directory: Path, tensors: dict[str, bytes]) -> Path:
    directory.mkdir()
    content = {name: ("BF16", (len(data) // 2,), data) for name, data in tensors.items()}
    (directory / "model.safetensors").write_bytes(making.safetensors(content))
    making.settle_times(directory)
    return directory


def make(root: Path) -> Crosswise:
    x = weights(1, COUNT)
    y = moved(x, 2, NEAR)
    dead = {f"dead{seed}": weights(10 + seed, COUNT) for seed in range(4)}
    sources = {
        "wide": tensors_file(root / "wide", {"w": x, **dead}),
        "x": tensors_file(root / "x", {"w": x}),
        "y": tensors_file(root / "y", {"w": y}),
    }
    plans = {}
    with Store.init(root / "store") as store:

        def plan() -> GcPlan:
            return store.plan_gc(grace_hours=0, keep_history_days=0, apply=True)

        engine = store._engine
        store.import_path(sources["wide"], name="wide", effort="fast")
        for name in ("x", "y"):
            store.import_path(sources[name], name=name, effort="fast")
        assert all(not copy.stored.dependencies for data in (x, y) for copy in engine.catalog().find(digest_of(data)))
        store.drop("wide")
        plans["early"] = plan()
        assert REPACKED in {item.why for item in plans["early"].leaving}
        y_on_x = write_copy(engine, y, [x])
        plans["between"] = plan()
        x_on_y = write_copy(engine, x, [y])
        plans["late"] = plan()
        # Alone, each other copy would be the one that stays.
        y_on_x.rename(root / "aside")
        engine.catalog(refresh=True)
        plans["other"] = plan()
        (root / "aside").rename(y_on_x)
        engine.catalog(refresh=True)
        assert x_on_y.exists()
        leaving = [{item.key for item in plans[name].leaving} for name in ("between", "other")]
        assert leaving[0] != leaving[1]
    files = {name: files_of(tree_of(sources[name])) for name in ("x", "y")}
    return Crosswise(root, root / "store", plans, files)


def check(scene: Crosswise, store: Path) -> None:
    engine = open_store(str(store))
    try:
        for name, files in scene.files.items():
            assert content_of(engine, engine.refs.current(name).target or "") == files
    finally:
        engine.close()


def finish(scene: Crosswise, store: Path) -> None:
    """Whatever was left of these runs, the next one finds one copy of each, and frees the rest."""
    check(scene, store)
    with Store.open(store) as opened:
        assert opened.verify().damaged == ()
        opened.gc(opened.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
        check(scene, store)
        assert opened.plan_gc(grace_hours=0, keep_history_days=0).leaving == ()
        for digest in {item.hex() for item in _digests(scene)}:
            assert len(opened._engine.catalog().find(digest)) == 1
        assert opened.verify().damaged == ()


def _digests(scene: Crosswise) -> list[bytes]:
    x = weights(1, COUNT)
    return [bytes.fromhex(digest_of(data)) for data in (x, moved(x, 2, NEAR))]


@pytest.fixture
def scene(quick: Path) -> Crosswise:
    return make(quick)


def test_plans_that_are_executed_late_in_every_order(scene: Crosswise) -> None:
    for order in itertools.permutations(scene.plans):
        store = Path(shutil.copytree(scene.store, scene.root / "copy"))
        for name in order:
            with Store.open(store) as opened:
                opened.gc(scene.plans[name])
            check(scene, store)
        finish(scene, store)
        shutil.rmtree(store)


MEETINGS = [
    ("between", "other"),
    ("early", "late"),
    ("early", "other"),
    ("early", "between", "other"),
    ("late", "late"),
]
NAMES = [" + ".join(meeting) for meeting in MEETINGS]


@pytest.fixture(scope="module")
def counted() -> Iterator[Tally]:
    with tally("crosswise", NAMES, schedules=80) as counting:
        yield counting


def policies(actors: int, steps: int) -> Iterator[Policy]:
    for seed in itertools.count():
        yield Randomly(seed)
        yield ByPriority(seed, actors, steps)
        yield Switching(seed % actors, actors, frozenset({1 + seed * 7 % steps}))


@pytest.mark.parametrize("name", NAMES)
def test_plans_that_are_executed_at_once(
    name: str, scene: Crosswise, counted: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step, each host with a catalog of its own: at each step both come back, and at the end all is tidy."""
    meeting = MEETINGS[NAMES.index(name)]
    seen: set[tuple[int, ...]] = set()
    steps = 60
    for number, policy in enumerate(policies(len(meeting), steps)):
        if len(seen) == IN_CI or number == 3 * IN_CI:
            break
        store = Path(shutil.copytree(scene.store, scene.root / "copy"))
        looked: set[frozenset[str]] = set()

        def stepped(store: Path = store, looked: set[frozenset[str]] = looked) -> None:
            found = names_below(store)
            if found not in looked:
                with monkeypatch.context() as patch:
                    patch.setenv("CKPTFMT_CACHE", str(scene.root / "sight"))
                    check(scene, store)
                looked.add(found)

        def execute(plan: GcPlan, store: Path = store) -> None:
            with Store.open(store) as opened:
                assert opened.gc(plan).problems == ()

        acts = [lambda each=each: execute(scene.plans[each]) for each in meeting]
        stepper = Stepper(acts, policy, scene.root / "caches", reads=number % 2 == 0, stepped=stepped)
        stepper.run()
        stepper.outcomes(dict.fromkeys(range(len(meeting)), MAY))
        finish(scene, store)
        shutil.rmtree(store)
        shutil.rmtree(scene.root / "caches")
        steps = len(stepper.taken)
        seen.add(tuple(stepper.taken))
    counted.add(name, schedules=len(seen))
