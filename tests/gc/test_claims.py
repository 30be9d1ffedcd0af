"""gc and writers that were killed half-way: what is named is never lost, and a claim counts for a day."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.api import Store
from ckptfmt.api.reclaiming import GcReport
from ckptfmt.errors import IncompleteStore, NotFound
from ckptfmt.progress import SILENT
from ckptfmt.storage import durable
from ckptfmt.store.gc_plan import plan_gc
from ckptfmt.store.gc_run import execute_gc
from ckptfmt.store.marking import Marker
from ckptfmt.store.publish import pinned
from ckptfmt.store.roots import Roots
from ckptfmt.store.shards import PREFIX
from ckptfmt.store.store import open_store, record_key
from tests.faults import seam
from tests.store import making

SIGKILLED = -9
HOUR = 3600.0


class KilledBefore:
    """Ends the process with SIGKILL before a file appears at a place below `directory`."""

    def __init__(self, directory: str) -> None:
        self._part = f"/{directory}/"

    def before(self, call: str, arguments: tuple[Any, ...]) -> None:
        if call in ("rename", "link") and self._part in str(arguments[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, call: str, arguments: tuple[Any, ...], result: object) -> None:
        return


@pytest.fixture
def store(quick: Path) -> Iterator[Store]:
    making.write_small(quick / "one", {"a": 1, "b": 2}, elements=3000)
    making.write_small(quick / "two", {"a": 1, "b": 3}, elements=3000)
    with Store.init(quick / "store") as store:
        store.import_path(quick / "one", name="runs/one")
        yield store


def gc(store: Store) -> GcReport:
    return store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))


def age(store: Store, seconds: float) -> None:
    for path in Path(store.path).rglob("*"):
        found = path.lstat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


def files(store: Store, kind: str) -> set[str]:
    return making.files_below(Path(store.path) / kind)


def import_killed(quick: Path, before: str) -> None:
    """Import `two` in a process that is killed before a file appears in `before`."""

    def act() -> None:
        with durable.observed(KilledBefore(before)), Store.open(quick / "store") as opened:
            opened.import_path(quick / "two", name="runs/two")

    assert seam.in_child(act) == SIGKILLED


def test_a_writer_killed_between_manifest_and_pin(store: Store, quick: Path) -> None:
    """Nobody knows of it: what it wrote goes, what others have stays, and it can be run again."""
    before = files(store, "shards")
    import_killed(quick, "pins")
    assert len(files(store, "manifests")) == 2
    assert files(store, "pins") == set()
    assert gc(store).shards == 1
    assert files(store, "shards") == before
    store.import_path(quick / "two", name="runs/two")
    for name in ("one", "two"):
        assert making.restored(store, f"runs/{name}", quick / f"out {name}") == making.tree_of(quick / name)


def test_a_writer_killed_between_pin_and_ref(store: Store, quick: Path) -> None:
    """Its claim keeps what it wrote, and what that shares with a checkpoint that was dropped, for 24 hours."""
    import_killed(quick, "refs")
    (manifest,) = {name.rpartition("/")[2].partition("-")[0] for name in files(store, "pins")}
    store.drop("runs/one")
    gc(store)
    assert making.files_of(making.restored(store, manifest, quick / "out")) == making.files_of(
        making.tree_of(quick / "two")
    )
    age(store, 23 * HOUR)
    gc(store)
    making.restored(store, manifest, quick / "still")
    age(store, 2 * HOUR)
    gc(store)
    assert files(store, "pins") == files(store, "shards") == files(store, "manifests") == set()
    with pytest.raises(NotFound):
        store.restore(manifest, quick / "gone")


def test_a_claim_on_what_is_gone_stops_no_gc(store: Store, quick: Path) -> None:
    """A writer claims, then confirms, and writes again what is gone: until then, or for ever, gc finds it missing."""
    before = files(store, "shards")
    two = store.import_path(quick / "two", name="runs/two").checkpoints[0].manifest
    with pinned(open_store(store.path), two):
        store.drop("runs/two")
        for name in files(store, "shards") - before:
            (Path(store.path) / "shards" / name).unlink()
        making.write_small(quick / "three", {"a": 1, "b": 4}, elements=3000)
        store.import_path(quick / "three", name="runs/three")
        store.drop("runs/three")
        assert gc(store).shards == 1
        assert files(store, "shards") == before
    assert making.restored(store, "runs/one", quick / "out") == making.tree_of(quick / "one")


def test_what_a_name_needs_too_is_not_only_hoped_for(store: Store, quick: Path) -> None:
    one = store.log("runs/one").generations[0].target or ""
    with pinned(open_store(store.path), one):
        for name in files(store, "shards"):
            (Path(store.path) / "shards" / name).unlink()
        with pytest.raises(IncompleteStore, match="in no shard"):
            gc(store)


def test_claims_end_between_two_looks(store: Store, quick: Path) -> None:
    """What only a claim reached is forgotten with it; what it reached that a ref names now is certain."""
    engine = open_store(store.path)
    one = store.log("runs/one").generations[0].target or ""
    making.write_base(quick / "base")
    store.add_base("base", quick / "base", keep="copy")
    record = store.list_bases()[0].record
    nothing = Roots(*[frozenset[str]()] * 5)
    marker = Marker(engine)
    marker.mark(replace(nothing, claimed=frozenset({one, record})))
    assert (marker.manifests, marker.records) == ({one}, {record})
    assert marker.hoped == marker.objects != set()
    marker.mark(replace(nothing, current=frozenset({one}), records=frozenset({record})))
    assert (marker.manifests, marker.records) == ({one}, {record})
    assert marker.hoped == set() != marker.objects
    marker.mark(replace(nothing, current=frozenset({one}), records=frozenset({record}), claimed=frozenset({record})))
    assert marker.hoped
    marker.mark(replace(nothing, current=frozenset({one}), records=frozenset({record}), kept=frozenset({record})))
    assert marker.hoped == set()
    assert engine.storage.size(record_key(record)) is not None
    fresh = Marker(engine)
    fresh.mark(replace(nothing, current=frozenset({one}), records=frozenset({record}), kept=frozenset({record})))
    assert marker.objects == fresh.objects


def test_a_shard_that_cannot_be_read_in_the_trash_stays(
    store: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold what a claim needs."""
    before = files(store, "shards")
    store.import_path(quick / "two", name="runs/two")
    store.drop("runs/two")
    (mine,) = files(store, "shards") - before
    engine = open_store(store.path)
    plan = plan_gc(
        engine, now_ns=engine.storage.now_ns(), grace_seconds=0, keep_history_seconds=0, held=lambda _: frozenset()
    )
    path = Path(store.path) / PREFIX / mine
    data = path.read_bytes()
    path.write_bytes(b"\xff" * 16 + data[16:])
    monkeypatch.setenv("CKPTFMT_CACHE", str(quick / "other-cache"))
    execute_gc(open_store(store.path), plan, lambda _: frozenset(), SILENT)
    assert files(store, "shards") == before | {mine}


def test_another_run_s_repack_is_no_damage(quick: Path, sparse: Store) -> None:
    late = sparse.plan_gc(grace_hours=0, keep_history_days=0, apply=True)
    assert gc(sparse).plan.written == 1
    assert sparse.gc(late).problems == ()
    assert making.restored(sparse, "narrow", quick / "out") == making.tree_of(quick / "narrow")
