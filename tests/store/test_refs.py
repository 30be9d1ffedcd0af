"""Refs: numbered generations, tombstones, compare-and-swap, and many writers on one name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from msgspec import structs

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError, Conflict, IntegrityError, InvalidInput, NotFound
from ckptfmt.format.refs import Generation
from ckptfmt.storage.local import LocalStorage
from ckptfmt.storage.memory import MemoryStorage
from ckptfmt.store.refs import Refs, draft
from tests.faults.seam import in_child, in_processes
from tests.store import making

WRITERS = 8
APPENDS = 12
TARGET = "ab" * 32


@pytest.fixture
def refs() -> Refs:
    return Refs(MemoryStorage())


def append(refs: Refs, name: str, target: str | None = TARGET) -> Generation:
    done = refs.append(name, lambda newest: draft(target, "import"))
    assert done is not None
    return done


def test_numbers_go_on(refs: Refs) -> None:
    assert [append(refs, "runs/a").number for _ in range(12)] == list(range(1, 13))
    assert refs.numbers("runs/a") == list(range(1, 13))
    assert [generation.number for generation in refs.history("runs/a")] == list(range(12, 0, -1))
    assert refs.read("runs/a", 10).previous == 9
    assert refs.read("runs/a", 1).previous is None


def test_a_ref_that_never_was(refs: Refs) -> None:
    assert refs.numbers("a") == []
    assert refs.newest("a") is None
    assert refs.history("a") == []
    with pytest.raises(NotFound):
        refs.current("a")
    with pytest.raises(NotFound):
        refs.read("a", 1)


def test_a_tombstone_uses_a_number_up(refs: Refs) -> None:
    append(refs, "a")
    append(refs, "a", None)
    with pytest.raises(NotFound, match="dropped") as caught:
        refs.current("a")
    assert caught.value.hint == "ckptfmt rollback a@1"
    assert list(refs.standing()) == []
    assert append(refs, "a").number == 3
    assert [generation.name for generation in refs.standing()] == ["a"]


def test_make_may_find_nothing_to_do(refs: Refs) -> None:
    append(refs, "a")
    assert refs.append("a", lambda newest: None) is None
    assert refs.numbers("a") == [1]


def test_an_append_is_made_again_for_what_came_between(refs: Refs) -> None:
    append(refs, "a")
    seen: list[int] = []

    def make(newest: Generation | None) -> Generation:
        assert newest is not None
        seen.append(newest.number)
        if len(seen) < 4:
            append(refs, "a", "cd" * 32)
        return draft(TARGET, "import")

    done = refs.append("a", make)
    assert done is not None
    assert (done.number, seen) == (5, [1, 2, 3, 4])


def test_too_many_others(refs: Refs) -> None:
    def make(newest: Generation | None) -> Generation:
        append(refs, "a")
        return draft(TARGET, "import")

    with pytest.raises(Conflict) as caught:
        refs.append("a", make)
    assert (caught.value.code, caught.value.exit_code) == ("lost-race", 11)


def test_swap(refs: Refs) -> None:
    seen = append(refs, "a")
    assert refs.swap(seen, draft(TARGET, "tag")).number == 2
    with pytest.raises(Conflict) as caught:
        refs.swap(seen, draft(TARGET, "tag"))
    assert (caught.value.code, caught.value.exit_code) == ("moved-on", 11)
    assert refs.numbers("a") == [1, 2]


def test_a_swap_that_is_overtaken_while_it_writes(refs: Refs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = append(refs, "a")
    numbers = refs.numbers

    def then_somebody_else(name: str) -> list[int]:
        found = numbers(name)
        monkeypatch.setattr(refs, "numbers", numbers)
        append(refs, "a", "cd" * 32)
        return found

    monkeypatch.setattr(refs, "numbers", then_somebody_else)
    with pytest.raises(Conflict):
        refs.swap(seen, draft(None, "rm"))
    assert refs.current("a").target == "cd" * 32


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/", "..", "a/../b", "a b", "ü", "a,b", "x" * 201, "a\n", "."])
def test_names_that_are_none(name: str, refs: Refs) -> None:
    for use in (refs.numbers, refs.newest, refs.current, lambda ref: append(refs, ref)):
        with pytest.raises(InvalidInput) as caught:
            use(name)  # type: ignore[operator]
        assert caught.value.exit_code == 2


def test_names_keep_their_slashes(refs: Refs) -> None:
    for name in ("runs/a", "runs-a", "runs/a/b", "runs"):
        append(refs, name)
    assert [name for name, _ in refs.names()] == ["runs", "runs-a", "runs/a", "runs/a/b"]
    assert [name for name, _ in refs.names("runs/")] == ["runs/a", "runs/a/b"]


def test_a_generation_of_another_ref_is_not_taken_for_this_one() -> None:
    """A file system that folds case gives `Run` for `run`."""
    storage = MemoryStorage()
    refs = Refs(storage)
    append(refs, "run")
    storage.put("refs/Run/1.json", storage.read("refs/run/1.json", 0, 9999))
    storage.put("refs/run/2.json", storage.read("refs/run/1.json", 0, 9999))
    for name, number in (("Run", 1), ("run", 2)):
        with pytest.raises(IntegrityError):
            refs.read(name, number)


def test_what_does_not_belong_there_is_passed_over(tmp_path: Path) -> None:
    """File managers and network disks leave directories and files of their own everywhere."""
    refs = Refs(LocalStorage(str(tmp_path)))
    append(refs, "runs/a")
    for stray in ("@eaDir", ".AppleDouble", "lost+found"):
        (tmp_path / "refs" / stray).mkdir()
        (tmp_path / "refs" / "runs,a" / stray).mkdir()
        (tmp_path / "refs" / "runs,a" / stray / "2.json").write_text("{}")
    for stray in (".nfs0001", "1.json~", "2.json.swp", "x.json", "-1.json", "٣.json", "01.json"):
        (tmp_path / "refs" / "runs,a" / stray).write_text("{}")
        (tmp_path / "refs" / stray).write_text("{}")
    assert [name for name, _ in refs.names()] == ["runs/a"] or ".AppleDouble" in [name for name, _ in refs.names()]
    assert [generation.name for generation in refs.standing()] == ["runs/a"]
    assert refs.numbers("runs/a") == [1]
    assert append(refs, "runs/a").number == 2


def test_many_processes_append_to_one_ref(quick: Path) -> None:
    def work(writer: int) -> None:
        refs = Refs(LocalStorage(str(quick)))
        for number in range(APPENDS):
            message = f"{writer}-{number}"
            done = refs.append("a", lambda newest, m=message: structs.replace(draft(TARGET, "x"), message=m))
            assert done is not None
            assert refs.read("a", done.number).message == message

    in_processes(WRITERS, work)
    history = Refs(LocalStorage(str(quick))).history("a")
    assert [generation.number for generation in history] == list(range(WRITERS * APPENDS, 0, -1))
    assert {generation.message for generation in history} == {
        f"{w}-{n}" for w in range(WRITERS) for n in range(APPENDS)
    }
    for writer in range(WRITERS):
        mine = [g.number for g in history if g.message and g.message.startswith(f"{writer}-")]
        assert mine == sorted(mine, reverse=True)


def test_many_processes_swap_one_ref(quick: Path) -> None:
    append(Refs(LocalStorage(str(quick))), "a")

    def work(writer: int) -> None:
        refs = Refs(LocalStorage(str(quick)))
        seen = refs.read("a", 1)
        try:
            done = refs.swap(seen, draft(TARGET, f"tag-{writer}"))
        except Conflict:
            return
        (quick / f"won-{writer}").write_text(str(done.number))

    in_processes(WRITERS, work)
    assert [path.read_text() for path in quick.glob("won-*")] == ["2"]
    assert Refs(LocalStorage(str(quick))).numbers("a") == [1, 2]


@pytest.mark.parametrize("same_catalog", [True, False])
def test_many_hosts_import_under_one_name(same_catalog: bool, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a catalog of its own (or all with one): every import has a generation, no number stands twice."""
    Store.init(quick / "store").close()
    rounds = 3
    for writer in range(WRITERS):
        for turn in range(rounds):
            making.write_small(quick / f"source-{writer}-{turn}", {"shared": 1, "own": 100 + writer * rounds + turn})

    def work(writer: int) -> None:
        if not same_catalog:
            monkeypatch.setenv("CKPTFMT_CACHE", str(quick / f"cache-{writer}"))
        got = []
        for turn in range(rounds):
            with Store.open(quick / "store") as store:
                report = store.import_path(quick / f"source-{writer}-{turn}", name="runs/shared")
                got.append((report.checkpoints[0].generation, report.checkpoints[0].manifest))
        (quick / f"got-{writer}.json").write_text(json.dumps(got))

    in_processes(WRITERS, work)
    got = {
        number: (writer, turn, manifest)
        for writer in range(WRITERS)
        for turn, (number, manifest) in enumerate(json.loads((quick / f"got-{writer}.json").read_text()))
    }
    assert sorted(got) == list(range(1, WRITERS * rounds + 1))
    with Store.open(quick / "store") as store:
        log = store.log("runs/shared").generations
        assert {generation.number: generation.target for generation in log} == {n: m for n, (_, _, m) in got.items()}
        assert store.verify().damaged == ()
        for number, (writer, turn, _) in got.items():
            back = making.restored(store, f"runs/shared@{number}", quick / "out" / str(number))
            assert back == making.tree_of(quick / f"source-{writer}-{turn}")
    assert making.files_below(quick / "store" / "tmp") == set()
    assert making.files_below(quick / "store" / "pins") == set()


