"""The verbs `scan` and `cleanup`: keys, exit codes, what is written without `--apply`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.cli.app import run
from ckptfmt.progress import Silent
from ckptfmt.reclaim import proving
from tests.reclaim.making import Place, settle
from tests.store.making import tree_of

Shell = Callable[..., tuple[int, Any]]


@pytest.fixture
def sh(place: Place, capsys: pytest.CaptureFixture[str]) -> Shell:
    def call(*words: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*map(str, words), "--store", place.store.path, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_the_keys_of_scan(place: Place, sh: Shell) -> None:
    path = place.bloated()
    code, document = sh("scan", place.tree)
    assert code == 0
    assert {"checkpoints", "redundant", "reclaimable_bytes"} <= document.keys()
    (row,) = document["redundant"]
    assert row["path"] == str(path)
    assert {"path", "bytes", "reason", "proof"} <= row.keys()
    assert row["bytes"] == path.stat().st_size
    assert document["reclaimable_bytes"] == path.stat().st_blocks * 512


def test_scan_needs_no_store(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place.bloated()
    monkeypatch.chdir(place.tree)
    assert run(["scan", "."]) == 0
    assert "cleanup would free" in capsys.readouterr().out
    assert run(["scan", ".", "--store", "/nowhere"]) == 10
    assert run(["scan", "./not-there"]) == 1


def test_each_of_many_is_told_with_its_number(place: Place) -> None:
    class Steps(Silent):
        labels: ClassVar[list[str]] = []

        def begin(self, label: str, total_bytes: int | None) -> None:
            self.labels.append(label)

    place.bloated("one")
    place.bloated("two", seed=1)
    cleaning.execute(place.store, place.plan(), prover=proving.prove, progress=Steps())
    numbers = [label.partition(" (")[2] for label in Steps.labels]
    assert numbers == ["1 of 2)", "1 of 2)", "2 of 2)", "2 of 2)"], Steps.labels


def test_what_cannot_be_read_is_told(place: Place, sh: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    whole, cut = place.bloated("whole"), place.bloated("cut", seed=1)
    cut.write_bytes(cut.read_bytes()[:-100])
    settle(place.tree)
    code, document = sh("scan", place.tree)
    assert (code, [row["path"] for row in document["redundant"]]) == (0, [str(whole)])
    assert run(["scan", str(place.tree)]) == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cannot be read")]
    assert told.startswith(f"cannot be read, and stays: {cut.parent}: ") and "model.safetensors" in told
    code, document = sh("cleanup", place.tree)
    assert {each["path"]: each["bytes"] for each in document["plan"]["staying"]} == {
        str(cut.parent): sum(path.stat().st_size for path in cut.parent.iterdir())
    }


def test_a_cleanup_from_its_plan_to_its_purge(place: Place, sh: Shell) -> None:
    path = place.bloated()
    before, inside = tree_of(place.tree), tree_of(place.store.path)
    code, document = sh("cleanup", place.tree)
    assert code == 0
    assert {"plan", "held_bytes", "freed_bytes", "hold_until", "refused"} <= document.keys()
    assert (document["receipt"], document["refused"]) == (None, [])
    assert [file["path"] for each in document["plan"]["checkpoints"] for file in each["files"]] == [str(path)]
    assert (tree_of(place.tree), tree_of(place.store.path)) == (before, inside), "a plan writes nothing"

    said = document["plan"]["freed_bytes"]
    code, document = sh("cleanup", place.tree, "--apply")
    assert code == 0
    assert (document["plan"], document["held_bytes"], document["freed_bytes"]) == (None, said, 0)
    assert document["hold_until"]
    receipt = document["receipt"]

    code, document = sh("cleanup", "--purge", "--apply")
    assert (code, document["waiting"], document["freed_bytes"]) == (0, [receipt], 0)
    code, document = sh("cleanup", "--undo", receipt[:17])
    assert (code, document["files"], document["refused"]) == (0, 1, [])
    assert tree_of(place.tree) == before

    code, document = sh("cleanup", place.tree, "--apply", "--hold", "0.000001")
    assert code == 0
    receipt = document["receipt"]
    time.sleep(1.1)
    code, document = sh("cleanup", "--purge")
    assert (code, [row["receipt"] for row in document["plan"]]) == (0, [receipt])
    code, document = sh("cleanup", "--purge", "--apply")
    assert (code, document["freed_bytes"]) == (0, said)
    code, document = sh("cleanup", "--receipts")
    assert [row["state"] for row in document] == ["undone", "purged"]
    code, document = sh("cleanup", "--undo", receipt)
    assert code == 1
    assert "ckptfmt restore" in document["refused"][0]["reason"]
    assert not (place.tree / ".ckptfmt-hold").exists()


def test_a_refusal_is_exit_1(place: Place, sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.bloated()

    def doubt(request: proving.ProofRequest) -> proving.Proof:
        return proving.Proof((), "a doubt")

    monkeypatch.setattr("ckptfmt.api.cleaning.execute.__kwdefaults__", {"prover": doubt, "progress": proving_silent()})
    code, document = sh("cleanup", place.tree, "--apply")
    assert code == 1
    assert document["refused"] == [{"path": str(path.parent), "reason": "a doubt"}]
    assert path.exists()


def proving_silent() -> Any:
    from ckptfmt.progress import SILENT

    return SILENT


def test_too_little_space_is_an_error_document(place: Place, sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bloated()
    monkeypatch.setattr("ckptfmt.reclaim.executing.available", lambda path: 10)
    code, document = sh("cleanup", place.tree, "--apply")
    assert (code, document["error"]["code"]) == (1, "disk-full")
    assert document["error"]["hint"]


@pytest.mark.parametrize(
    "words", [[], ["--undo", "x", "--purge"], ["tree", "--receipts"], ["a", "b", "--purge"], ["tree", "--undo", "x"]]
)
def test_one_thing_at_a_time(place: Place, sh: Shell, words: list[str]) -> None:
    assert sh("cleanup", *words)[0] == 2


def test_nothing_to_clean(place: Place, sh: Shell) -> None:
    code, document = sh("cleanup", place.tree, "--apply")
    assert (code, document["receipt"], document["refused"]) == (0, None, [])
    assert sh("cleanup", "--undo", "20000101")[0] == 1
    assert sh("cleanup", place.store.path)[0] == 2


def test_text_for_people(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.bloated()
    store = ["--store", place.store.path]
    assert run(["cleanup", str(place.tree), *store]) == 0
    shown = capsys.readouterr()
    assert "nothing was written; --apply does it" in shown.err
    assert "the store may need" in shown.out
    assert run(["cleanup", str(place.tree), "--apply", *store]) == 0
    shown = capsys.readouterr()
    assert "puts everything back" in shown.out
    assert run(["cleanup", "--receipts", *store]) == 0
    shown = capsys.readouterr()
    assert "held" in shown.out
    receipt = shown.out.splitlines()[1].split()[0]
    assert run(["cleanup", "--undo", receipt, *store]) == 0
    assert f"1 file back in place ({receipt})" in capsys.readouterr().out
    assert run(["cleanup", "--undo", receipt, *store]) == 0
    assert f"receipt {receipt} holds nothing any more" in capsys.readouterr().out
    assert run(["cleanup", str(place.tree), "--apply", "--hold", "0", *store]) == 0
    deleted = capsys.readouterr().out.split()[1]
    assert run(["cleanup", "--undo", deleted, *store]) == 1
    assert "not put back: " in capsys.readouterr().err


def test_directories_inside_one_another_count_once(place: Place, sh: Shell) -> None:
    place.bloated("runs/one")
    code, document = sh("scan", place.tree, place.tree / "runs", place.tree / "runs" / "..")
    assert (code, len(document["redundant"])) == (0, 1)


def test_what_is_held_is_no_checkpoint(place: Place, sh: Shell) -> None:
    place.bloated()
    sh("cleanup", place.tree, "--apply")
    with Store.open(place.store.path) as store:
        report = store.import_path(place.tree, name="all/{name}")
        assert [each.ref for each in report.checkpoints] == ["all/run"]
        assert ".ckptfmt-hold/" in report.left
    assert Path(place.tree / ".ckptfmt-hold").exists()
