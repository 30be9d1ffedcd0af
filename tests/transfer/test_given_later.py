"""Adapters and bases that come, or go, after the weights were taken in."""

from __future__ import annotations

import shutil
from pathlib import Path

from ckptfmt import Store
from tests.transfer.test_against import changed, tuned
from tests.transfer.test_known_adapters import Made, comes_back, lowrank_of


def test_the_adapter_is_given_later(store: Store, tmp_path: Path) -> None:
    """The weights are in the store already: they are stored again, against it."""
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    store.import_checkpoint(made.merged, "before", base="base")
    assert lowrank_of(store, "before") == (0, 0)
    done = store.import_checkpoint(made.merged, "merged", base="base", adapter=made.adapter)
    assert done.encodings["lowrank"].logical_bytes > 10_000
    assert not any("nothing was stored" in note for note in done.notes)
    comes_back(store, "before", made.merged, tmp_path / "back")


def test_an_adapter_that_arrives_later_is_tried(store: Store, tmp_path: Path) -> None:
    """What was tried with fewer adapters is tried again by itself, once."""
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    store.import_checkpoint(made.merged, "merged", base="base")
    store.optimize(recovery=False)
    assert store.optimize(recovery=False).checkpoints[0].tried == 0
    store.import_checkpoint(made.adapter, "adapter", base="base")
    assert store.optimize(["merged"], recovery=False).checkpoints[0].smaller > 0
    assert lowrank_of(store, "merged")[0] > 10_000
    assert store.optimize(["merged"], recovery=False).checkpoints[0].tried == 0
    comes_back(store, "merged", made.merged, tmp_path / "back")


def test_a_base_that_is_gone_stops_only_who_needs_it(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    store.import_checkpoint(changed(made.base, tmp_path / "tuned", tuned(1)), "tuned")
    store.import_checkpoint(changed(made.base, tmp_path / "model", tuned(2)), "model", effort="fast")
    assert (needed := store.show("tuned").needs_base) is not None and needed.name == "base"
    shutil.rmtree(made.base)
    report = store.optimize(recovery=False)
    assert [each.ref for each in report.failed] == ["tuned"] and report.failed[0].exit_code == 3
    assert [each.ref for each in report.checkpoints] == ["model"]