def test_importing_beside_dropping_and_tagging(quick: Path) -> None:
    """Whoever swaps may lose; whoever imports never does."""
    source = making.write_small(quick / "source", {"a": 1})
    with Store.init(quick / "store") as store:
        store.import_path(source, name="a")
    for turn in range(4):
        making.write_small(quick / f"source-{turn}", {"a": 2 + turn})

    def work(writer: int) -> None:
        with Store.open(quick / "store") as store:
            for turn in range(4):
                try:
                    if writer < 4:
                        store.import_path(quick / f"source-{writer}", name="a", message=f"{writer}-{turn}")
                    elif writer < 6:
                        store.tag("a", (f"label-{writer}-{turn}",))
                    else:
                        store.drop("a")
                except CkptfmtError as error:
                    assert writer >= 4
                    assert error.code in ("moved-on", "not-found")

    in_processes(WRITERS, work)
    with Store.open(quick / "store") as store:
        log = store.log("a").generations
    assert [generation.number for generation in log] == list(range(len(log), 0, -1))
    assert {f"{writer}-0" for writer in range(4)} <= {generation.message for generation in log} | {
        f"{writer}-0" for writer in range(4) if any((g.message or "").startswith(f"{writer}-") for g in log)
    }


def test_rollback_and_rename(quick: Path) -> None:
    one, two = making.write_small(quick / "one", {"a": 1}), making.write_small(quick / "two", {"a": 2})
    with Store.init(quick / "store") as store:
        store.import_path(one, name="a")
        store.tag("a", ("good",))
        store.import_path(two, name="a")
        assert store.rollback("a@2").generation == 4
        assert making.restored(store, "a", quick / "out1") == making.tree_of(one)
        store.drop("a")
        with pytest.raises(NotFound):
            store.restore("a", quick / "never")
        with pytest.raises(NotFound):
            store.rollback("a@5")
        assert store.rollback("a@3").generation == 6
        assert making.restored(store, "a", quick / "out2") == making.tree_of(two)
        store.rename("a", "b/c")
        assert making.standing(store) == {"b/c"}
        assert making.restored(store, "b/c", quick / "out3") == making.tree_of(two)
        assert making.restored(store, "a@1", quick / "out4") == making.tree_of(one)
        store.import_path(one, name="a")
        with pytest.raises(Conflict):
            store.rename("a", "b/c")
        assert making.standing(store) == {"a", "b/c"}


