"""A cleanup on a nearly full disk is refused before the first write, or done; never in between."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.api.scanning import scan
from ckptfmt.errors import StorageError
from ckptfmt.reclaim import executing, space
from ckptfmt.reclaim.evidence import shared_extents
from ckptfmt.reclaim.finding import file_seen
from ckptfmt.reclaim.proving import prove
from ckptfmt.reclaim.rows import freed_by
from ckptfmt.storage import durable
from tests.faults import seam
from tests.reclaim.making import Place, allocated
from tests.store.making import tree_of

Mounted = Callable[[int], Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Mount a file system in memory of so many bytes, all of which a test may write."""
    made: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk-{len(made)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "ckptfmt-test", str(place)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip("mounting a file system in memory needs root")
        made.append(place)
        return place

    yield mount
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


def filled(root: Path, free: int) -> None:
    """Leave `free` bytes of a disk."""
    with (root / "filler").open("wb") as file:
        file.write(bytes(max(0, space.available(str(root)) - free)))


@pytest.mark.parametrize("days", [0, 7])
def test_every_amount_of_space_is_enough_or_refused(mounted: Mounted, days: int) -> None:
    needed = 0
    outcomes = set()
    for share in (0.0, 0.05, 0.3, 0.6, 0.9, 0.999, 1.001, 1.5):
        root = mounted(4 << 20)
        (root / "tree").mkdir()
        with Store.init(root / "store") as store:
            place = Place(root, store)
            for number in range(3):
                place.bloated(f"runs/{number}", seed=number)
            planned = place.plan(hold_days=days)
            needed = planned.shown.needed_bytes
            filled(root, int(needed * share))
            before, inside = tree_of(root / "tree"), tree_of(root / "store")
            counter = seam.Counter()
            try:
                with durable.observed(counter):
                    report = cleaning.execute(store, planned, prover=prove)
            except StorageError as error:
                assert error.code == "disk-full"
                assert counter.calls == []
                assert (tree_of(root / "tree"), tree_of(root / "store")) == (before, inside)
                outcomes.add("refused")
            else:
                assert report.refused == ()
                assert len(report.refs) == 3
                outcomes.add("done")
                assert share > 1
                if days == 0:
                    assert report.freed_bytes == planned.shown.freed_bytes
    assert outcomes == {"refused", "done"}


def test_a_tree_that_cannot_be_changed_is_refused_before_anything_is_taken_in(mounted: Mounted, place: Place) -> None:
    root = mounted(4 << 20)
    tree = Place(root, place.store)
    (root / "tree").mkdir()
    tree.bloated("runs/0")
    before = scan([tree.tree])
    assert before.reclaimable_bytes > 0 and before.locked == ()
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    report = scan([tree.tree])
    assert (report.redundant, report.reclaimable_bytes, report.reclaimable["none"]) == (before.redundant, 0, 0)
    planned = tree.plan()
    assert planned.shown.checkpoints == ()
    (refused,) = planned.report.refused
    assert refused.path == str(root / "tree" / "runs" / "0")
    assert [(each.path, each.reason) for each in report.locked] == [(refused.path, refused.reason)]
    assert refused.reason == f"nothing can be moved: {root / 'tree'} cannot be written to"
    counter = seam.Counter()
    with durable.observed(counter):
        done = cleaning.execute(place.store, planned, prover=prove)
    assert (done.receipt, done.refused, done.refs) == (None, (refused,), ())
    assert counter.calls == []


def test_the_disk_gives_back_what_was_said(mounted: Mounted) -> None:
    root = mounted(16 << 20)
    (root / "tree").mkdir()
    with Store.init(root / "store") as store:
        place = Place(root, store)
        for number in range(3):
            place.bloated(f"runs/{number}", seed=number)
        planned = place.plan(hold_days=0)
        free = space.available(str(root))
        report = cleaning.execute(store, planned, prover=prove)
        assert report.freed_bytes == planned.shown.freed_bytes
        assert space.available(str(root)) - free == report.freed_bytes - report.grown_bytes


def test_less_space_than_needed_without_root(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bloated()
    planned = place.plan()
    before = tree_of(place.tree)
    monkeypatch.setattr(executing, "available", lambda path: planned.shown.needed_bytes - 1)
    counter = seam.Counter()
    with durable.observed(counter), pytest.raises(StorageError, match="nothing was written") as caught:
        cleaning.execute(place.store, planned, prover=prove)
    assert caught.value.code == "disk-full"
    assert caught.value.hint is not None
    assert counter.calls == []
    assert tree_of(place.tree) == before
    monkeypatch.setattr(executing, "available", lambda path: planned.shown.needed_bytes)
    assert cleaning.execute(place.store, planned, prover=prove).refused == ()


def test_others_who_fill_the_disk_meanwhile_stop_it_between_two_checkpoints(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place.bloated(f"runs/{number}", seed=number)
    planned = place.plan()
    free = iter([1 << 40, 1 << 40, 0, 0])
    monkeypatch.setattr(executing, "available", lambda path: next(free))
    report = cleaning.execute(place.store, planned, prover=prove)
    assert [Path(each.path).name for each in report.refused] == ["1", "2"]
    assert not (place.tree / "runs" / "0" / "model.safetensors").exists()
    assert (place.tree / "runs" / "1" / "model.safetensors").exists()


def test_what_is_in_the_store_already_needs_no_space(place: Place) -> None:
    place.bloated()
    first = place.plan().shown.needed_bytes
    place.store.import_checkpoint(place.tree / "run", "mine")
    again = place.plan()
    assert again.shown.needed_bytes == space.STEP_BYTES < first
    assert again.shown.checkpoints[0].ref == "mine"


def test_sparse_files_free_what_they_take(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x" * 4096)
    seen = file_seen("sparse", path.lstat())
    assert freed_by([(str(path), seen, 0)]) == allocated(tmp_path) - os.lstat(tmp_path).st_blocks * 512 < 1 << 20


def test_extents_are_asked_for_where_the_file_system_knows_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        assert shared_extents(descriptor) == 0
    except OSError as error:
        pytest.skip(f"the file system does not tell of extents: {error.strerror}")
    finally:
        os.close(descriptor)
