"""gc: what nobody needs goes after its grace, what somebody needs comes back to the byte."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.api.reclaiming import GcReport
from ckptfmt.cli.verbs.gc import plan_lines
from ckptfmt.errors import CkptfmtError, IncompleteStore, IntegrityError, NotFound
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.shard import ShardObject
from ckptfmt.storage import durable
from ckptfmt.storage.protocol import Readable
from ckptfmt.store import gc_plan
from ckptfmt.store.object_writer import Incoming
from ckptfmt.store.publish import pinned
from ckptfmt.store.shards import ShardWriter, shard_key
from ckptfmt.store.store import open_store
from ckptfmt.store.trash import runs
from tests.store import making

DAY_NS = 86_400 * 10**9


@pytest.fixture
def place(quick: Path) -> Path:
    making.write_small(quick / "one", {"a": 1, "b": 2}, elements=3000)
    making.write_small(quick / "two", {"a": 1, "b": 3}, elements=3000)
    making.write_base(quick / "base")
    making.write_adapter(quick / "adapter", 1)
    return quick


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with Store.init(place / "store") as store:
        store.import_path(place / "one", name="runs/one")
        store.import_path(place / "two", name="runs/two")
        yield store


def gc(store: Store, *, grace: float = 0.0, history: float = 0.0) -> GcReport:
    return store.gc(store.plan_gc(grace_hours=grace, keep_history_days=history, apply=True))


def shards(store: Store) -> set[str]:
    return making.files_below(Path(store.path) / "shards")


def age(store: Store, seconds: float) -> None:
    """Make every file of a store older."""
    for path in Path(store.path).rglob("*"):
        found = path.lstat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


def used(store: Store) -> int:
    return sum(path.lstat().st_size for path in Path(store.path).rglob("*") if path.is_file())


# What goes


def test_nothing_goes_while_everything_is_named(store: Store) -> None:
    before = making.files_below(store.path)
    report = gc(store)
    assert (report.freed_bytes, report.taken_out_bytes, report.unlinked) == (0, 0, 0)
    assert making.files_below(store.path) == before


def test_a_plan_does_nothing(store: Store, place: Path) -> None:
    store.drop("runs/two")
    before = making.tree_of(store.path)
    plan = store.plan_gc(grace_hours=0, keep_history_days=0)
    assert plan.freed_bytes > 0
    assert making.tree_of(store.path) == before


def test_what_was_dropped_is_freed_and_the_rest_stays(store: Store, place: Path) -> None:
    store.drop("runs/two")
    before = used(store)
    planned = store.planned_gc(store.plan_gc(grace_hours=0, keep_history_days=0)).plan
    report = gc(store)
    assert report.freed_bytes == planned.freed_bytes > 12_000  # b of runs/two, its manifest, its skeleton
    assert report.shards == 1
    assert used(store) == before - report.freed_bytes
    assert not (Path(store.path) / "trash").is_dir() or not list((Path(store.path) / "trash").iterdir())
    assert making.restored(store, "runs/one", place / "out") == making.tree_of(place / "one")
    assert store.verify().damaged == ()
    assert gc(store).freed_bytes == 0


def test_what_others_share_stays(store: Store, place: Path) -> None:
    """runs/two relies on an object of runs/one's shard."""
    store.drop("runs/one")
    report = gc(store)
    assert report.freed_bytes > 0
    assert making.restored(store, "runs/two", place / "out") == making.tree_of(place / "two")


def test_a_shard_that_is_mostly_dead_is_written_anew(quick: Path, sparse: Store) -> None:
    planned = sparse.planned_gc(sparse.plan_gc(grace_hours=0, keep_history_days=0)).plan
    before = used(sparse)
    report = gc(sparse)
    assert planned.written_bytes == report.written_bytes > 12_000
    assert planned.freed_bytes == report.freed_bytes > 96_000
    assert used(sparse) == before + report.written_bytes - report.freed_bytes < 32_000
    assert making.restored(sparse, "narrow", quick / "out") == making.tree_of(quick / "narrow")
    assert gc(sparse).unlinked == 0


def test_what_nothing_needs_beside_what_is_needed_is_told(quick: Path) -> None:
    """Five of eight tensors of a shard are needed: it stays, and the plan says what lies idle in it."""
    making.write_small(quick / "wide", {name: seed for seed, name in enumerate("abcdefgh")}, elements=3000)
    making.write_small(quick / "most", {name: seed for seed, name in enumerate("abcde")}, elements=3000)
    with Store.init(quick / "store") as store:
        store.import_path(quick / "wide", name="wide")
        store.import_path(quick / "most", name="most")
        store.drop("wide")
        gc(store)
        planned = store.planned_gc(store.plan_gc(grace_hours=0, keep_history_days=0)).plan
        assert (planned.freed_bytes, planned.written) == (0, 0)
        assert 3 * 12_000 <= planned.beside_bytes < 3 * 12_000 + 1_000
        assert any("that nothing needs, in shards" in str(line) for line in plan_lines(planned))


