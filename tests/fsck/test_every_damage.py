"""Each damage: named, with those it harms; repaired from what is known elsewhere; what is replaced is set aside."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from tests.fsck.damaging import World, aside, everything, flip, header_end, kinds, looked
from tests.store import making


def flip_frame(world: World) -> Path:
    shard = world.shard_of("full/model")
    flip(shard, len(shard.read_bytes()) - 9)
    return shard


def truncate(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:left])
    return path


def zero_header(shard: Path) -> Path:
    data = shard.read_bytes()
    shard.write_bytes(bytes(200) + data[200:])
    return shard


EVERYONE = {"bases/tiny", "full/model", "runs/stage-1", "runs/stage-2"}

DAMAGES: dict[str, tuple[Callable[[World], Path], dict[str, set[str]]]] = {
    "a bit of a frame": (flip_frame, {"object-damaged": {"full/model"}}),
    "a bit of a header": (
        lambda world: (flip(world.shard_of("full/model"), 300), world.shard_of("full/model"))[1],
        {"shard-header": {"full/model"}},
    ),
    "a header overwritten": (
        lambda world: zero_header(world.shard_of("full/model")),
        {"shard-header": {"full/model"}},
    ),
    "a shard's length": (
        lambda world: (flip(world.shard_of("full/model"), 1), world.shard_of("full/model"))[1],
        {"shard-header": {"full/model"}},
    ),
    "a shard cut short": (
        lambda world: truncate(world.shard_of("full/model"), header_end(world.shard_of("full/model")) + 8),
        {"shard-length": {"full/model"}},
    ),
    "a shard with more": (
        lambda world: (p := world.shard_of("full/model"), p.write_bytes(p.read_bytes() + b"\0more"))[0],
        {"shard-length": {"full/model"}},
    ),
    "an empty shard": (
        lambda world: truncate(world.shard_of("full/model"), 0),
        {"shard-header": {"full/model"}},
    ),
    "a shard gone": (
        lambda world: (p := world.shard_of("full/model"), p.unlink())[0],
        {"objects-missing": {"full/model"}},
    ),
    "a bit of a manifest": (
        lambda world: (p := world.manifest("full/model"), flip(p, 50))[0],
        {"manifest-damaged": {"full/model"}},
    ),
    "a manifest cut short": (
        lambda world: truncate(world.manifest("full/model"), 700),
        {"manifest-damaged": {"full/model"}},
    ),
    "a manifest gone": (
        lambda world: (p := world.manifest("full/model"), p.unlink())[0],
        {"manifest-missing": {"full/model"}},
    ),
    "a parent's manifest cut short": (
        lambda world: truncate(world.manifest("runs/stage-1"), len(world.manifest("runs/stage-1").read_bytes()) - 3),
        {"lineage": {"runs/stage-1", "runs/stage-2"}},
    ),
    "a base record cut short": (
        lambda world: truncate(world.record(), 100),
        {
            "record-damaged": {"bases/tiny", "runs/stage-1", "runs/stage-2"},
            "objects-missing": {"runs/stage-2"},
        },
    ),
    "a base record gone": (
        lambda world: (p := world.record(), p.unlink())[0],
        {
            "record-missing": {"bases/tiny", "runs/stage-1", "runs/stage-2"},
            "objects-missing": {"runs/stage-2"},
        },
    ),
    "a bit of the current generation": (
        lambda world: (p := world.generation("full/model", 3), flip(p, 100))[0],
        {"generation-damaged": {"full/model"}},
    ),
    "the current generation torn": (
        lambda world: truncate(world.generation("full/model", 3), 180),
        {"generation-damaged": {"full/model"}},
    ),
    "the current generation empty, on a host that knew it": (
        lambda world: truncate(world.generation("full/model", 3), 0),
        {"generation-damaged": {"full/model"}},
    ),
    "a bit of an older generation": (
        lambda world: (p := world.generation("full/model", 1), flip(p, 100))[0],
        {"generation-damaged": set()},
    ),
    "an older generation empty": (
        lambda world: truncate(world.generation("full/model", 1), 0),
        {"generation-damaged": set()},
    ),
    "an older generation gone": (
        lambda world: (p := world.generation("full/model", 2), p.unlink())[0],
        {"generation-gone": set()},
    ),
    "a generation that is a copy of another": (
        lambda world: Path(shutil.copy(world.generation("full/model", 2), world.generation("full/model", 3))),
        {"generation-damaged": {"full/model"}},
    ),
    "a bit of store.json": (
        lambda world: (p := world.store / "store.json", flip(p, 50))[0],
        {"store-document": EVERYONE},
    ),
    "store.json torn": (
        lambda world: truncate(world.store / "store.json", 60),
        {"store-document": EVERYONE},
    ),
    "store.json gone": (
        lambda world: (p := world.store / "store.json", p.unlink())[0],
        {"store-document": EVERYONE},
    ),
}


@pytest.fixture
def old_refs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refs are old enough to be cached at once."""
    monkeypatch.setattr("ckptfmt.store.ref_cache._YOUNG_NS", -(10**15))


