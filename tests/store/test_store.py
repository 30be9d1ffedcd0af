"""Opening stores, naming checkpoints, and that looking writes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.digest import checksum_of, digest_of
from ckptfmt.errors import CkptfmtError, Conflict, InvalidInput, NotFound
from ckptfmt.format import documents
from ckptfmt.format.manifest import objects_of
from ckptfmt.format.refs import StoreDocument
from ckptfmt.format.shard import ShardObject, Stored, build_header
from ckptfmt.storage import durable
from ckptfmt.store.shards import shard_key
from ckptfmt.store.store import init_store, open_store
from tests.faults.seam import Counter, in_child
from tests.store import making


@pytest.fixture
def place(quick: Path) -> Path:
    making.write_small(quick / "one", {"a": 1, "b": 2})
    making.write_small(quick / "two", {"a": 1, "b": 3})
    making.write_base(quick / "base")
    making.write_adapter(quick / "adapter", 1)
    with Store.init(quick / "store") as store:
        store.import_path(quick / "one", name="runs/one")
        store.import_path(quick / "two", name="runs/two")
        store.add_base("base", quick / "base")
        store.import_path(quick / "adapter", name="runs/adapter", base="base")
    return quick / "store"


def code_of(action: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(CkptfmtError) as caught:
        action()
    return caught.value.code, caught.value.exit_code


# Making


def test_a_store_is_made_once(quick: Path) -> None:
    store = init_store(str(quick / "deep" / "er" / "store"))
    document = json.loads((quick / "deep" / "er" / "store" / "store.json").read_bytes())
    assert document["store_id"] == store.document.store_id
    assert code_of(lambda: init_store(str(quick / "deep" / "er" / "store"))) == ("store-exists", 1)
    (quick / "empty").mkdir()
    init_store(str(quick / "empty"))
    assert open_store(str(quick / "empty")).document.store_id != store.document.store_id


def test_no_store_is_made_over_something_else(quick: Path) -> None:
    (quick / "file").write_text("")
    (quick / "full").mkdir()
    (quick / "full" / "x").write_text("")
    (quick / "dangling").symlink_to("nowhere")
    for name in ("file", "full", "dangling"):
        assert code_of(lambda n=name: init_store(str(quick / n))) == ("target-exists", 1)


def test_somebody_elses_tmp_is_not_taken_over(quick: Path) -> None:
    """What lies in `tmp` is swept one day: only what a stopped `init` leaves may be there already."""
    (quick / "mine" / "tmp").mkdir(parents=True)
    (quick / "mine" / "tmp" / "thesis.txt").write_text("")
    assert code_of(lambda: init_store(str(quick / "mine"))) == ("target-exists", 1)
    (quick / "stopped" / "tmp").mkdir(parents=True)
    (quick / "stopped" / "tmp" / durable.unique_name()).write_text("")
    init_store(str(quick / "stopped"))


# Opening


def test_no_store_there(quick: Path) -> None:
    (quick / "empty").mkdir()
    (quick / "file").write_text("")
    for name in ("missing", "empty", "file"):
        assert code_of(lambda n=name: open_store(str(quick / n))) == ("no-store", 10)


def test_a_store_of_a_newer_version(place: Path) -> None:
    document = StoreDocument(version=2, store_id="0" * 32, hash="blake3-256", created="2030-01-01T00:00:00Z")
    (place / "store.json").write_bytes(documents.seal(document))
    before = making.files_below(place)
    assert code_of(lambda: open_store(str(place))) == ("unsupported-version", 1)
    assert making.files_below(place) == before


def test_a_store_of_a_newer_version_with_fields_we_do_not_know(place: Path) -> None:
    class Newer(StoreDocument, frozen=True, forbid_unknown_fields=True, tag_field="format", tag="ckptfmt/store"):
        region: str = "eu"

    newer = Newer(version=7, store_id="0" * 32, hash="blake3-256", created="x")
    (place / "store.json").write_bytes(documents.seal(newer))
    assert code_of(lambda: open_store(str(place))) == ("unsupported-version", 1)


@pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 300, b"[" * 100_000])
def test_a_damaged_store_document(data: bytes, place: Path) -> None:
    (place / "store.json").write_bytes(data)
    assert code_of(lambda: open_store(str(place))) == ("damaged", 3)


def test_a_manifest_of_a_newer_version_is_named_so(place: Path) -> None:
    with Store.open(place) as store:
        engine = store._engine
        generation = engine.refs.current("runs/one")
        manifest = engine.manifest(generation.target or "")
        data = documents.encode(manifest).replace(b'"version":1', b'"version":2')
        digest = digest_of(data)
        engine.storage.put(f"manifests/{digest[:2]}/{digest}.json", data)
        assert code_of(lambda: engine.manifest(digest)) == ("unsupported-version", 1)


# Naming


def test_a_checkpoint_is_named_by_ref_then_generation_then_id(place: Path, quick: Path) -> None:
    with Store.open(place) as store:
        engine = store._engine
        one = engine.refs.current("runs/one").target or ""
        two = engine.refs.current("runs/two").target or ""
        assert engine.resolve("runs/one")[0] == one
        assert engine.resolve("runs/one@1")[0] == one
        assert engine.resolve(one) == (one, None)
        assert engine.resolve(one[:8]) == (one, None)
        store.import_path(quick / "two", name=one[:8])  # A ref that looks like the beginning of an id is a ref.
        assert engine.resolve(one[:8])[0] == two
        store.drop(one[:8])
        assert engine.resolve(one[:8]) == (one, None)
        assert code_of(lambda: engine.resolve(one[:7])) == ("not-found", 1)
        assert code_of(lambda: engine.resolve("f" * 64)) == ("not-found", 1)
        assert code_of(lambda: engine.resolve("runs/one@2")) == ("not-found", 1)
        assert code_of(lambda: engine.resolve("runs/one@x")) == ("ref-name", 2)
        assert code_of(lambda: engine.resolve("runs/one@")) == ("ref-name", 2)
        assert code_of(lambda: engine.resolve(f"{one[:8]}@2")) == ("not-found", 1)
        assert code_of(lambda: engine.resolve("no/such")) == ("not-found", 1)
        assert code_of(lambda: engine.resolve("../one")) == ("ref-name", 2)


def test_a_prefix_of_two_ids(place: Path) -> None:
    with Store.open(place) as store:
        engine = store._engine
        for tail in ("1" * 54, "2" * 54):
            engine.storage.put(f"manifests/ab/{'abcdef0123' + tail}.json", b"{}")
        assert code_of(lambda: engine.resolve("abcdef01")) == ("ambiguous", 2)
        assert engine.resolve("abcdef01231")[0] == "abcdef0123" + "1" * 54
        assert len(list(engine.manifest_ids())) == 5


def test_a_base_is_no_checkpoint(place: Path) -> None:
    """`bases/x` names a base record: none of the verbs takes it for a manifest."""
    with Store.open(place) as store:
        for verb in (store.drop, store.show, store.pin, lambda ref: store.rename(ref, "x")):
            with pytest.raises(CkptfmtError):
                verb("bases/base")  # type: ignore[operator]
        with pytest.raises(InvalidInput):
            store.rename("runs/one", "bases/one")


def test_a_document_that_lies_elsewhere_is_damaged(place: Path) -> None:
    with Store.open(place) as store:
        engine = store._engine
        one, two = (engine.refs.current(f"runs/{name}").target or "" for name in ("one", "two"))
        os.replace(place / f"manifests/{one[:2]}/{one}.json", place / f"manifests/{two[:2]}/{two}.json")
        assert code_of(lambda: engine.manifest(two)) == ("damaged", 3)
        assert code_of(lambda: engine.manifest(one)) == ("not-found", 1)


# Looking


LOOKING: list[Callable[[Store, Path], object]] = [
    lambda store, _: store.list_refs(),
    lambda store, _: store.show("runs/one"),
    lambda store, _: store.log("runs/one"),
    lambda store, _: store.stats(),
    lambda store, _: store.verify(),
    lambda store, _: store.list_bases(),
    lambda store, _: store.verify_base("base", full=True),
    lambda store, _: store.complete("runs"),
    lambda store, out: store.restore("runs/adapter", out),
]


def test_looking_writes_nothing_into_the_store(place: Path, quick: Path) -> None:
    before = making.tree_of(place)
    with Store.open(place) as store:
        for index, look in enumerate(LOOKING):
            counter = Counter()
            with durable.observed(counter):
                look(store, quick / f"out-{index}")
            assert not counter.calls or index == len(LOOKING) - 1
    assert making.tree_of(place) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_store_that_may_only_be_read(place: Path, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every looking verb works; what would write says `read-only`, and changes nothing."""
    quick.chmod(0o755)
    (quick / "theirs").mkdir()
    (quick / "theirs").chmod(0o777)
    before = making.tree_of(place)

    def as_nobody() -> None:
        os.setuid(65534)
        os.environ["CKPTFMT_CACHE"] = str(quick / "theirs" / "cache")
        with Store.open(place) as store:
            for index, look in enumerate(LOOKING):
                look(store, quick / "theirs" / f"out-{index}")
            for write in (
                lambda: store.import_path(quick / "one", name="new"),
                lambda: store.drop("runs/one"),
                lambda: store.tag("runs/one", ("x",)),
                lambda: store.add_base("new", quick / "base", keep="copy"),
            ):
                assert code_of(write) == ("read-only", 1)

    assert in_child(as_nobody) == 0
    assert making.tree_of(place) == before