def test_history_is_kept_for_a_while(store: Store, place: Path) -> None:
    store.import_path(place / "two", name="runs/one")
    store.drop("runs/two")
    assert gc(store, history=30).unlinked == 0
    store.rollback("runs/one@1")
    assert making.restored(store, "runs/one", place / "out") == making.tree_of(place / "one")
    age(store, 31 * 86_400)
    gc(store, history=30)
    with Store.open(store.path) as fresh, pytest.raises(NotFound, match="gc has freed it") as gone:
        fresh.rollback("runs/one@2")
    assert gone.value.hint == "ckptfmt fsck"
    with pytest.raises(CkptfmtError) as caught:
        store.rollback("runs/one@2")
    assert caught.value.code in ("incomplete", "not-found")
    assert making.restored(store, "runs/one", place / "out2") == making.tree_of(place / "one")


def test_history_counts_from_when_it_was_superseded(store: Store, place: Path) -> None:
    """A checkpoint of last year that was dropped by mistake today can be brought back."""
    age(store, 365 * 86_400)
    store.drop("runs/two")
    gc(store, history=30)
    store.rollback("runs/two@1")
    assert making.restored(store, "runs/two", place / "out") == making.tree_of(place / "two")


def test_history_of_which_something_is_gone_stops_nothing(store: Store, place: Path) -> None:
    """A shorter history may have left the manifest and not the objects; or a shard was lost."""
    before = shards(store)
    making.write_small(place / "one", {"a": 1, "b": 9}, elements=3000)
    store.import_path(place / "one", name="runs/two")
    store.import_path(place / "one", name="runs/one")
    (lost,) = [name for name in before if making.noise(3, 100) in (Path(store.path) / "shards" / name).read_bytes()]
    (Path(store.path) / "shards" / lost).unlink()
    gc(store, history=30)
    assert making.restored(store, "runs/two", place / "out") == making.tree_of(place / "one")
    with pytest.raises(IncompleteStore):
        store.rollback("runs/two@1")


# The grace


def test_what_is_younger_than_the_grace_stays(store: Store) -> None:
    store.drop("runs/two")
    report = gc(store, grace=24)
    assert (report.unlinked, report.taken_out_bytes) == (0, 0)
    assert report.plan.young_bytes > 12_000


def test_two_runs_with_a_grace_between_them(store: Store, place: Path) -> None:
    store.drop("runs/two")
    age(store, 25 * 3600)
    before = used(store)
    first = gc(store, grace=24)
    assert first.freed_bytes == 0
    assert first.taken_out_bytes == first.plan.later_bytes > 12_000
    assert gc(store, grace=24).freed_bytes == 0
    age(store, 25 * 3600)
    planned = store.planned_gc(store.plan_gc(grace_hours=24, keep_history_days=0)).plan
    third = gc(store, grace=24)
    assert planned.freed_bytes == third.freed_bytes == first.taken_out_bytes
    assert used(store) == before - third.freed_bytes
    assert making.restored(store, "runs/one", place / "out") == making.tree_of(place / "one")


def test_what_lies_in_the_trash_can_be_read_and_comes_back_when_it_is_needed(store: Store, place: Path) -> None:
    store.drop("runs/two")
    age(store, 25 * 3600)
    gc(store, grace=24)
    assert not any(shard in shards(store) for shard in _trashed(store))
    assert making.restored(store, "runs/two@1", place / "out") == making.tree_of(place / "two")
    again = store.import_path(place / "two", name="runs/again")
    assert again.checkpoints[0].new_bytes < 1000  # Brought back, not written again.
    age(store, 25 * 3600)
    gc(store, grace=24)
    assert making.restored(store, "runs/again", place / "out2") == making.tree_of(place / "two")
    assert _trashed(store) == set()


def _files(store: Store, manifest: str, out: Path) -> dict[str, bytes]:
    """What a manifest gives back that no name says modes and times of."""
    return making.files_of(making.restored(store, manifest, out))


def _trashed(store: Store) -> set[str]:
    engine = open_store(store.path)
    return {value.key.removeprefix("shards/") for run in runs(engine.storage) for value in run.values}


