"""Publishing: what a dedup relied on is confirmed on the file system before a name is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from ckptfmt.api import Store
from ckptfmt.errors import BaseMismatch, CkptfmtError, Conflict, IncompleteStore
from ckptfmt.progress import SILENT
from ckptfmt.storage import durable
from ckptfmt.store import publish
from ckptfmt.store.bases import find_base, places_of
from ckptfmt.store.refs import draft
from ckptfmt.store.store import Store as Engine
from ckptfmt.store.store import open_store
from ckptfmt.transfer.bases import Source, add_base, keep_base, note_place
from tests.faults.seam import Abort, Failing, Recorder
from tests.store import making


@pytest.fixture
def sources(quick: Path) -> Path:
    making.write_small(quick / "sources" / "one", {"a": 1, "b": 2})
    making.write_small(quick / "sources" / "two", {"a": 1, "b": 2, "c": 3})
    making.write_base(quick / "sources" / "base")
    return quick / "sources"


def lose_shards(place: Path) -> None:
    for shard in (place / "shards").rglob("*.safetensors"):
        shard.unlink()


class WhenPublishing:
    """Does something just before the `at`-th put of a key below `prefix`."""

    def __init__(self, prefix: str, action: Callable[[], None], at: int = 0) -> None:
        self._prefix, self._action, self._left = prefix, action, at

    def before(self, call: str, arguments: tuple[object, ...]) -> None:
        if call in ("rename", "link") and f"/{self._prefix}" in str(arguments[1]):
            if self._left == 0:
                self._action()
            self._left -= 1

    def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
        return


def test_objects_that_vanish_between_dedup_and_publish_are_written_anew(quick: Path, sources: Path) -> None:
    place = quick / "store"
    with Store.init(place) as store:
        store.import_path(sources / "one", name="one")
        with durable.observed(WhenPublishing("manifests/", lambda: lose_shards(place))):
            store.import_path(sources / "two", name="two")
        assert making.restored(store, "two", quick / "out") == making.tree_of(sources / "two")
    with Store.open(place) as store:
        assert store.verify(("two",)).damaged == ()


def test_objects_that_another_host_removed_before_are_written_anew(quick: Path, sources: Path) -> None:
    """The catalog followed the store before the shard went."""
    place = quick / "store"
    with Store.init(place) as store:
        store.import_path(sources / "one", name="one")
        lose_shards(place)
        store.import_path(sources / "two", name="two")
        assert making.restored(store, "two", quick / "out") == making.tree_of(sources / "two")


def test_a_shard_that_was_cut_off_since_is_not_relied_on(quick: Path, sources: Path) -> None:
    place = quick / "store"
    with Store.init(place) as store:
        store.import_path(sources / "one", name="one")
        for shard in (place / "shards").rglob("*.safetensors"):
            shard.write_bytes(shard.read_bytes()[:-8])
        store.import_path(sources / "two", name="two")
        assert making.restored(store, "two", quick / "out") == making.tree_of(sources / "two")


def test_objects_that_vanish_again_and_again(quick: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = quick / "store"
    with Store.init(place) as store:
        settled = publish._look

        def look(engine: Engine, *arguments: object) -> object:
            lose_shards(place)
            return settled(engine, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(publish, "_look", look)
        with pytest.raises(IncompleteStore) as caught:
            store.import_path(sources / "one", name="one")
        assert caught.value.exit_code == 3
        assert making.standing(store) == set()
    assert making.files_below(place / "pins") == set()
    assert making.files_below(place / "refs") == set()


def test_a_kept_base_is_confirmed_too(quick: Path, sources: Path) -> None:
    """`base add --keep copy` and `base keep` rely on deduplication like an import."""
    place = quick / "store"
    changes: dict[str, Callable[[Engine], object]] = {
        "copy": lambda engine: add_base(engine, "copy", Source(str(sources / "base")), keep="copy", progress=SILENT),
        "base": lambda engine: keep_base(engine, find_base(engine, "base"), progress=SILENT),
    }
    for name, change in changes.items():
        engine = open_store(str(place)) if place.exists() else Store.init(place)._engine
        Store(engine).import_path(sources / "base", name="same")
        add_base(engine, "base", Source(str(sources / "base")), keep="reference", progress=SILENT)
        lose_shards(place)  # The catalog of this handle still knows them.
        change(engine)
        engine.close()
        fresh = open_store(str(place))
        record = find_base(fresh, name)
        assert record.generation.keep == "copy"
        held = publish.missing_objects(fresh, publish.objects_of(record.record), None)
        assert held == {}
        fresh.close()


def test_a_base_that_means_another_record_meanwhile_is_not_turned_back(quick: Path, sources: Path) -> None:
    """Keeping or finding the files of an old record says nothing of the new one."""
    with Store.init(quick / "store") as store:
        store.add_base("base", sources / "base")
        engine = store._engine
        old = find_base(engine, "base")
        other = making.write_base(quick / "other", seed=50)
        store.add_base("base", other)
        new = find_base(engine, "base")
        assert new.digest != old.digest
        for change in (
            lambda: keep_base(engine, old, progress=SILENT),
            lambda: note_place(engine, old, str(sources / "base")),
        ):
            with pytest.raises(Conflict) as caught:
                change()
            assert caught.value.exit_code == 11
            assert find_base(engine, "base").digest == new.digest
        store.drop_base("base")
        with pytest.raises(Conflict):
            note_place(engine, new, str(other))
        with pytest.raises(CkptfmtError):
            find_base(engine, "base")


def test_noting_a_place_keeps_what_was_kept_meanwhile(quick: Path, sources: Path) -> None:
    with Store.init(quick / "store") as store:
        store.add_base("base", sources / "base")
        engine = store._engine
        before = find_base(engine, "base")
        store.keep_base("base")
        note_place(engine, before, "/elsewhere")
        after = find_base(engine, "base").generation
        assert (after.keep, after.origin) == ("copy", "/elsewhere")


def test_where_a_base_lies_is_found_past_a_damaged_generation(quick: Path, sources: Path) -> None:
    """Old generations only say where its files were seen: losing one costs no checkpoint."""
    with Store.init(quick / "store") as store:
        store.add_base("base", sources / "base")
        making.write_adapter(quick / "adapter", 1)
        store.import_path(quick / "adapter", name="adapter", base="base")
        engine = store._engine
        note_place(engine, find_base(engine, "base"), "/elsewhere")
        record = find_base(engine, "base").digest
        (quick / "store" / "refs" / "bases,base" / "1.json").write_bytes(b"rotten")
        assert places_of(engine, record) == ["/elsewhere"]
        assert making.restored(store, "adapter", quick / "out") == making.tree_of(quick / "adapter")


def test_a_base_that_differs_is_not_kept(quick: Path, sources: Path) -> None:
    with Store.init(quick / "store") as store:
        store.add_base("base", sources / "base")
        path = sources / "base" / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(BaseMismatch):
            store.keep_base("base")
        assert find_base(store._engine, "base").generation.keep == "reference"


def test_the_order_of_writes(quick: Path, sources: Path) -> None:
    """Shards, manifest, pin, ref, and the pin goes; each file is whole before it has its name."""
    place = quick / "store"
    with Store.init(place) as store:
        recorder = Recorder()
        with durable.observed(recorder):
            store.import_path(sources / "one", name="one")
    named = [event for event in recorder.events if event.call in ("rename", "link")]
    parts = [event.other.removeprefix(f"{place}/").partition("/")[0] for event in named]
    assert parts == ["shards", "manifests", "pins", "refs"]
    last = recorder.events[-2:]
    assert [(event.call, event.path.removeprefix(f"{place}/").partition("/")[0]) for event in last] == [
        ("unlink", "pins"),
        ("fsync_directory", "pins"),
    ]
    for event in named:
        about = [index for index, other in enumerate(recorder.events) if other.path == event.path]
        calls = [recorder.events[index].call for index in about]
        assert calls[: calls.index(event.call) + 1][-2:] == ["fsync", event.call]
        after = recorder.events[recorder.events.index(event) + 1 :]
        assert any(other.call == "fsync_directory" and event.other.startswith(other.path + "/") for other in after[:2])


def test_a_pin_stands_while_a_manifest_has_no_name(quick: Path, sources: Path) -> None:
    place = quick / "store"
    seen: list[set[str]] = []
    with Store.init(place) as store:
        watch = WhenPublishing("refs/", lambda: seen.append(making.files_below(place / "pins")))
        with durable.observed(watch):
            done = store.import_path(sources / "one", name="one").checkpoints[0]
    ((pin,),) = seen
    assert pin.startswith(done.manifest)
    assert making.files_below(place / "pins") == set()


def test_a_damaged_manifest_is_not_taken_for_the_same(quick: Path, sources: Path) -> None:
    """One of the right length and with a flipped bit: importing the same again mends it."""
    place = quick / "store"
    with Store.init(place) as store:
        store.import_path(sources / "one", name="one")
        store.add_base("base", sources / "base")
    for document in [*(place / "manifests").rglob("*.json"), *(place / "bases").rglob("*.json")]:
        data = bytearray(document.read_bytes())
        data[len(data) // 2] ^= 1
        document.write_bytes(data)
    with Store.open(place) as store:
        with pytest.raises(CkptfmtError):
            store.restore("one", quick / "out")
        store.import_path(sources / "one", name="other")
        store.add_base("other", sources / "base")
    with Store.open(place) as store:
        assert making.restored(store, "one", quick / "out") == making.tree_of(sources / "one")
        assert {base.name for base in store.list_bases()} == {"base", "other"}


def test_a_name_that_stands_already_is_given_once(quick: Path, sources: Path) -> None:
    with Store.init(quick / "store") as store:
        store.import_path(sources / "one", name="one")
        engine = store._engine
        manifest = engine.manifest(engine.refs.current("one").target or "")
        digest, generation = publish.publish(
            engine, manifest, "one", lambda target, newest: None, outside=None, again=lambda vanished: None
        )
        assert generation is not None
        assert (digest, generation.number) == (generation.target, 1)
        drafted = structs.replace(draft(digest, "import"), message="again")
        _, generation = publish.publish(
            engine, manifest, "one", lambda target, newest: drafted, outside=None, again=lambda vanished: None
        )
        assert generation is not None
        assert (generation.number, generation.previous) == (2, 1)


def test_a_base_whose_bytes_are_there_already_is_kept_by_name(quick: Path, sources: Path) -> None:
    """What an import, or a `base keep` that was stopped, brought in is not what the ref says: gc goes by the ref."""
    with Store.init(quick / "store") as store:
        store.add_base("base", sources / "base")
        store.import_path(sources / "base", name="same")
        store.keep_base("base")
        assert find_base(store._engine, "base").generation.keep == "copy"


def test_a_rename_that_was_stopped_between_its_steps_goes_on(quick: Path, sources: Path) -> None:
    with Store.init(quick / "store") as store:
        store.import_path(sources / "one", name="old")
        with durable.observed(Failing(1, Abort, only=lambda call: call == "link")), pytest.raises(Abort):
            store.rename("old", "new")
        assert making.standing(store) == {"old", "new"}
        store.rename("old", "new")
        assert making.standing(store) == {"new"}
