"""The catalog: thrown away at any time, rebuilt from the shards, never believed where it matters."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.format.shard import ShardObject, Stored
from ckptfmt.store.catalog import Catalog, catalog_path
from ckptfmt.store.store import open_store
from tests.storage.conformance import in_threads
from tests.store import making


@pytest.fixture
def source(quick: Path) -> Path:
    return making.write_small(quick / "source", {"a": 1, "b": 2, "c": 3})


@pytest.fixture
def place(quick: Path, source: Path) -> Path:
    with Store.init(quick / "store") as store:
        store.import_path(source, name="a")
    return quick / "store"


def check(place: Path, source: Path, out: Path) -> None:
    with Store.open(place) as store:
        assert making.restored(store, "a", out) == making.tree_of(source)
        assert store.verify().damaged == ()
        assert making.standing(store) == {"a"}
    shutil.rmtree(out)


def catalogs(quick: Path) -> list[Path]:
    return sorted((quick / "cache").glob("*.sqlite"))


def test_it_is_thrown_away_and_made_again(quick: Path, place: Path, source: Path) -> None:
    assert len(catalogs(quick)) == 1
    shutil.rmtree(quick / "cache")
    check(place, source, quick / "out")
    assert len(catalogs(quick)) == 1


def test_nothing_of_it_lies_in_the_store(place: Path) -> None:
    assert {path.name for path in place.iterdir()} == {"store.json", "shards", "manifests", "refs", "pins", "tmp"}


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"\xff" * 500])
def test_a_file_that_is_none(content: bytes, quick: Path, place: Path, source: Path) -> None:
    (path,) = catalogs(quick)
    path.write_bytes(content)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    check(place, source, quick / "out")
    check(place, source, quick / "out")


def test_one_of_another_version(quick: Path, place: Path, source: Path) -> None:
    (path,) = catalogs(quick)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    check(place, source, quick / "out")


@pytest.mark.parametrize("seed", range(40))
def test_rot_in_it_costs_nothing(seed: int, quick: Path, place: Path, source: Path) -> None:
    """Random bytes of the file overwritten: whatever it says then, the store is what it was."""
    (path,) = catalogs(quick)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    random_ = random.Random(seed)
    data = bytearray(path.read_bytes())
    if seed % 4 == 3:
        del data[random_.randrange(1, len(data)) :]
    else:
        for _ in range(random_.choice([1, 10, 100, 1000])):
            data[random_.randrange(100 if seed % 4 else 0, len(data))] = random_.randrange(256)
    path.write_bytes(data)
    check(place, source, quick / "out")
    with Store.open(place) as store:
        store.import_path(source, name="again")
        assert making.restored(store, "again", quick / "out") == making.tree_of(source)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE objects SET begin = begin + 8",
        "UPDATE objects SET stored = replace(stored, 'length', 'lengths')",
        "UPDATE objects SET stored = 'x'",
        "UPDATE objects SET digest = zeroblob(32) WHERE digest = (SELECT min(digest) FROM objects)",
        "DELETE FROM objects",
        "DELETE FROM shards",
        "UPDATE shards SET digest = replace(digest, 'a', 'b')",
        "DROP TABLE facts",
        "DROP TABLE uses",
        "DROP TABLE objects",
    ],
)
def test_lies_in_it_cost_nothing(statement: str, quick: Path, place: Path, source: Path) -> None:
    (path,) = catalogs(quick)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    check(place, source, quick / "out")
    changed = making.write_small(quick / "changed", {"a": 1, "b": 2, "c": 9})
    with Store.open(place) as store:
        store.import_path(changed, name="b")
        assert making.restored(store, "b", quick / "out") == making.tree_of(changed)
    shutil.rmtree(quick / "cache")
    with Store.open(place) as store:
        assert store.verify().damaged == ()


def test_it_is_given_up_while_it_is_open(quick: Path, place: Path, source: Path) -> None:
    with Store.open(place) as store:
        store.list_refs()
        (path,) = catalogs(quick)
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE objects")
        connection.commit()
        connection.close()
        assert making.restored(store, "a", quick / "out") == making.tree_of(source)
        assert making.standing(store) == {"a"}


def test_one_that_stays_locked_is_not_waited_for_without_end(
    quick: Path, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptfmt.store.catalog._BUSY_SECONDS", 0.05)
    (path,) = catalogs(quick)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        check(place, source, quick / "out")
        with Store.open(place) as store:
            store.import_path(source, name="b")
    finally:
        holder.rollback()
        holder.close()


def test_no_directory_for_it(quick: Path, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick / "file").write_text("")
    monkeypatch.setenv("CKPTFMT_CACHE", str(quick / "file" / "below"))
    check(place, source, quick / "out")
    with Store.open(place) as store:
        store.import_path(source, name="b")
    check_both = Store.open(place)
    assert making.standing(check_both) == {"a", "b"}
    check_both.close()


def test_a_copied_store_has_another_catalog(quick: Path, place: Path, source: Path) -> None:
    shutil.copytree(place, quick / "copy")
    check(quick / "copy", source, quick / "out")
    assert len(catalogs(quick)) == 2
    other = making.write_small(quick / "other", {"z": 26})
    with Store.open(quick / "copy") as copy:
        copy.import_path(other, name="z")
    with Store.open(place) as store:
        assert making.standing(store) == {"a"}
        report = store.import_path(other, name="z")  # Not taken for what lies in the copy alone.
        assert report.new_bytes > 0
        assert making.restored(store, "z", quick / "out") == making.tree_of(other)


def test_a_store_that_was_moved_and_another_put_in_its_place(quick: Path, place: Path, source: Path) -> None:
    place.rename(quick / "moved")
    shutil.copytree(quick / "moved", place)
    for shard in (place / "shards").rglob("*.safetensors"):
        shard.unlink()
    with Store.open(place) as store:
        with pytest.raises(CkptfmtError) as caught:
            store.restore("a", quick / "out")
        assert caught.value.exit_code == 3
        assert len(store.verify().damaged) == store.verify().objects
        assert store.import_path(source, name="a").new_bytes > 0
    check(place, source, quick / "out")
    check(quick / "moved", source, quick / "out")


def test_a_link_to_a_store_is_that_store(quick: Path, place: Path, source: Path) -> None:
    (quick / "link").symlink_to(place)
    check(quick / "link", source, quick / "out")
    assert len(catalogs(quick)) == 1


def test_another_hosts_writes_are_found(quick: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle that was opened before, with a catalog of its own, finds what was written since."""
    monkeypatch.setenv("CKPTFMT_CACHE", str(quick / "cache-here"))
    here = Store.open(place)
    here.list_refs()
    assert here.verify().damaged == ()
    monkeypatch.setenv("CKPTFMT_CACHE", str(quick / "cache-there"))
    other = making.write_small(quick / "other", {"a": 1, "z": 26})
    with Store.open(place) as there:
        there.import_path(other, name="z")
    assert making.restored(here, "z", quick / "out") == making.tree_of(other)
    assert here.verify(("z",)).damaged == ()
    here.close()


