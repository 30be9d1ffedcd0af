"""What `fsck --repair` brings back, and what it leaves alone. Nothing is dropped; a second one has nothing to do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.api.repairing import FsckReport
from ckptfmt.format import documents
from ckptfmt.format.refs import TrashMarker
from ckptfmt.store.publish import pinned
from tests.store.making import files_of, restored, tree_of, write_adapter, write_base, write_model


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Path:
    """A base that was copied in, a referenced one, an adapter on it, and a full model of two generations."""
    store.add_base("kept", write_base(tmp_path / "kept", 40), keep="copy")
    store.add_base("tiny", write_base(tmp_path / "tiny"))
    store.import_checkpoint(write_adapter(tmp_path / "one", 1), "one", base="tiny")
    store.import_checkpoint(write_model(tmp_path / "old", {"a": 1, "b": 3}), "full")
    store.import_checkpoint(write_model(tmp_path / "full", {"a": 2, "b": 3}), "full")
    store.close()
    return Path(store.path)


def repaired(path: Path) -> FsckReport:
    """What a repair gives. A second one has nothing to do, and no file is fewer."""
    before = {each.read_bytes() for each in path.rglob("*") if each.is_file() and "pins" not in each.parts}
    with Store.open(path) as store:
        report = store.fsck(full=True, repair=True)
    with Store.open(path) as store:
        assert store.fsck(full=True, repair=True).repaired == ()
    assert before <= {each.read_bytes() for each in path.rglob("*") if each.is_file()}
    return report


def comes_back(path: Path, tmp_path: Path, *names: str) -> None:
    for name in names:
        with Store.open(path) as store:
            back = restored(store, name, tmp_path / "back" / name)
        assert files_of(back) == files_of(tree_of(tmp_path / name))


def largest(path: Path) -> Path:
    return max(path.glob("shards/*/*"), key=lambda each: each.stat().st_size)


def all_shards(path: Path) -> list[Path]:
    return sorted(path.glob("shards/*/*"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit in the last frame of each": lambda root: [flip(each, -1) for each in all_shards(root)],
    "a bit in the header": lambda root: [flip(each, 100) for each in all_shards(root)],
    "a byte more": lambda root: [each.write_bytes(each.read_bytes() + b"\0") for each in all_shards(root)],
    "cut": lambda root: [os.truncate(each, each.stat().st_size * 2 // 3) for each in all_shards(root)],
    "gone": lambda root: [each.unlink() for each in all_shards(root)],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_shards_come_back_from_the_directories_that_were_taken_in(damage: str, filled: Path, tmp_path: Path) -> None:
    DAMAGES[damage](filled)
    report = repaired(filled)
    assert report.repaired
    assert report.problems == ()
    comes_back(filled, tmp_path, "one", "full")
    with Store.open(filled) as store:
        assert store.verify().damaged == ()
        assert files_of(restored(store, "full@1", tmp_path / "back-old")) == files_of(tree_of(tmp_path / "old"))


@pytest.mark.parametrize("damage", ["a bit in the header", "a byte more"])
def test_a_shard_whose_data_are_sound_needs_no_files(damage: str, filled: Path, tmp_path: Path) -> None:
    """A header is restored from what this host's catalog knew, after each object was proven."""
    for name in ("one", "full", "old", "kept"):
        os.rename(tmp_path / name, tmp_path / f"{name}-away")
    DAMAGES[damage](filled)
    assert repaired(filled).problems == ()
    for name in ("one", "full"):
        os.rename(tmp_path / f"{name}-away", tmp_path / name)
    comes_back(filled, tmp_path, "one", "full")


def test_what_cannot_be_brought_back_stays_and_is_told(filled: Path, tmp_path: Path) -> None:
    for name in ("one", "full", "old", "kept"):
        shutil.rmtree(tmp_path / name)
    damaged = largest(filled)
    begin = 8 + int.from_bytes(damaged.read_bytes()[:8], "little")
    data = damaged.read_bytes()[:begin].ljust(damaged.stat().st_size, b"\0")
    damaged.write_bytes(data)
    with Store.open(filled) as store:
        harmed = {name for each in store.fsck(full=True).problems for name in each.harms}
    assert harmed
    report = repaired(filled)
    assert {name for each in report.problems for name in each.harms} == harmed
    assert report.damaged
    assert damaged.read_bytes() == data