def test_the_same_content_makes_no_generation(quick: Path) -> None:
    source = making.write_model(quick / "source", {"a": 1})
    shutil.copytree(source, quick / "elsewhere" / "copy", symlinks=True)
    with Store.init(quick / "store") as store:
        first = store.import_path(source, name="a")
        again = store.import_path(source, name="a")
        assert (again.checkpoints[0].generation, again.new_bytes) == (1, 0)
        assert again.checkpoints[0].manifest == first.checkpoints[0].manifest
        assert store.import_path(quick / "elsewhere" / "copy", name="a").checkpoints[0].generation == 1


def test_a_list_is_right_on_a_file_system_with_a_coarse_clock(quick: Path) -> None:
    """Two changes within one tick leave the same mtime: what is young is not believed to be unchanged."""
    one, two = making.write_small(quick / "one", {"a": 1}), making.write_small(quick / "two", {"a": 2})
    with Store.init(quick / "store") as store:
        store.import_path(one, name="a")
        directory = quick / "store" / "refs" / "a"
        before = directory.stat()
        assert [row.generation for row in store.list_refs()] == [1]
        store.import_path(two, name="a")
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert [row.generation for row in store.list_refs()] == [2]
        old = before.st_mtime_ns - 60_000_000_000
        os.utime(directory, ns=(old, old))
        for _ in range(2):
            assert [row.generation for row in store.list_refs()] == [2]
        store.drop("a")
        assert store.list_refs() == []


def test_a_child_that_dies_is_seen() -> None:
    assert in_child(lambda: None) == 0
    assert in_child(lambda: os.kill(os.getpid(), 9)) == -9