# Restoring


def test_a_target_that_is_taken(place: Path, quick: Path) -> None:
    with Store.open(place) as store:
        (quick / "full").mkdir()
        (quick / "full" / "x").write_text("mine")
        (quick / "file").write_text("mine")
        (quick / "link").symlink_to("empty")
        (quick / "empty").mkdir()
        for name in ("full", "file", "link"):
            with pytest.raises(Conflict):
                store.restore("runs/one", quick / name)
        assert (quick / "full" / "x").read_text() == (quick / "file").read_text() == "mine"
        assert making.restored(store, "runs/one", quick / "empty") == making.tree_of(quick / "one")
        assert making.restored(store, "runs/one", quick / "a" / "b" / "c") == making.tree_of(quick / "one")
        with pytest.raises(NotFound):
            store.restore("runs/none", quick / "never")
        assert not (quick / "never").exists()


def test_what_came_out_other_than_it_went_in_never_appears(place: Path, quick: Path) -> None:
    """A shard built wrong, with sound checksums: the SHA-256 of the file is the last to notice."""
    with Store.open(place) as store:
        engine = store._engine
        manifest = engine.manifest(engine.refs.current("runs/one").target or "")
        extent = manifest.files[1].extents[0]
        lose = [path for path in (place / "shards").rglob("*") if path.is_file()]
        wrong = making.noise(77, extent.length)
        items = []
        data = b""
        for digest, length in objects_of(manifest).items():
            content = wrong if digest == extent.digest else engine.objects().read(digest, length)
            data += b"\0" * (-len(data) % 8)
            items.append(ShardObject(digest, Stored("raw", length, checksum_of(content)), len(data), "U8", (length,)))
            data += content
        head = build_header(items, len(data), None)
        for path in lose:
            path.unlink()
        engine.storage.put(shard_key(digest_of(head[8:])), head + data)
    with Store.open(place) as store:
        assert code_of(lambda: store.restore("runs/one", quick / "out")) == ("digest-mismatch", 3)
        assert not (quick / "out").exists()
        assert [damage.object for damage in store.verify(("runs/one",)).damaged] == [extent.digest]