def test_files_that_changed_meanwhile_are_not_believed(filled: Path, tmp_path: Path) -> None:
    for shard in all_shards(filled):
        shard.unlink()
    flip(tmp_path / "full/model.safetensors", -300)  # The last 256 bytes are those of a tensor of `old`, too.
    report = repaired(filled)
    assert "full" in {name for each in report.problems for name in each.harms}
    assert "one" not in {name for each in report.problems for name in each.harms}
    comes_back(filled, tmp_path, "one")


def test_a_base_record_is_made_again_from_its_files(filled: Path, tmp_path: Path) -> None:
    for record in filled.glob("bases/*.json"):
        flip(record, 50)
    report = repaired(filled)
    assert {each.kind for each in report.repaired} == {"record-damaged"}
    assert report.problems == ()
    comes_back(filled, tmp_path, "one")
    assert len(list(filled.glob("damaged/*"))) == 2


def test_what_is_needed_is_linked_back_from_the_trash(filled: Path, tmp_path: Path) -> None:
    run = filled / "trash/one"
    run.mkdir(parents=True)
    (run / "marker.json").write_bytes(documents.seal(TrashMarker(version=1, host="x", time="2026-01-01T00:00:00Z")))
    for path in [*all_shards(filled), *filled.glob("manifests/*/*"), *filled.glob("bases/*")]:
        path.rename(run / str(path.relative_to(filled)).replace("/", ","))
    report = repaired(filled)
    assert report.problems == ()
    shutil.rmtree(run)
    comes_back(filled, tmp_path, "one", "full")


def test_a_name_whose_newest_generation_still_tells_its_target_stands_again(filled: Path, tmp_path: Path) -> None:
    path = filled / "refs/full/2.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"verb":"', b'"vorb":"', 1))
    report = repaired(filled)
    assert ([each.kind for each in report.repaired], report.problems) == (["generation-damaged"], ())
    assert path.read_bytes() != data, "what is damaged is left as it is"
    comes_back(filled, tmp_path, "full")


def test_what_only_a_repaired_manifest_tells_is_repaired_in_the_same_run(filled: Path, tmp_path: Path) -> None:
    """A shard that only it needs and that lies in the trash; and a damaged generation that stood for it."""
    with Store.open(filled) as store:
        digest = store.show("full").id
    flip(filled / "manifests" / digest[:2] / f"{digest}.json", 100)
    generation = filled / "refs/full/2.json"
    generation.write_bytes(generation.read_bytes().replace(b'"verb":"', b'"vorb":"', 1))
    run = filled / "trash/one"
    run.mkdir(parents=True)
    (run / "marker.json").write_bytes(documents.seal(TrashMarker(version=1, host="x", time="2026-01-01T00:00:00Z")))
    for path in all_shards(filled):
        path.rename(run / str(path.relative_to(filled)).replace("/", ","))
    report = repaired(filled)
    assert {each.kind for each in report.repaired} == {"manifest-damaged", "generation-damaged", "trashed"}
    assert report.problems == ()
    shutil.rmtree(run)
    comes_back(filled, tmp_path, "one", "full")


@pytest.mark.parametrize("keep", [60, 10])
def test_a_name_that_stands_for_nobody_knows_what_is_left_alone(keep: int, filled: Path) -> None:
    path = filled / "refs/full/2.json"
    path.write_bytes(path.read_bytes()[:keep])
    report = repaired(filled)
    assert report.repaired == ()
    (problem,) = report.problems
    assert (problem.kind, problem.harms) == ("generation-damaged", ("full",))
    assert "full@1" in (problem.hint or "")
    with Store.open(filled) as store:
        assert store.engine.resolve("full@1")


def test_torn_claims_are_removed_when_nobody_can_be_at_work_on_them(filled: Path) -> None:
    with Store.open(filled) as store, pinned(store.engine, "0" * 64):
        (pin,) = filled.glob("pins/*")
        data = pin.read_bytes()[:30]
    old, young = (filled / f"pins/{'0' * 64}-{number}.json" for number in (1, 2))
    for path in (old, young):
        path.write_bytes(data)
    os.utime(old, (1, time.time() - 2 * 24 * 3600))
    report = repaired(filled)
    assert [each.kind for each in report.repaired] == ["pin-damaged"]
    assert (old.exists(), young.exists()) == (False, True)
    assert [each.path for each in report.problems] == [f"pins/{young.name}"]