@pytest.mark.parametrize("case", DAMAGES)
def test_named_and_repaired(case: str, old_refs: None, world: World) -> None:
    with Store.open(world.store) as store:
        store.list_refs()  # This host knows shards and refs as they are.
    damage, expected = DAMAGES[case]
    before = everything(world.store)
    path = damage(world)
    damaged = path.read_bytes() if path.exists() else None
    untouched = everything(world.store)
    found = looked(world.store)
    assert everything(world.store) == untouched, "looking changes nothing"
    assert kinds(found.problems) == expected
    assert all(each.hint for each in found.problems)
    report = looked(world.store, repair=True)
    assert report.problems == ()
    assert report.repaired
    if damaged is not None and everything(world.store).get(path.relative_to(world.store).as_posix()) != damaged:
        assert damaged in aside(world.store).values(), "what was replaced is kept"
    world.check_sound()
    assert looked(world.store, repair=True).repaired == (), "nothing is left to do"
    gone = before.keys() - everything(world.store).keys()
    assert all(key.startswith("shards/") or "," in key for key in gone), "no document or shard that was sound is gone"
    with Store.open(world.store) as store:
        assert store.log("full/model").generations


def test_labels_and_attributes_survive_a_torn_generation(old_refs: None, world: World) -> None:
    with Store.open(world.store) as store:
        store.list_refs()
    truncate(world.generation("full/model", 3), 0)
    looked(world.store, repair=True)
    with Store.open(world.store) as store:
        newest = store.log("full/model").generations[0]
    assert (newest.number, newest.verb, newest.labels) == (4, "fsck", ("best",))
    assert "generation 3 cannot be read" in (newest.message or "")
    world.check_restores()


def test_what_nothing_tells_is_not_guessed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No older generation is taken in the place of one that cannot be read; a person decides, and is told how."""
    world.forget(monkeypatch)
    truncate(world.generation("full/model", 3), 20)
    report = looked(world.store, repair=True)
    (problem,) = report.problems
    assert (problem.kind, problem.harms) == ("generation-damaged", ("full/model",))
    assert problem.hint and problem.hint.startswith("ckptfmt rollback full/model@2")
    with Store.open(world.store) as store:
        with pytest.raises(CkptfmtError):
            store.show("full/model")
        store.rollback("full/model@2")
    assert kinds(looked(world.store).problems) == {"generation-damaged": set()}
    assert looked(world.store, repair=True).problems == ()
    world.check_restores()


def test_a_torn_target_is_no_target(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is no manifest of the store is not believed."""
    world.forget(monkeypatch)
    path = world.generation("full/model", 3)
    text = path.read_text()
    place = text.index('"target":"') + len('"target":"')
    path.write_text(text[:place] + "0" * 64 + text[place + 64 : place + 80])
    assert kinds(looked(world.store, repair=True).problems) == {"generation-damaged": {"full/model"}}