def test_a_shard_that_is_gone_is_forgotten(quick: Path, place: Path, source: Path) -> None:
    with Store.open(place) as store:
        before = store.stats().shard_bytes
        for shard in (place / "shards").rglob("*.safetensors"):
            shard.unlink()
        with pytest.raises(CkptfmtError):
            store.restore("a", quick / "out")
    with Store.open(place) as store:
        assert store.stats().shard_bytes == 0 < before
        assert store.import_path(source, name="a").new_bytes > 0


def test_a_store_that_is_opened_again_follows_what_went(place: Path) -> None:
    for shard in (place / "shards").rglob("*.safetensors"):
        shard.unlink()
    with Store.open(place) as store:
        assert store.stats().shard_bytes == 0
        (row,) = store.list_refs()
        assert row.stored_bytes == 0


def test_many_threads_ask_one_store_at_once(place: Path) -> None:
    """The catalog follows the store once, and nobody is given it before it has."""
    for _ in range(5):
        engine = open_store(str(place))
        manifest = engine.manifest(engine.refs.current("a").target or "")
        digests = [extent.digest for file in manifest.files for extent in file.extents]
        listings: list[str] = []
        listed = engine.storage.list
        slow = threading.Event()

        def counting(prefix: str, listed=listed, listings=listings, slow=slow):  # type: ignore[no-untyped-def]
            listings.append(prefix)
            slow.wait(0.01)
            return listed(prefix)

        engine.storage.list = counting  # type: ignore[method-assign]
        found = in_threads(8, lambda _, e=engine, d=digests: len(e.catalog().find_many(d)))
        assert found == [len(set(digests))] * 8
        assert listings == ["shards/", "trash/"]
        engine.close()