def test_the_future_counts_as_young(store: Store) -> None:
    store.drop("runs/two")
    age(store, -10 * 86_400)
    assert gc(store).unlinked == 0


# Who holds what


def test_lineage_and_bases_of_what_is_named_stay(store: Store, place: Path) -> None:
    store.add_base("base", place / "base", keep="copy")
    store.import_path(place / "adapter", name="stage/1", base="base")
    making.write_adapter(place / "next", 2)
    store.import_path(place / "next", name="stage/2", base="base", parent="stage/1", how="stack")
    parent = store.log("stage/1").generations[0].target or ""
    store.drop("stage/1")
    gc(store)
    shutil.rmtree(place / "base")
    store.merge("stage/2", place / "merged", how="stack")
    assert _files(store, parent, place / "out") == making.files_of(making.tree_of(place / "adapter"))


def test_a_kept_base_stays_while_it_is_named(store: Store, place: Path) -> None:
    store.add_base("base", place / "base", keep="copy")
    gc(store)
    shutil.rmtree(place / "base")
    assert [row.kept for row in store.list_bases()] == [True]
    store.drop_base("base")
    freed = gc(store).freed_bytes
    assert freed > 1000


def test_a_writer_s_claim_holds_what_it_names(store: Store, place: Path) -> None:
    target = store.log("runs/two").generations[0].target or ""
    engine = open_store(store.path)
    with pinned(engine, target):
        store.drop("runs/two")
        gc(store)
        assert _files(store, target, place / "out") == making.files_of(making.tree_of(place / "two"))
    gc(store)
    with pytest.raises(NotFound):
        store.restore(target, place / "out2")


def test_a_claim_that_nobody_took_back_ends(store: Store, place: Path) -> None:
    engine = open_store(store.path)
    target = store.log("runs/two").generations[0].target or ""
    claim = pinned(engine, target)
    claim.__enter__()
    store.drop("runs/two")
    (Path(store.path) / "tmp" / f"1-{'0' * 32}").write_bytes(b"never finished")
    gc(store)
    assert len(making.files_below(Path(store.path) / "pins")) == 1
    assert len(making.files_below(Path(store.path) / "tmp")) == 1
    age(store, 25 * 3600)
    report = gc(store)
    assert [item.reason for item in report.plan.unfinished] == [
        "a write that was never finished",
        "a claim of a writer that is gone",
    ]
    assert making.files_below(Path(store.path) / "pins") == making.files_below(Path(store.path) / "tmp") == set()
    with pytest.raises(NotFound):
        store.restore(target, place / "out")


# What refuses


def test_nothing_is_freed_where_something_needed_is_missing(store: Store) -> None:
    store.drop("runs/two")
    for path in (Path(store.path) / "manifests").rglob("*.json"):
        if json.loads(path.read_bytes())["files"][1]["size"] and path.stem in _named(store):
            path.unlink()
    with pytest.raises(IncompleteStore, match="nothing was freed") as caught:
        gc(store)
    assert (caught.value.exit_code, caught.value.hint) == (3, "ckptfmt fsck --repair")


def _named(store: Store) -> set[str]:
    return {row.manifest for row in store.list_refs()}


def test_nothing_is_freed_where_an_object_is_missing(store: Store) -> None:
    lost = sorted(shards(store))[0]
    (Path(store.path) / "shards" / lost).unlink()
    before = making.files_below(store.path)
    with pytest.raises(IncompleteStore, match="in no shard"):
        gc(store)
    assert making.files_below(store.path) == before


def test_a_ref_that_cannot_be_read_may_name_anything(store: Store) -> None:
    path = Path(store.path) / "refs" / "runs,two" / "1.json"
    path.write_bytes(path.read_bytes().replace(b"import", b"implode"))
    before = making.files_below(store.path)
    with pytest.raises(IntegrityError, match="'runs/two'"):
        gc(store)
    assert making.files_below(store.path) == before


def test_a_shard_that_cannot_be_read_is_never_taken_out(store: Store) -> None:
    stray = Path(store.path) / "shards" / "ab" / ("ab" + "0" * 62 + ".safetensors")
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    store.drop("runs/two")
    assert gc(store).unlinked > 0
    assert stray.exists()


# Copies


def test_the_smaller_of_two_copies_stays(place: Path) -> None:
    making.write_small(place / "plain", {}, elements=1)
    (place / "plain" / "zeros.txt").write_bytes(b"0123456789" * 20_000)
    with Store.init(place / "store2") as store:
        store.import_path(place / "plain", name="plain", effort="fast")
        raw = _raw_copy(store)
        assert raw in shards(store)
        report = gc(store)
        assert report.freed_bytes > 200_000
        assert raw not in shards(store)
        assert making.restored(store, "plain", place / "out") == making.tree_of(place / "plain")