class TestWithoutOriginals:
    """Only the store is left."""

    @pytest.fixture
    def alone(self, world: World) -> World:
        world.without_originals()
        return world

    def test_a_header_from_this_hosts_catalog(self, alone: World) -> None:
        for shard in alone.shards():
            zero_header(shard)
        report = looked(alone.store, repair=True)
        assert report.problems == ()
        assert {each.kind for each in report.repaired} == {"shard-header"}
        alone.check_sound()

    def test_a_flipped_bit_on_a_host_that_knows_nothing(self, alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
        alone.forget(monkeypatch)
        for shard in alone.shards():
            flip(shard, 100)
        for path in (alone.manifest("runs/stage-1"), alone.record()):
            flip(path, 77)
        assert looked(alone.store, repair=True).problems == ()
        alone.check_sound()

    def test_what_is_lost_says_what_to_do(self, alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
        alone.forget(monkeypatch)
        shard = flip_frame(alone)
        report = looked(alone.store, repair=True)
        (problem,) = report.problems
        assert (problem.kind, problem.harms) == ("object-damaged", ("full/model",))
        assert problem.hint and "--from DIR" in problem.hint and "full/model" in problem.hint
        assert report.repaired == () and shard.exists(), "what can still be read of it is left where it is"
        assert aside(alone.store) == {}
        alone.check_restores("full/model")
        assert looked(alone.store, repair=True, places=(alone.root / "away" / "second",)).problems == ()
        alone.check_sound()

    @pytest.mark.parametrize("case", ["a shard gone", "a manifest gone", "a bit of a frame", "a shard cut short"])
    def test_taken_from_another_store(self, case: str, alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(alone.store, alone.root / "backup")
        alone.forget(monkeypatch)
        DAMAGES[case][0](alone)
        assert looked(alone.store, repair=True).problems
        assert looked(alone.store, repair=True, places=(alone.root / "backup",)).problems == ()
        alone.check_sound()

    def test_sound_objects_of_a_shard_that_is_cut_short_are_saved(self, alone: World) -> None:
        shard = alone.shard_of("full/model")
        truncate(shard, shard.stat().st_size - 1)
        first = looked(alone.store, repair=True)
        assert kinds(first.problems) == {"shard-length": {"full/model"}}
        before = everything(alone.store)
        assert len(alone.shards()) == 7, "one more, with what is sound of it"
        again = looked(alone.store, repair=True)
        assert (again.problems, again.repaired) == (first.problems, ())
        assert everything(alone.store) == before, "what was saved once is not saved again"


def test_a_shared_object_is_found_in_any_checkpoint_that_has_it(world: World) -> None:
    shutil.move(world.source("second"), world.root / "elsewhere")
    for shard in world.shards():
        data = shard.read_bytes()
        for offset in range(header_end(shard), len(data), 64):
            data = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
        shard.write_bytes(data)
    report = looked(world.store, repair=True)
    assert kinds(report.problems).keys() <= {"object-damaged", "objects-missing"}
    assert kinds(report.problems)["object-damaged"] == {"full/model"}
    world.check_restores("full/model")
    shutil.move(world.root / "elsewhere", world.source("second"))
    assert looked(world.store, repair=True).problems == ()
    world.check_sound()


def test_originals_that_changed_are_not_believed(world: World) -> None:
    flip_frame(world)
    for name in ("first", "second"):
        model = world.source(name) / "model.safetensors"
        flip(model, model.stat().st_size - 9)
        flip(model, model.stat().st_size - 300)
        flip(model, model.stat().st_size - 600)
    report = looked(world.store, repair=True)
    assert kinds(report.problems) == {"object-damaged": {"full/model"}}
    assert report.repaired == ()


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_a_bases_files(how: str, world: World) -> None:
    weights = world.source("base") / "model.safetensors"
    whole = weights.read_bytes()
    if how == "changed":
        flip(weights, len(whole) - 3)
        flip(weights, len(whole) - 600)
    elif how == "cut":
        truncate(weights, len(whole) // 2)
    else:
        weights.unlink()
    world.without_originals()
    found = looked(world.store)
    assert kinds(found.problems) == {"base-files": {"runs/stage-2"}}
    (problem,) = found.problems
    assert problem.hint and "base verify tiny --path" in problem.hint
    left = looked(world.store, repair=True)
    assert (left.problems, left.repaired) == (found.problems, ())
    (world.root / "found").mkdir()
    (world.root / "found" / "model.safetensors").write_bytes(whole)
    shutil.copy2(world.source("base") / "config.json", world.root / "found")
    with Store.open(world.store) as store:
        store.verify_base("tiny", path=world.root / "found")
    assert looked(world.store).problems == ()


def test_a_new_shard_that_has_the_name_of_the_damaged_one(world: World) -> None:
    """One object, stored as it is: taken in again, it gives the very same shard, which stays."""
    small = min(world.shards(), key=lambda shard: shard.stat().st_size)
    whole = small.read_bytes()
    flip(small, len(whole) - 1)
    damaged = small.read_bytes()
    assert looked(world.store, repair=True).problems == ()
    assert small.read_bytes() == whole
    assert damaged in aside(world.store).values()
    world.check_sound()


class TestTrash:
    """What gc took out and a ref stands for all the same."""

    def take_out(self, world: World, path: Path) -> None:
        run = world.store / "trash" / "run-1"
        run.mkdir(parents=True, exist_ok=True)
        (run / "marker.json").write_text("{}")
        path.rename(run / path.relative_to(world.store).as_posix().replace("/", ","))

    @pytest.mark.parametrize("what", ["shard", "manifest", "record"])
    def test_linked_back(self, what: str, world: World) -> None:
        path = {
            "shard": world.shard_of("full/model"),
            "manifest": world.manifest("full/model"),
            "record": world.record(),
        }[what]
        self.take_out(world, path)
        assert kinds(looked(world.store).problems).keys() == {"trashed"}
        report = looked(world.store, repair=True)
        assert report.problems == () and {each.kind for each in report.repaired} == {"trashed"}
        assert path.exists()
        shutil.rmtree(world.store / "trash")
        world.check_sound()

    def test_a_sound_copy_in_the_trash_takes_the_place_of_a_damaged_one(self, world: World) -> None:
        for path in (world.shard_of("full/model"), world.manifest("full/model")):
            data = path.read_bytes()
            self.take_out(world, path)
            path.write_bytes(data[:30])
        world.without_originals()
        assert looked(world.store, repair=True).problems == ()
        shutil.rmtree(world.store / "trash")
        world.check_sound()


def test_pins(world: World) -> None:
    digest = world.manifest("full/model").stem
    pins = world.store / "pins"
    pins.mkdir(exist_ok=True)
    young, old = pins / f"{digest}-1-{'a' * 32}.json", pins / f"{digest}-1-{'b' * 32}.json"
    for path in (young, old):
        path.write_text("torn")
    os.utime(old, (1, 1))
    found = looked(world.store)
    told = {world.store / each.path: (each.kind, each.hint is not None) for each in found.problems}
    assert told == {young: ("pin-damaged", False), old: ("pin-damaged", True)}
    report = looked(world.store, repair=True)
    assert not old.exists() and young.exists(), "a writer may be at work"
    assert [each.kind for each in report.problems] == ["pin-damaged"]


def test_a_catalog_that_lies_is_thrown_away(world: World) -> None:
    (catalog,) = (world.root / "cache").glob("catalog-*.sqlite")
    with sqlite3.connect(catalog) as connection:
        connection.execute("UPDATE objects SET begin = begin + 8")
    connection.close()
    assert kinds(looked(world.store).problems) == {"catalog": set()}
    report = looked(world.store, repair=True)
    assert report.problems == () and [each.kind for each in report.repaired] == ["catalog"]
    world.check_sound()


def test_notes_are_no_problems(world: World) -> None:
    (world.store / "tmp").mkdir(exist_ok=True)
    leftover = world.store / "tmp" / f"12-{'c' * 32}"
    leftover.write_bytes(b"half")
    os.utime(leftover, (1, 1))
    for path in ("shards/ab/.nfs0001", "refs/full,model/notes.txt", "refs/.DS_Store", "manifests/x.json"):
        (world.store / path).parent.mkdir(exist_ok=True)
        (world.store / path).write_text("?")
    with Store.open(world.store) as store:
        store.import_path(making.write_small(world.root / "small", {"z": 1}), name="Full/Model")
        store.import_path(making.write_small(world.root / "small", {"z": 2}), name="gone")
    shutil.rmtree(world.store / "refs" / "gone")
    report = looked(world.store)
    assert report.problems == ()
    assert {each.kind for each in report.notes} == {"unfinished", "stray", "names-fold", "unnamed"}
    before = everything(world.store)
    assert looked(world.store, repair=True).repaired == ()
    assert everything(world.store) == before, "files of others are left alone"


def test_quick_reads_no_frames(world: World) -> None:
    flip_frame(world)
    assert looked(world.store, data=False).problems == ()
    shard = world.shard_of("full/model")
    truncate(shard, header_end(shard) + 8)
    assert kinds(looked(world.store, data=False).problems) == {"shard-length": {"full/model"}}


def test_damage_that_harms_nobody(world: World) -> None:
    """A damaged copy of an object of which another is sound, and one that no ref needs."""
    with Store.open(world.store) as store:
        store.import_path(making.write_small(world.root / "small", {"z": 1}), name="gone")
        engine = store._engine
        manifest = engine.manifest(store.show("gone").id)
        (extent,) = [each.digest for file in manifest.files for each in file.extents]
        place = engine.catalog().find(extent)[0]
        store.drop("gone")
    path = world.store / "shards" / place.shard[:2] / f"{place.shard}.safetensors"
    flip(path, place.begin)
    (problem,) = looked(world.store).problems
    assert (problem.kind, problem.harms) == ("object-damaged", ("gone@1",))
    report = looked(world.store, repair=True)
    assert report.problems == () and path.name in {name.split(",")[-1] for name in aside(world.store)}
    world.check_sound()
