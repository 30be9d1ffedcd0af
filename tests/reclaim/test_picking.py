"""A cleanup of some of the checkpoints, and what a plan says of files that stay."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ckptfmt.api import cleaning
from ckptfmt.cli.app import run
from ckptfmt.errors import NotFound
from ckptfmt.reclaim.proving import prove
from tests.reclaim.making import Place, settle


def staying(planned: cleaning.Planned) -> dict[str, str]:
    return {each.path: each.reason for each in planned.shown.staying}


def test_only_what_was_picked_goes(place: Place) -> None:
    first, second = place.bloated("first"), place.bloated("second", seed=3)
    planned = place.plan(only=[first.parent])
    assert [file.path for each in planned.shown.checkpoints for file in each.files] == [str(first)]
    assert planned.shown.freed_bytes == first.stat().st_blocks * 512
    assert staying(planned) == {str(second): "its checkpoint was not picked"}
    report = cleaning.execute(place.store, planned, prover=prove)
    assert report.held_bytes == planned.shown.freed_bytes
    assert not first.exists()
    assert second.exists()


def test_nothing_picked_takes_nothing(place: Place) -> None:
    place.bloated()
    planned = place.plan(only=[])
    assert planned.shown.files == 0
    assert planned.shown.freed_bytes == 0


def test_a_file_with_a_name_in_what_was_not_picked_stays(place: Place) -> None:
    """Two checkpoints with one file: taking one of its names frees nothing, and the plan says whose file it is."""
    first = place.bloated("first")
    twin = place.tree / "second"
    shutil.copytree(first.parent, twin)
    (twin / first.name).unlink()
    os.link(first, twin / first.name)
    settle(place.tree)
    both = place.plan()
    assert both.shown.files == 2
    assert both.shown.freed_bytes == first.stat().st_blocks * 512
    one = place.plan(only=[twin])
    assert one.shown.files == 0
    assert one.shown.freed_bytes == 0
    assert staying(one)[str(twin / first.name)] == (
        f"a hard link to {first}, which stays: taking it would free nothing"
    )


def test_a_plan_tells_what_the_choice_of_weights_keeps(place: Place) -> None:
    path = place.bloated()
    (told,) = place.plan(keep_weights="full").shown.staying
    assert told.path == str(path)
    assert told.reason.startswith("--keep-weights full keeps it; goes with adapter: ")
    assert place.plan().shown.staying == ()


def test_a_base_that_the_store_reads_stays_and_is_told(place: Place) -> None:
    path = place.bloated()
    base = place.tree / "base"
    base.mkdir()
    for name in ("model.safetensors", "config.json"):
        if (path.parent / name).exists():
            shutil.copy2(path.parent / name, base / name)
    settle(place.tree)
    place.store.add_base("mine", base)
    assert staying(place.plan())[str(base / path.name)].startswith("a base of the store is read from here")


def test_a_plan_tells_the_names_that_things_get(place: Place) -> None:
    """A name that ever stood is not given again: neither one that stands nor one that was dropped."""
    place.bloated("first")
    place.bloated("second", seed=3)
    other = place.bloated("other", seed=4)
    place.store.import_checkpoint(other.parent, "tree/first")
    place.store.import_checkpoint(other.parent, "tree/second")
    place.store.drop("tree/second")
    planned = place.plan(only=[place.tree / "first", place.tree / "second"])
    told = [each.ref for each in planned.shown.checkpoints]
    assert told == ["tree/first.2", "tree/second.2"]
    assert list(cleaning.execute(place.store, planned, prover=prove).refs) == told


def test_only_names_what_a_scan_shows(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    path = place.bloated()
    with pytest.raises(NotFound, match="no checkpoint in the directories"):
        place.plan(only=[place.tree / "nothing"])
    assert run(["cleanup", str(place.tree), "--only", str(path.parent), "--store", place.store.path]) == 0
    assert str(path) in capsys.readouterr().out


def test_what_is_purged_is_what_the_plan_held(place: Place, tmp_path: Path) -> None:
    """A hold that ends between the plan of a purge and the purge is not deleted by it."""
    place.bloated("first")
    first = place.clean(hold_days=0.00001)
    place.bloated("second", seed=3)
    held = place.clean()
    planned = cleaning.plan_purge(place.store, first.receipt)
    assert [row.held_bytes for row in planned.report.plan or ()] == [first.held_bytes]
    done = cleaning.execute_purge(place.store, planned, prover=prove)
    assert done.freed_bytes == first.held_bytes
    assert {row.receipt: row.state for row in cleaning.list_receipts(place.store)} == {
        first.receipt: "purged",
        held.receipt: "held",
    }


@pytest.mark.parametrize("other", ["purge", "undo"])
def test_what_somebody_else_did_since_the_plan_is_left_as_it_is(place: Place, other: str) -> None:
    place.bloated("first")
    held = place.clean()
    planned = cleaning.plan_purge(place.store, held.receipt)
    if other == "purge":
        cleaning.execute_purge(place.store, cleaning.plan_purge(place.store, held.receipt), prover=prove)
    else:
        cleaning.undo_cleanup(place.store, held.receipt or "")
    before = cleaning.list_receipts(place.store)
    done = cleaning.execute_purge(place.store, planned, prover=prove)
    assert (done.freed_bytes, done.refused) == (0, ())
    assert cleaning.list_receipts(place.store) == before