def _raw_copy(store: Store) -> str:
    """Another host's copy of every object, stored as it is."""
    engine = open_store(store.path)
    manifest = engine.manifest(next(iter(engine.manifest_ids())))
    objects = engine.objects()
    written: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        writer = ShardWriter(
            engine.storage,
            effort="fast",
            pool=pool,
            remaining=lambda: 0,
            written=lambda shard, size, items: written.append(shard),
        )
        for digest, length in objects_of(manifest).items():
            data = objects.read(digest, length)
            item = writer.begin(Incoming(length, digest=digest))
            item._choose = lambda head: None  # type: ignore[method-assign]
            for offset in range(0, length, 4 << 20):
                item.append(data[offset : offset + (4 << 20)])
            item.finish()
        writer.flush()
    return f"{written[0][:2]}/{written[0]}.safetensors"


def test_a_rotten_copy_does_not_displace_a_sound_one(place: Path) -> None:
    making.write_small(place / "plain", {}, elements=1)
    (place / "plain" / "zeros.txt").write_bytes(b"0123456789" * 20_000)
    with Store.init(place / "store2") as store:
        store.import_path(place / "plain", name="plain", effort="fast")
        small = Path(store.path) / "shards" / next(iter(shards(store)))
        raw = _raw_copy(store)
        data = bytearray(small.read_bytes())
        data[-3] ^= 1
        small.write_bytes(data)
        report = gc(store)
        assert report.problems
        assert raw in shards(store)
        assert making.restored(store, "plain", place / "out") == making.tree_of(place / "plain")


def test_a_damaged_shard_is_not_repacked(quick: Path, sparse: Store) -> None:
    for name in shards(sparse):
        path = Path(sparse.path) / "shards" / name
        data = bytearray(path.read_bytes())
        found = data.find(making.noise(0, 100))
        if found >= 0:
            data[found] ^= 1
            path.write_bytes(data)
    before = shards(sparse)
    report = gc(sparse)
    assert report.problems
    assert shards(sparse) == before


def test_a_shard_that_another_run_takes_out_while_this_one_plans(
    quick: Path, sparse: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gc_plan.read_shard_header
    run = Path(sparse.path) / "trash" / "another"
    run.mkdir(parents=True)

    def taken_out(storage: Readable, shard: str) -> tuple[ShardObject, ...]:
        key = shard_key(shard)
        (Path(sparse.path) / key).rename(run / key.replace("/", ","))
        return original(storage, shard)

    monkeypatch.setattr(gc_plan, "read_shard_header", taken_out)
    plan = sparse.plan_gc(grace_hours=0, keep_history_days=0, apply=True)
    monkeypatch.undo()
    assert plan.new_shards == ()
    sparse.gc(plan)
    assert making.restored(sparse, "narrow", quick / "out") == making.tree_of(quick / "narrow")


def test_a_run_that_is_taken_over_before_its_marker_is_durable(store: Store, place: Path) -> None:
    store.drop("runs/two")
    plan = store.plan_gc(grace_hours=0, keep_history_days=0, apply=True)

    class TakesOver:
        """Another gc without a grace, as quick as can be."""

        def before(self, call: str, arguments: tuple[object, ...]) -> None:
            return

        def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
            if call == "rename" and str(arguments[1]).endswith("/marker.json"):
                os.rename(os.path.dirname(str(arguments[1])), Path(store.path) / "trash" / "another")

    with durable.observed(TakesOver()):
        report = store.gc(plan)
    assert report.taken_out_bytes == 0
    assert gc(store).freed_bytes > 12_000
    assert making.restored(store, "runs/one", place / "out") == making.tree_of(place / "one")


def test_a_run_that_was_only_begun_is_its_own_for_a_day(store: Store) -> None:
    begun = Path(store.path) / "trash" / "begun"
    begun.mkdir(parents=True)
    gc(store)
    assert begun.exists()
    old = begun.stat().st_mtime_ns - 2 * DAY_NS
    os.utime(begun, ns=(old, old))
    gc(store)
    assert not begun.exists()


# Time


def test_ages_are_those_of_the_store_s_own_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is a year ahead takes nothing that is young."""
    store.drop("runs/two")
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 365 * DAY_NS)
    report = gc(store, grace=24, history=30)
    assert (report.unlinked, report.taken_out_bytes) == (0, 0)
