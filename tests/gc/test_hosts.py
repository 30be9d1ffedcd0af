"""Several at once, each at a moment that hurts: hosts with catalogs of their own, and processes that share one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptfmt.api import Store
from ckptfmt.api.reclaiming import GcReport
from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import local
from ckptfmt.storage.local import LocalStorage
from ckptfmt.store.catalog import Catalog
from ckptfmt.store.trash import place_in
from tests.store import making


@pytest.fixture
def place(quick: Path) -> Path:
    for index, name in enumerate(("one", "two", "three")):
        making.write_small(quick / name, {"a": 1, "b": 2 + index}, elements=3000)
    return quick


def gc(store: Store) -> GcReport:
    return store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))


@contextmanager
def once(
    patch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    act: Callable[[], object],
    when: Callable[..., bool],
    *,
    after: bool,
) -> Iterator[None]:
    """Let somebody else do something at the first call of a method that `when` takes."""
    waiting = [act]
    original = getattr(owner, name)

    def method(self: object, *arguments: object, **named: object) -> object:
        due = bool(waiting) and when(*arguments)
        if due and not after:
            waiting.pop()()
        result = original(self, *arguments, **named)
        if due and after:
            waiting.pop()()
        return result

    with patch.context() as inner:
        inner.setattr(owner, name, method)
        yield
    assert not waiting


@pytest.mark.parametrize("call", ["rows", "every_copy", "every_edge"])
def test_a_process_that_shares_the_catalog_imports_while_gc_counts(
    call: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.init(place / "store") as store, Store.open(place / "store") as other:
        store.import_path(place / "one", name="one")
        store.import_path(place / "two", name="two")
        store.drop("one")

        def meanwhile() -> None:
            other.import_path(place / "three", name="three")
            other._engine.catalog().forget_shard(sorted(other._engine.catalog().shards())[0])

        with once(monkeypatch, Catalog, call, meanwhile, lambda *_: True, after=True):
            gc(store)
        for name in ("two", "three"):
            assert making.restored(other, name, place / f"out-{name}") == making.tree_of(place / name)
        assert store.verify().damaged == ()
        assert gc(store).problems == ()


@pytest.mark.parametrize(("call", "prefix"), [("put", "pins/"), ("list", "refs/moved/")])
def test_a_name_is_given_to_nothing_that_gc_has_freed(
    call: str, prefix: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a ref and its new name the ref was dropped, and gc came."""
    with Store.init(place / "store") as store, Store.open(place / "store") as other:
        store.import_path(place / "one", name="one")
        store.import_path(place / "two", name="two")

        def meanwhile() -> None:
            other.drop("one")
            gc(other)

        with (
            once(monkeypatch, LocalStorage, call, meanwhile, lambda key, *_: key.startswith(prefix), after=False),
            pytest.raises(CkptfmtError) as caught,
        ):
            store.rename("one", "moved")
        assert caught.value.code == "moved-on"
        assert making.standing(store) == ({"two"} if call == "put" else {"two", "moved"})
        if call == "list":
            assert making.restored(store, "moved", place / "out") == making.tree_of(place / "one")
        assert gc(store).problems == ()


def test_a_document_that_is_taken_out_while_it_is_compared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of what was dropped finds its manifest in place, and reads it when gc has taken it out."""
    with Store.init(place / "store") as store, Store.open(place / "store") as other:
        store.import_path(place / "one", name="one")
        store.import_path(place / "two", name="two")
        store.drop("one")
        with once(
            monkeypatch,
            LocalStorage,
            "size",
            lambda: gc(other),
            lambda key: key.startswith("manifests/"),
            after=True,
        ):
            store.import_path(place / "one", name="again")
        assert making.restored(store, "again", place / "out") == making.tree_of(place / "one")


@pytest.mark.parametrize("before", ["refs/again/", "pins/"], ids=["before the ref", "before the claim is taken back"])
def test_a_writer_that_was_suspended_for_a_day(before: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc counts claims for a day: when the writer wakes up, what it confirmed is gone."""
    with Store.init(place / "store") as store, Store.open(place / "store") as other:
        store.import_path(place / "two", name="two")

        def a_day_passes() -> None:
            for path in Path(store.path).rglob("*"):
                found = path.lstat()
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 25 * 3600 * 10**9))
            report = gc(other)
            assert "a claim of a writer that is gone" in {item.reason for item in report.plan.unfinished}

        call = "put_if_absent" if before == "refs/again/" else "delete"
        with once(monkeypatch, LocalStorage, call, a_day_passes, lambda key, *_: key.startswith(before), after=False):
            store.import_path(place / "one", name="again")
        assert making.restored(store, "again", place / "out") == making.tree_of(place / "one")
        assert store.verify().damaged == ()
        assert gc(store).problems == ()


def test_a_base_that_has_another_content_by_now(place: Path) -> None:
    """What was taken in against the earlier one is needed still, and lies there still."""
    making.write_base(place / "base")
    making.write_base(place / "later", seed=70)
    making.write_adapter(place / "bloated", 2)
    shutil.copy2(place / "base" / "model.safetensors", place / "bloated" / "model.safetensors")
    making.settle_times(place / "bloated")
    with Store.init(place / "store") as store:
        store.add_base("base", place / "base")
        store.import_path(place / "bloated", name="bloated", base="base")
        store.import_path(place / "one", name="one")
        store.add_base("base", place / "later")
        store.drop("one")
        assert gc(store).shards == 1
        assert making.restored(store, "bloated", place / "out") == making.tree_of(place / "bloated")
        store.drop_base("base")
        assert gc(store).problems == ()
        assert making.restored(store, "bloated", place / "out2") == making.tree_of(place / "bloated")


def test_a_run_that_is_taken_over_while_a_reader_lists_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that came late took out what is needed; before it is brought back another gc takes its run over."""
    with Store.init(place / "store") as store:
        store.import_path(place / "one", name="one")
        storage = store._engine.storage
        storage.put("trash/first/marker.json", b"")
        for listed in list(storage.list("shards/")):
            assert storage.move(listed.key, place_in("trash/first/", listed.key))
    monkeypatch.setenv("CKPTFMT_CACHE", str(place / "another host"))
    scan = local._scan
    names = iter(["first", *map(str, range(6))])
    current = next(names)

    def scanning(path: str) -> list[os.DirEntry[str]]:
        nonlocal current
        found = scan(path)
        if path.endswith("/trash") and (following := next(names, None)) is not None:
            os.rename(f"{place}/store/trash/{current}", f"{place}/store/trash/{following}")
            current = following
        return found

    with Store.open(place / "store") as reader:
        monkeypatch.setattr(local, "_scan", scanning)
        assert making.restored(reader, "one", place / "out") == making.tree_of(place / "one")
