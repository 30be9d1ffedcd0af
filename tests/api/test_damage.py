"""One damaged document keeps nobody from seeing the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError, IntegrityError
from tests.api.test_names import model
from tests.store.making import write_adapter, write_base


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def damaged(store: Store, tmp_path: Path) -> Store:
    """Three refs: `a` sound, `b` with a damaged generation, `c` with a damaged manifest; and a base `d`, damaged."""
    ids = {name: store.import_checkpoint(model(tmp_path / name, number), name) for number, name in enumerate("abc")}
    base = store.add_base("d", model(tmp_path / "d", 9))
    root = Path(store.path)
    spoil(root / "refs/b/1.json")
    manifest = ids["c"].manifest
    spoil(root / "manifests" / manifest[:2] / f"{manifest}.json")
    spoil(root / "bases" / f"{base.record}.json")
    return Store.open(root)


def test_the_rest_is_listed_and_the_damaged_ones_are_named(damaged: Store) -> None:
    told: dict[str, CkptfmtError] = {}
    rows = damaged.list_refs(damaged=told.__setitem__)
    assert [row.ref for row in rows] == ["a"]
    assert told.keys() == {"b", "c", "bases/d"}
    assert all(error.exit_code == 3 for error in told.values())
    with pytest.raises(IntegrityError):
        damaged.list_refs()


def test_a_damaged_base_record_hides_no_checkpoint_that_needs_it(store: Store, tmp_path: Path) -> None:
    made = store.add_base("base", model(tmp_path / "base", 1))
    store.import_checkpoint(model(tmp_path / "same", 1), "same", base="base")
    assert store.list_refs()[0].needs_base is not None
    spoil(Path(store.path) / "bases" / f"{made.record}.json")
    told: list[str] = []
    again = Store.open(store.path)
    [row] = again.list_refs(damaged=lambda name, _: told.append(name))
    assert told == ["bases/base"]
    assert row.needs_base is not None and row.needs_base.last_seen == str(tmp_path / "base")
    with pytest.raises(IntegrityError):
        again.list_refs()


def test_stats_count_the_rest(damaged: Store) -> None:
    told: list[str] = []
    assert damaged.stats(damaged=lambda name, _: told.append(name)).checkpoints == 1
    assert sorted(told) == ["b", "bases/d", "c"], "each is told of once"


def test_stats_count_what_is_bound_to_a_damaged_base(store: Store, tmp_path: Path) -> None:
    made = store.add_base("base", write_base(tmp_path / "base"))
    store.import_checkpoint(write_adapter(tmp_path / "one", 1), "one", base="base")
    spoil(Path(store.path) / "bases" / f"{made.record}.json")
    told: list[str] = []
    with Store.open(store.path) as opened:
        stats = opened.stats(damaged=lambda name, _: told.append(name))
    assert (stats.checkpoints, stats.plans, told) == (1, (), ["bases/base"])


def test_what_was_damaged_after_it_was_counted_hides_no_other(store: Store, tmp_path: Path) -> None:
    """Sizes are remembered; which base a checkpoint needs is looked up in its manifest."""
    ids = {name: store.import_checkpoint(model(tmp_path / name, number), name) for number, name in enumerate("ab")}
    for shard in Path(store.path).glob("shards/*/*"):
        shard.unlink()
    with Store.open(store.path) as opened:
        assert [row.ref for row in opened.list_refs()] == ["a", "b"]
    manifest = ids["a"].manifest
    spoil(Path(store.path) / "manifests" / manifest[:2] / f"{manifest}.json")
    told: list[str] = []
    with Store.open(store.path) as opened:
        assert [row.ref for row in opened.list_refs(damaged=lambda name, _: told.append(name))] == ["b"]
    assert told == ["a"]


def test_verify_names_them_and_goes_on(damaged: Store) -> None:
    report = damaged.verify()
    assert {name for item in report.damaged for name in item.checkpoints} == {"b", "c", "bases/d"}
    assert report.objects > 0


def test_a_checkpoint_that_needs_nothing_of_its_damaged_base_is_restored(store: Store, tmp_path: Path) -> None:
    made = store.add_base("base", model(tmp_path / "base", 1), keep="copy")
    store.import_checkpoint(model(tmp_path / "tuned", 2), "tuned", base="base")
    spoil(Path(store.path) / "bases" / f"{made.record}.json")
    Store.open(store.path).restore("tuned", tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "tuned/model.safetensors").read_bytes()


def test_a_checkpoint_that_needs_the_files_of_a_damaged_base_is_listed(store: Store, tmp_path: Path) -> None:
    made = store.add_base("base", model(tmp_path / "base", 1))
    store.import_checkpoint(model(tmp_path / "same", 1), "same", base="base")
    assert store.list_refs()[0].needs_base is not None
    spoil(Path(store.path) / "bases" / f"{made.record}.json")
    told: list[str] = []
    with Store.open(store.path) as opened:
        (row,) = opened.list_refs(damaged=lambda name, _: told.append(name))
    assert (row.ref, set(told)) == ("same", {"bases/base"})
    assert row.needs_base is not None
    assert (row.needs_base.name, row.needs_base.record) == ("base", made.record)
