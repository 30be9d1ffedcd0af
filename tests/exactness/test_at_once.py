"""Two processes at once, each against what the other writes; and a writer that failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ckptfmt import Store
from ckptfmt.errors import StorageError
from ckptfmt.storage import durable
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store import shards
from ckptfmt.store.object_writer import Incoming
from tests.exactness import made
from tests.faults import seam

SMALL = {"square": (64, 128), "embedding": (40, 128), "tall": (128, 128), "rank": 2}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return made.family("BF16", **SMALL).write(tmp_path / "sources")  # type: ignore[arg-type]


def together(store: Path, *actions: Callable[[Store], object]) -> None:
    def act(number: int) -> None:
        with Store.open(store) as opened:
            actions[number](opened)

    seam.in_processes(len(actions), act)


def check(store: Path, originals: dict[str, Path], work: Path) -> None:
    with Store.open(store) as opened:
        assert {row.ref for row in opened.list_refs()} == set(originals)
        for name, original in originals.items():
            opened.restore(name, work / name)
            assert made.sums_of(work / name) == made.sums_of(original), name
        assert opened.verify().damaged == ()


def steps(directory: Path, count: int) -> list[Path]:
    """Checkpoints, each a little off the one before."""
    random = np.random.default_rng(3)
    weights = random.normal(0, 0.02, (128, 256)).astype(np.float32)
    found = []
    for number in range(count):
        weights = weights + random.normal(0, 1e-5, weights.shape).astype(np.float32)
        found.append(made.write_model(directory / f"step-{number}", {made.EMBED: weights}, "BF16"))
    return found


@pytest.mark.parametrize("turn", range(6))
def test_steps_taken_in_from_both_ends(tmp_path: Path, turn: int) -> None:
    """One process goes up, the other down: each finds, under a name of its own, the other's steps before its own."""
    made_steps = steps(tmp_path / "steps", 4)
    with Store.init(tmp_path / "store"):
        pass

    def up(store: Store) -> None:
        for number in (0, 1, 2, 3):
            store.import_checkpoint(made_steps[number], f"up/{number}")

    def down(store: Store) -> None:
        for number in (3, 2, 1, 0):
            store.import_checkpoint(made_steps[number], f"down/{3 - number}")

    together(tmp_path / "store", up, down)
    originals = {f"up/{number}": made_steps[number] for number in range(4)}
    originals |= {f"down/{number}": made_steps[3 - number] for number in range(4)}
    check(tmp_path / "store", originals, tmp_path / "out")


@pytest.mark.parametrize("turn", range(3))
def test_two_steps_each_the_other_one_s_previous_generation(tmp_path: Path, turn: int) -> None:
    """Both processes move the same two names on, in turn."""
    one, other = steps(tmp_path / "steps", 2)
    with Store.init(tmp_path / "store") as store:
        store.import_checkpoint(one, "run/1")
        store.import_checkpoint(other, "run/2")

    def cross(first: Path, second: Path) -> Callable[[Store], object]:
        def act(store: Store) -> None:
            store.import_checkpoint(first, "run/1")
            store.import_checkpoint(second, "run/2")

        return act

    together(tmp_path / "store", cross(other, one), cross(other, one))
    check(tmp_path / "store", {"run/1": other, "run/2": one}, tmp_path / "out")


def loaded(store: Path, places: dict[str, Path]) -> None:
    """A store to optimize; torch is loaded before processes are forked."""
    with Store.init(store) as opened:
        opened.add_base("base", places["base"], keep="copy")
        opened.import_checkpoint(places["lost"], "loading", base="base")
        opened.optimize(["loading"])
    with Store.init(store.with_name("other")) as opened:
        opened.add_base("base", places["base"], keep="copy")
        opened.import_checkpoint(places["lost"], "lost", base="base")
        opened.import_checkpoint(places["step"], "step")


def test_optimize_twice_at_once(tmp_path: Path, places: dict[str, Path]) -> None:
    loaded(tmp_path / "loaded", places)
    store = tmp_path / "other"
    together(store, lambda opened: opened.optimize(), lambda opened: opened.optimize())
    with Store.open(store) as opened:
        assert "lowrank" in made.used(opened, "lost")
    check(store, {"lost": places["lost"], "step": places["step"]}, tmp_path / "out")


def test_optimize_of_each_of_two_against_the_other(tmp_path: Path, places: dict[str, Path]) -> None:
    """Stored by themselves, then each against the other at the same time: no circle that nothing leads out of."""
    loaded(tmp_path / "loaded", places)
    one, other = steps(tmp_path / "steps", 2)
    with Store.init(tmp_path / "store") as store:
        store.import_checkpoint(one, "a", effort="fast")
        store.import_checkpoint(other, "b", effort="fast")
    together(
        tmp_path / "store",
        lambda opened: opened.optimize(["a"], recovery=False),
        lambda opened: opened.optimize(["b"], recovery=False),
    )
    check(tmp_path / "store", {"a": one, "b": other}, tmp_path / "out")


def test_optimize_beside_imports(tmp_path: Path, places: dict[str, Path]) -> None:
    loaded(tmp_path / "loaded", places)
    store = tmp_path / "other"

    def take_in(opened: Store) -> None:
        opened.import_checkpoint(places["both"], "both", base="base")
        opened.import_checkpoint(places["lost"], "again")

    together(store, lambda opened: opened.optimize(), take_in, lambda opened: opened.optimize(again=True))
    originals = {"lost": "lost", "step": "step", "both": "both", "again": "lost"}
    check(store, {name: places[source] for name, source in originals.items()}, tmp_path / "out")


@pytest.mark.parametrize("at", range(6))
def test_a_writer_that_failed_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Where objects that were recorded were not written, a later flush must not say that they were."""
    monkeypatch.setattr(shards, "_HELD_BYTES", 3000)
    storage = LocalStorage(str(tmp_path))
    random = np.random.default_rng(0)
    observer = seam.failing_with(5, at)
    with ThreadPoolExecutor(1) as pool, durable.observed(observer):
        writer = shards.ShardWriter(
            storage, effort="fast", pool=pool, remaining=lambda: 1 << 12, written=lambda *shard: None
        )
        with pytest.raises(StorageError):
            for _ in range(4):
                target = writer.begin(Incoming(1000))
                target.append(random.bytes(1000))
                target.finish()
            writer.flush()
        assert observer.hit
        writer.flush()
        writer.abort()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
