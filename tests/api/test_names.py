"""Names and their history: rename, tag, pin, rollback, rm. Nothing here touches an object."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from ckptfmt.api import naming
from ckptfmt.errors import CkptfmtError, Conflict, InvalidInput, NotFound
from tests.transfer.headers import Written, file_of
from tests.transfer.trees import files_of, objects_in, store_files


def model(directory: Path, value: int) -> Path:
    """A model of one tensor, which `value` tells from others."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(file_of(Written("w", "U8", (900,), bytes([value]) * 900)))
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def three(store: Store, tmp_path: Path) -> Store:
    """`run` with three generations, of contents 1, 2, 3."""
    for value in (1, 2, 3):
        store.import_checkpoint(model(tmp_path / "run", value), "run")
    return store


def generations(store: Store, ref: str) -> list[tuple[int, str, bool]]:
    """Number, verb, and whether it names something; oldest first."""
    return [(item.number, item.verb, item.target is not None) for item in reversed(store.log(ref).generations)]


def refused(store: Store, act: Callable[[], object], kind: type[CkptfmtError], code: str) -> CkptfmtError:
    before = store_files(Path(store.path))
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.code == code and caught.value.hint, caught.value.message
    assert store_files(Path(store.path)) == before
    return caught.value


def test_generations_by_name(three: Store, tmp_path: Path) -> None:
    ids = [three.show(f"run@{number}").id for number in (1, 2, 3)]
    assert len(set(ids)) == 3 and three.show("run").id == ids[2]
    for number in (1, 2, 3):
        assert three.show(ids[number - 1][:8]).id == ids[number - 1]
        three.restore(f"run@{number}", tmp_path / f"back-{number}")
        data = (tmp_path / f"back-{number}" / "model.safetensors").read_bytes()
        assert data.endswith(bytes([number]) * 900)
    shown = three.show(ids[0])
    assert (shown.ref, shown.generation) == (None, None)
    three.restore(ids[0], tmp_path / "by-id")
    assert files_of(tmp_path / "by-id") == files_of(tmp_path / "back-1")
    for name in ("run@4", "run@0", "nobody@1"):
        with pytest.raises(NotFound):
            three.show(name)
    with pytest.raises(InvalidInput) as caught:
        three.show("run@x")
    assert (caught.value.code, caught.value.exit_code) == ("ref-name", 2) and "run@3" in caught.value.message
    refused(three, lambda: three.show("0" * 64), NotFound, "not-found")
    refused(three, lambda: three.show(ids[0][:7]), NotFound, "not-found")


def test_a_ref_comes_before_an_id(three: Store, tmp_path: Path) -> None:
    """A ref may look like the beginning of an id: the ref is meant."""
    name = three.show("run@1").id[:12]
    three.import_checkpoint(model(tmp_path / "other", 9), name)
    assert three.show(name).ref == name and three.show(name).id != three.show("run@1").id
    assert three.show(name + three.show("run@1").id[12]).id == three.show("run@1").id


def test_rm_and_back(three: Store, tmp_path: Path) -> None:
    before = three.show("run").id
    dropped = three.drop("run")
    assert (dropped.ref, dropped.generation, dropped.manifest) == ("run", 4, None)
    assert three.list_refs() == []
    error = refused(three, lambda: three.show("run"), NotFound, "not-found")
    assert "dropped" in error.message and error.hint == "ckptfmt rollback run@3"
    refused(three, lambda: three.drop("run"), NotFound, "not-found")
    refused(three, lambda: three.tag("run", ("x",)), NotFound, "not-found")
    refused(three, lambda: three.rollback("run@4"), NotFound, "not-found")
    assert three.show("run@2").generation == 2  # Older ones are named as before.
    assert generations(three, "run")[-1] == (4, "rm", False)
    assert len(objects_in(Path(three.path))) >= 3
    back = three.rollback("run@3")
    assert (back.generation, back.manifest) == (5, before)
    assert [row.ref for row in three.list_refs()] == ["run"]
    three.drop("run")
    again = three.import_checkpoint(model(tmp_path / "run", 3), "run")
    assert (again.generation, again.manifest, again.new_bytes) == (7, before, 0)


def test_rollback(three: Store) -> None:
    first = three.show("run@1").id
    done = three.rollback("run@1")
    assert (done.ref, done.generation, done.manifest) == ("run", 4, first)
    assert three.rollback("run@1").generation == 4  # It stands there already.
    assert three.rollback("run@3").generation == 5
    assert generations(three, "run") == [
        (1, "import", True), (2, "import", True), (3, "import", True), (4, "rollback", True), (5, "rollback", True)
    ]  # fmt: skip
    refused(three, lambda: three.rollback("run@x"), InvalidInput, "usage")
    refused(three, lambda: three.rollback("run@99"), NotFound, "not-found")
    refused(three, lambda: three.rollback("nobody@1"), NotFound, "not-found")


