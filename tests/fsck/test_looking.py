"""What `fsck` says of a store: every damage of the page on damage is named with whom it harms, and nobody else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from ckptfmt.api.repairing import FsckReport, fsck_path
from ckptfmt.digest import digest_of
from ckptfmt.errors import CkptfmtError
from ckptfmt.format import documents
from ckptfmt.format.refs import TrashMarker
from ckptfmt.progress import SILENT
from ckptfmt.store.publish import pinned
from tests.cli.made import Shell
from tests.format.test_damage import (
    RELATIVE,
    STORE,
    _damages,
    _relative_damages,
    golden,
    relative,
)
from tests.store.making import write_adapter, write_base, write_model, write_small

__all__ = ["golden", "relative"]

KINDS = {
    "bit in a frame of its own": {"object-damaged"},
    "bit in a shared frame": {"object-damaged"},
    "bit in the header of its own shard": {"shard-header"},
    "own shard cut short": {"shard-length"},
    "own shard with a byte more": {"shard-length"},
    "own shard gone": {"objects-missing"},
    "bit in its manifest": {"manifest-damaged"},
    "bit in its current generation": {"generation-damaged"},
    "bit in store.json": {"store-document"},
    "bit in checkpoint-1": {"object-damaged"},
    "bit in checkpoint-2": {"object-damaged"},
    "bit in checkpoint-3": {"object-damaged"},
    "shard of checkpoint-1 gone": {"objects-missing"},
    "bit in checkpoint-1, and a sound copy": {"object-damaged"},
    "bit in the base's file": {"base-files"},
    "base's file cut to half": {"base-files"},
    "base's files gone": {"base-files"},
    "bit in the base's record": {"record-damaged", "objects-missing"},
}


def harmed(report: FsckReport) -> set[str]:
    return {name for problem in report.problems for name in problem.harms}


def kinds(report: FsckReport) -> set[str]:
    return {problem.kind for problem in report.problems}


def looked(path: Path, *, full: bool = True) -> FsckReport:
    try:
        with Store.open(path) as store:
            return store.fsck(full=full)
    except CkptfmtError as error:
        assert error.code == "damaged"
        return fsck_path(str(path), full=full, repair=False, progress=SILENT)


@pytest.mark.parametrize("case", STORE, ids=lambda case: case["change"])
def test_each_damage_is_named_with_whom_it_harms(case: dict[str, Any], golden: Path) -> None:
    _damages(golden)[case["change"]]()
    if case["exp1"] == "no-store":
        with pytest.raises(CkptfmtError, match="no store"):
            Store.open(golden)
        return
    report = looked(golden)
    assert kinds(report) == KINDS.get(case["change"], set())
    assert ("runs/exp1" in harmed(report)) == (case["exp1"] is not None)
    assert ("runs/exp-2/stage_1" in harmed(report)) == (not case["stage_1"])
    assert report.damaged == (case["exp1"] is not None or not case["stage_1"])


@pytest.mark.parametrize("case", RELATIVE, ids=lambda case: case["change"])
def test_damage_of_what_others_are_stored_against(case: dict[str, Any], relative: Path) -> None:
    with Store.open(relative) as store:
        store.verify_base("far", path=relative.parent / "base")
    _relative_damages(relative)[case["change"]]()
    report = looked(relative)
    assert kinds(report) == KINDS.get(case["change"], set())
    expected = {f"run/checkpoint-{number}" for number in "123" if case[number] is not None}
    expected |= {"runs/far", "runs/far-f16"} if case["far"] is not None else set()
    assert {name for name in harmed(report) if not name.startswith("bases/")} == expected


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    """A referenced base, an adapter on it, a stage that was trained from it, and a full model of two generations."""
    store.add_base("tiny", write_base(tmp_path / "base"))
    store.import_checkpoint(write_adapter(tmp_path / "one", 1), "runs/one", base="tiny")
    store.import_checkpoint(write_adapter(tmp_path / "two", 2), "runs/two", base="tiny", parent="runs/one")
    store.import_checkpoint(write_small(tmp_path / "old", {"a": 1}), "full")
    store.import_checkpoint(write_model(tmp_path / "new", {"a": 2}), "full")
    return store


def target(store: Store, name: str) -> Path:
    digest = store.engine.resolve(name)[0]
    return Path(store.path) / "manifests" / digest[:2] / f"{digest}.json"


def test_a_sound_store_has_no_problems_and_is_not_written(filled: Store) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in Path(filled.path).rglob("*")}

    before = state()
    report = filled.fsck(full=True)
    assert (report.problems, report.notes, report.repaired) == ((), (), ())
    assert (report.refs, report.shards) == (4, len(list(Path(filled.path).glob("shards/*/*"))))
    assert report.objects > 0
    assert state() == before


def test_a_parent_that_is_gone_harms_its_descendants(filled: Store) -> None:
    gone = target(filled, "runs/one")
    gone.unlink()
    found = {problem.kind: problem for problem in looked(Path(filled.path)).problems}
    problem = found.get("lineage") or found["manifest-missing"]
    assert problem.path == str(gone.relative_to(filled.path))
    assert set(problem.harms) == {"runs/one", "runs/two"}
    assert str(Path(filled.path).parent / "one") in (problem.hint or "")


def test_an_older_generation_is_named_by_its_number(filled: Store) -> None:
    path = target(filled, "full@1")
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    assert harmed(looked(Path(filled.path))) == {"full@1"}


def test_the_generation_before_a_damaged_one_is_offered(filled: Store) -> None:
    path = Path(filled.path) / "refs/full/2.json"
    path.write_bytes(path.read_bytes()[:-9])
    (problem,) = looked(Path(filled.path)).problems
    assert (problem.kind, problem.harms) == ("generation-damaged", ("full",))
    assert "full@1" in (problem.hint or "")


def test_a_gap_in_the_numbers_is_a_problem_and_no_damage(filled: Store) -> None:
    (Path(filled.path) / "refs/full/1.json").unlink()
    report = looked(Path(filled.path))
    assert (kinds(report), report.damaged) == ({"generation-gone"}, False)


def test_a_generation_under_another_name_is_damaged(filled: Store) -> None:
    os.rename(Path(filled.path) / "refs/full/2.json", Path(filled.path) / "refs/full/3.json")
    report = looked(Path(filled.path))
    assert kinds(report) == {"generation-damaged", "generation-gone"}
    assert harmed(report) == {"full"}


def test_a_manifest_that_lies_about_its_files_is_damaged(filled: Store) -> None:
    """Its digest holds, and what it says cannot be."""
    document = json.loads(target(filled, "full").read_bytes())
    document["files"][0]["path"] = "../escaped"
    data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    digest = digest_of(data)
    path = Path(filled.path) / "manifests" / digest[:2] / f"{digest}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    (problem,) = looked(Path(filled.path)).problems
    assert (problem.kind, problem.path) == ("manifest-damaged", str(path.relative_to(filled.path)))


def test_what_is_needed_and_lies_in_the_trash_is_a_problem(filled: Store) -> None:
    root = Path(filled.path)
    run = root / "trash/one"
    run.mkdir(parents=True)
    (run / "marker.json").write_bytes(documents.seal(_marker()))
    for path in root.glob("shards/*/*"):
        path.rename(run / str(path.relative_to(root)).replace("/", ","))
    manifest = target(filled, "full")
    manifest.rename(run / str(manifest.relative_to(root)).replace("/", ","))
    report = looked(root)
    assert (kinds(report), report.damaged) == ({"trashed"}, False)
    assert harmed(report) >= {"runs/one", "runs/two", "full"}


def _marker() -> TrashMarker:
    return TrashMarker(version=1, host="here", time="2026-01-01T00:00:00Z")


def test_what_writers_leave_is_told_and_no_problem(filled: Store) -> None:
    root = Path(filled.path)
    old = time.time() - 48 * 3600
    (root / "tmp/unfinished").write_bytes(b"x")
    (root / "shards/notes.txt").write_text("mine")
    with pinned(filled.engine, target(filled, "full").stem):
        (pin,) = root.glob("pins/*")
        shutil.copy(pin, kept := root / "pins" / pin.name.replace("-", "-1", 1))
    torn = root / "pins" / kept.name.replace("-", "-2", 1)
    torn.write_bytes(kept.read_bytes()[:20])
    for path in (root / "tmp/unfinished", kept):
        os.utime(path, (old, old))
    report = looked(root)
    assert {note.kind for note in report.notes} == {"unfinished", "stray", "pin-left"}
    assert (kinds(report), report.damaged, harmed(report)) == ({"pin-damaged"}, False, set())


def test_the_verb_ends_with_the_code_of_the_worst(store_with: Shell, tmp_path: Path) -> None:
    root = tmp_path / ".ckptfmt"
    assert store_with("fsck").code == 0
    (root / "refs/full/1.json").unlink()
    assert store_with("fsck").code == 1
    shard = max(root.glob("shards/*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert store_with("fsck").code == 1, "frames are read with --full only"
    ran = store_with("fsck", "--full")
    assert ran.code == 3
    assert "harms full" in ran.out
    assert "hint: ckptfmt fsck --full --repair" in ran.out
    (root / "store.json").write_bytes(b"{}")
    ran = store_with("fsck")
    assert (ran.code, "store-document" in ran.out) == (3, True)


@pytest.fixture
def store_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    sh = Shell(capsys)
    sh.ok("init")
    for number in (1, 2):
        sh.ok("import", str(write_model(tmp_path / f"m{number}", {"a": number})), "--name", "full")
    return sh