def test_a_target_with_a_long_name(place: Path, quick: Path) -> None:
    with Store.open(place) as store:
        for length in (200, 255):
            name = "n" * length
            assert making.restored(store, "runs/one", quick / name) == making.tree_of(quick / "one")
        name = "ü" * 127
        assert making.restored(store, "runs/one", quick / name) == making.tree_of(quick / "one")


def test_a_target_that_is_filled_meanwhile(place: Path, quick: Path) -> None:
    """Two restores into one directory: one appears, the other says so and leaves nothing."""

    class Meanwhile:
        def before(self, call: str, arguments: tuple[object, ...]) -> None:
            if call == "rename":
                (quick / "out").mkdir()
                (quick / "out" / "theirs").write_text("theirs")

        def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
            return

    with Store.open(place) as store, durable.observed(Meanwhile()), pytest.raises(Conflict):
        store.restore("runs/one", quick / "out")
    assert os.listdir(quick / "out") == ["theirs"]
    assert [path.name for path in quick.iterdir() if path.name.endswith("partial")] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_directories_that_may_not_be_written_come_back_and_go_away(quick: Path) -> None:
    """Modes are set last; where the restore fails after that, what was built goes all the same."""
    source = making.write_model(quick / "source", {"a": 1})
    (source / "logs").chmod(0o555)
    source.chmod(0o555)
    with Store.init(quick / "store") as store:
        store.import_path(source, name="a")
    quick.chmod(0o755)
    (quick / "theirs").mkdir()
    (quick / "theirs").chmod(0o777)

    class Fails:
        def before(self, call: str, arguments: tuple[object, ...]) -> None:
            if call == "rename":
                raise OSError(5, "no")

        def after(self, call: str, arguments: tuple[object, ...], result: object) -> None:
            return

    def as_nobody() -> None:
        os.setuid(65534)
        os.environ["CKPTFMT_CACHE"] = str(quick / "theirs" / "cache")
        with Store.open(quick / "store") as store:
            with durable.observed(Fails()):
                assert code_of(lambda: store.restore("a", quick / "theirs" / "out")) == ("io", 1)
            assert [name for name in os.listdir(quick / "theirs") if name != "cache"] == []
            assert making.restored(store, "a", quick / "theirs" / "out") == making.tree_of(source)

    assert in_child(as_nobody) == 0
