from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from ckptfmt import Store
from ckptfmt.progress import Silent
from tests.cli.made import Shell, adapter, full, lying


@pytest.fixture
def stages(elsewhere: Path, store: Shell) -> Path:
    """Two stages, and a file that belongs to neither."""
    adapter(elsewhere / "exp" / "stage-1", seed=1)
    adapter(elsewhere / "exp" / "stage-2", seed=2)
    (elsewhere / "exp" / "notes.md").write_text("remember", encoding="utf-8")
    return elsewhere / "exp"


def test_a_dry_run_shows_the_plan_and_takes_nothing(store: Shell, stages: Path) -> None:
    plan = store.json("import", stages, "--name", "e/{name}", "--dry-run")
    assert [(each["ref"], each["stage"], each["parent"]) for each in plan["checkpoints"]] == [
        ("e/stage-1", 1, None),
        ("e/stage-2", 2, "e/stage-1"),
    ]
    assert plan["left"] == ["notes.md"]
    ran = store.ok("import", stages, "--name", "e/{name}", "--dry-run")
    assert "2 checkpoints in" in ran.out
    assert "stage-2  e/stage-2  peft        2  e/stage-1" in ran.out
    assert "1 path not taken" in ran.out
    assert "notes.md" in ran.out
    assert [row["ref"] for row in store.json("ls", "e/*")] == []


def test_many_checkpoints_show_the_plan_first_and_a_line_each(store: Shell, stages: Path) -> None:
    ran = store.ok("import", stages, "--name", "e/{name}", "--base", "tiny")
    assert "2 checkpoints in" in ran.err
    header, first, second, total = ran.out.splitlines()
    assert header.split() == ["REF", "LAYOUT", "FILES", "LOGICAL", "NEW", "RATIO", "BASE"]
    assert first.startswith("e/stage-1  peft")
    assert first.endswith("tiny (stated)")
    assert second.startswith("e/stage-2")
    assert total.startswith("2 checkpoints: ")
    assert [row["parent"] for row in store.json("ls", "e/*")] == [None, "e/stage-1"]


def test_a_second_import_is_nothing_new(store: Shell) -> None:
    report = store.json("import", "./other", "--name", "full/copy")
    assert report["new_bytes"] < 2000
    again = store.ok("import", "./other", "--name", "full/other")
    assert "saved" in again.out


def test_partly_failed_ends_with_the_worst_code_and_the_rest_is_done(store: Shell, elsewhere: Path) -> None:
    many = elsewhere / "many"
    full(many / "checkpoint-1", seed=1)
    lying(many / "checkpoint-2")
    full(many / "checkpoint-3", seed=3)
    ran = store("import", many, "--name", "m/{name}")
    assert ran.code == 5
    assert [line.split()[0] for line in ran.out.splitlines()] == ["REF", "m/checkpoint-1", "m/checkpoint-3", "2"]
    assert ran.out.rstrip().endswith("1 failed")
    assert "checkpoint-2" in ran.err
    assert "[malformed]" in ran.err
    assert "--damaged-as-opaque" in ran.err

    again = store("import", many, "--name", "n/{name}", "--json")
    assert again.code == 5
    assert again.err == ""
    assert [each["ref"] for each in again.document["checkpoints"]] == ["n/checkpoint-1", "n/checkpoint-3"]
    (failed,) = again.document["failed"]
    assert (failed["ref"], failed["code"], failed["exit_code"]) == ("n/checkpoint-2", "malformed", 5)
    assert again.error["code"] == "malformed"


def test_a_damaged_file_is_taken_whole_only_when_that_is_asked_for(store: Shell, elsewhere: Path) -> None:
    path = lying(elsewhere / "bad")
    assert store("import", path, "--name", "bad").code == 5
    assert store.json("ls", "bad") == []
    ran = store.ok("import", path, "--name", "bad", "--damaged-as-opaque")
    assert "model.safetensors" in ran.out
    store.ok("restore", "bad", "./out")
    assert (elsewhere / "out/model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert "DAMAGED" in store.ok("show", "bad").out


def test_what_is_kept_whole_is_told_with_its_reason(store: Shell, elsewhere: Path) -> None:
    directory = full(elsewhere / "mixed")
    (directory / "optimizer.pt").write_bytes(b"\x80\x04K\x01.")
    report = store.json("import", directory, "--name", "mixed")["checkpoints"][0]
    (opaque,) = report["opaque"]
    assert opaque["path"] == "optimizer.pt"
    ran = store.ok("import", directory, "--name", "mixed/again")
    assert f"optimizer.pt: {opaque['reason']}" in ran.out
    assert opaque["reason"] in store.ok("show", "mixed").out


def test_options_reach_the_manifest(store: Shell, stages: Path) -> None:
    words = ("--parent", "runs/stage-1", "--how", "continue", "--stage-dtype", "bf16", "--stage", "7", "--jobs", "1")
    store.ok("import", stages / "stage-2", "--name", "one", *words, "--effort", "fast", "--message", "by hand")
    lineage = store.json("show", "one")["lineage"]
    assert lineage.pop("parent") == store.json("show", "runs/stage-1")["id"]
    assert lineage == {"stage": 7, "how": "continue", "dtype": "bf16"}
    assert store.json("log", "one")["generations"][0]["message"] == "by hand"
    log = store.ok("log", "one").out
    assert "continue in bf16" in log
    assert "by hand" in log
    assert "stage 7" in store.ok("show", "one").out


def test_each_of_many_is_told_with_its_number(store: Shell, stages: Path) -> None:
    class Steps(Silent):
        labels: ClassVar[list[str]] = []

        def begin(self, label: str, total_bytes: int | None) -> None:
            self.labels.append(label)

    saved: list[str] = []
    with Store.open(".ckptfmt") as opened:
        opened.import_path(stages, name="e/{name}", progress=Steps(), saved=lambda each: saved.append(each.ref))
        opened.import_path(stages / "stage-1", name="alone", progress=Steps())
    assert Steps.labels == ["e/stage-1 (1 of 2)", "e/stage-2 (2 of 2)", "alone"]
    assert saved == ["e/stage-1", "e/stage-2"]