def test_its_path_depends_on_all_that_tells_stores_apart(
    quick: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = str(place / "store.json")
    path = catalog_path("id", document)
    assert path == catalog_path("id", f"{place}/../store/store.json")
    assert path is not None
    assert os.path.dirname(path) == str(quick / "cache")
    shutil.copytree(place, quick / "copy")
    others = [catalog_path("other", document), catalog_path("id", str(quick / "copy" / "store.json"))]
    monkeypatch.setattr("ckptfmt.store.catalog.host_name", lambda: "elsewhere")
    others.append(catalog_path("id", document))
    assert len({path, *others}) == 4


def test_the_smallest_copy_comes_first() -> None:
    catalog = Catalog(None)
    digest = "ab" * 32
    for shard, size in (("11" * 32, 30), ("22" * 32, 10), ("33" * 32, 20)):
        stored = Stored("zstd", 100, "0" * 32, (size,), "1" * 32)
        catalog.add_shard(shard, 1000, [ShardObject(digest, stored, 500, "U8", (size,))])
    assert [copy.shard[:2] for copy in catalog.find(digest)] == ["22", "33", "11"]
    assert catalog.stored_bytes([digest, "cd" * 32]) == {digest: 10}
    assert catalog.nominates(100, "1" * 32)
    assert not catalog.nominates(100, "0" * 32)
    assert not catalog.nominates(99, "1" * 32)
    catalog.forget_shard("22" * 32)
    assert [copy.shard[:2] for copy in catalog.find(digest)] == ["33", "11"]
    many = [f"{number:064x}" for number in range(2000)]
    assert catalog.find_many([*many, digest]).keys() == {digest}


def test_facts_are_kept_with_their_stamp() -> None:
    catalog = Catalog(None)
    catalog.remember("file", [("/a", "stamp", b"value"), ("/b", "stamp", b"other")])
    catalog.remember("file", [("/a", "newer", b"newer")])
    catalog.remember("ref", [("/a", "stamp", b"ref")])
    assert catalog.fact("file", "/a", "newer") == b"newer"
    assert catalog.fact("file", "/a", "stamp") is None
    assert catalog.facts("file") == {"/a": ("newer", b"newer"), "/b": ("stamp", b"other")}


def test_it_is_closed_once_no_thread_reads_it(tmp_path: Path) -> None:
    """SQLite that is closed under a running query reads memory that is freed: the process dies of it."""
    catalog = Catalog(str(tmp_path / "c.sqlite"))
    catalog.add_shard("a" * 64, 10, [])
    reading, go_on = threading.Event(), threading.Event()
    seen: list[dict[str, int]] = []

    def work(connection: sqlite3.Connection) -> dict[str, int]:
        rows = connection.execute("SELECT digest, size FROM shards")
        reading.set()
        assert go_on.wait(10)
        return dict(rows)

    reader = threading.Thread(target=lambda: seen.append(catalog.look(work)))
    reader.start()
    assert reading.wait(10)
    closer = threading.Thread(target=catalog.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    reader.join(10)
    closer.join(10)
    assert seen == [{"a" * 64: 10}]
    with pytest.raises(CkptfmtError, match="the store was closed"):
        catalog.shards()