def test_rollback_without_a_number_buries_nothing_that_came_meanwhile(
    three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = naming._before

    def slow(store: Any, ref: str) -> Any:
        found = before(store, ref)
        three.import_checkpoint(model(tmp_path / "newer", 9), "run")
        return found

    monkeypatch.setattr(naming, "_before", slow)
    with pytest.raises(Conflict) as caught:
        three.rollback("run")
    assert caught.value.code == "moved-on"
    assert three.show("run").generation == 4


def test_rollback_without_a_number_goes_to_what_the_ref_named_before(three: Store) -> None:
    """A label makes a generation of the same content: that is not gone back to. Twice is there and back again."""
    ids = [three.show(f"run@{number}").id for number in (1, 2, 3)]
    three.tag("run", "paper")
    done = three.rollback("run")
    assert (done.returned_to, done.manifest) == (2, ids[1]) and three.show("run").id == ids[1]
    assert three.rollback("run").manifest == ids[2]
    three.drop("run")
    assert three.rollback("run").manifest == ids[2] and three.show("run").id == ids[2]
    error = refused(three, lambda: three.rollback("nobody"), NotFound, "not-found")
    assert "'nobody'" in error.message
    three.rename("run", "walk")
    refused(three, lambda: three.rollback("walk"), NotFound, "not-found")  # It never named anything else.


def test_rollback_brings_times_and_modes_back(store: Store, tmp_path: Path) -> None:
    """They stand in the generation, not in the manifest: the one that is rolled back to has its own."""
    source = model(tmp_path / "run", 1)
    (source / "config.json").chmod(0o600)
    store.import_checkpoint(source, "run")
    store.import_checkpoint(model(tmp_path / "run", 2), "run")
    store.rollback("run@1")
    store.restore("run", tmp_path / "back")
    assert (tmp_path / "back" / "config.json").stat().st_mode & 0o777 == 0o600


def test_rename(three: Store, tmp_path: Path) -> None:
    three.tag("run", ("best",))
    three.pin("run")
    manifest = three.show("run").id
    done = three.rename("run", "kept/run")
    assert (done.ref, done.generation, done.manifest) == ("kept/run", 1, manifest)
    [row] = three.list_refs()
    assert (row.ref, row.labels, row.pinned, row.manifest) == ("kept/run", ("best",), True, manifest)
    assert generations(three, "run")[-1] == (6, "rename", False)
    assert generations(three, "kept/run") == [(1, "rename", True)]
    assert three.show("run@1").generation == 1
    three.restore("kept/run", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "run")
    three.import_checkpoint(model(tmp_path / "other", 9), "other")
    error = refused(three, lambda: three.rename("other", "kept/run"), Conflict, "target-exists")
    assert error.exit_code == 1
    refused(three, lambda: three.rename("other", "other"), Conflict, "target-exists")
    refused(three, lambda: three.rename("nobody", "new"), NotFound, "not-found")
    assert three.rename("other", "run").generation == 7  # Numbers are never used again.


def test_tag_and_pin(three: Store, tmp_path: Path) -> None:
    assert three.tag("run", ("best", "paper")).generation == 4
    assert three.tag("run", ("best",)).generation == 4
    assert three.list_refs()[0].labels == ("best", "paper")
    assert three.tag("run", ("best", "never"), remove=True).generation == 5
    assert three.list_refs()[0].labels == ("paper",)
    assert three.pin("run").generation == 6 and three.pin("run").generation == 6
    error = refused(three, lambda: three.drop("run"), Conflict, "needed")
    assert error.hint == "ckptfmt pin run --off" and error.exit_code == 1
    kept = three.import_checkpoint(model(tmp_path / "run", 4), "run")
    [row] = three.list_refs()
    assert (row.generation, row.pinned, row.labels) == (kept.generation, True, ("paper",)) == (7, True, ("paper",))
    assert three.pin("run", off=True).generation == 8 and three.pin("run", off=True).generation == 8
    assert three.drop("run").generation == 9


def test_names_that_differ_in_case_or_in_depth(store: Store, tmp_path: Path) -> None:
    names = ["Run", "run", "run/a", "run/a/b", "run-a", "run.a"]
    for number, name in enumerate(names):
        store.import_checkpoint(model(tmp_path / "m", number), name)
    assert [row.ref for row in store.list_refs()] == sorted(names)
    assert store.complete("run") == ["run", "run-a", "run.a", "run/a", "run/a/b"]
    store.drop("run")
    assert [row.ref for row in store.list_refs()] == sorted(set(names) - {"run"})


def test_two_that_saw_the_same(three: Store) -> None:
    """Compare and swap: whoever was second is told so, and nothing is overwritten."""
    with Store.open(three.path) as other:
        seen = three._engine.refs.current("run")
        other.tag("run", ("theirs",))
        with pytest.raises(Conflict) as caught:
            three._engine.refs.swap(seen, seen)
        assert (caught.value.code, caught.value.exit_code) == ("moved-on", 11)
        assert three.tag("run", ("ours",)).generation == 5
        assert other.list_refs()[0].labels == ("theirs", "ours")
