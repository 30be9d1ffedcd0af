"""Many checkpoints at once: what is planned is what is done, stages are linked, one failure keeps the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.errors import CkptfmtError, InvalidInput
from tests.api.test_names import model
from tests.conftest import Made
from tests.fixtures import experts, peft_adapters, stages, torchtune_outputs, trainer
from tests.transfer.trees import files_of, nothing_unfinished

pytestmark = pytest.mark.fixtures


@pytest.mark.parametrize(
    "maker",
    [stages.make, torchtune_outputs.make, torchtune_outputs.make_experiment, trainer.make, experts.make],
    ids=lambda maker: f"{maker.__module__.rpartition('.')[2]}.{maker.__name__}",
)
def test_what_is_planned_is_done(maker: object, checkpoint: Made, store: Store) -> None:
    source = checkpoint(maker)
    plan = store.plan_import(source, name="x/{name}")
    assert store.list_refs() == []
    report = store.import_path(source, name="x/{name}")
    assert report.failed == () and report.left == plan.left
    assert [(each.ref, each.layout) for each in plan.checkpoints] == [
        (each.ref, each.layout) for each in report.checkpoints
    ]
    ids = {each.ref: each.manifest for each in report.checkpoints}
    for planned in plan.checkpoints:
        lineage = store.show(planned.ref).manifest.lineage
        assert (lineage.stage if lineage else None) == planned.stage
        assert (lineage.parent if lineage else None) == (ids[planned.parent] if planned.parent else None)
        assert planned.path.startswith(str(source))
    assert report.logical_bytes == sum(each.logical_bytes for each in report.checkpoints)
    assert report.new_bytes == sum(each.new_bytes for each in report.checkpoints)
    assert [row.ref for row in store.list_refs()] == sorted(ids)


def parents(store: Store, name: str = "s") -> dict[str, str | None]:
    return {row.ref.removeprefix(f"{name}/"): (row.parent or "").removeprefix(f"{name}/") or None
            for row in store.list_refs(name)}  # fmt: skip


def test_stages_are_linked_by_number(checkpoint: Made, store: Store) -> None:
    """Two series side by side: each stage follows the one of its own kind."""
    store.import_path(checkpoint(stages.make), name="s/{name}")
    assert parents(store) == {
        "stage_1_lora": None,
        "stage_2_lora": "stage_1_lora",
        "stage_3_lora": "stage_2_lora",
        "stage_1_outputs": None,
        "stage_2_outputs": "stage_1_outputs",
        "stage_3_outputs": "stage_2_outputs",
    }


def test_stages_in_odd_orders(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """Numbers count as numbers, gaps are not bridged, different runs do not mix, suffixes may change."""
    adapter = checkpoint(peft_adapters.make)
    for name in ("a/stage-9", "a/stage-10", "a/stage-11", "a/stage-13", "b/stage-10", "c/stage_1_sft", "c/stage_2_dpo"):
        shutil.copytree(adapter, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "note.txt").write_text(name)
    store.import_path(tmp_path / "runs", name="s/{name}")
    assert parents(store) == {
        "a/stage-9": None, "a/stage-10": "a/stage-9", "a/stage-11": "a/stage-10", "a/stage-13": None,
        "b/stage-10": None, "c/stage_1_sft": None, "c/stage_2_dpo": "c/stage_1_sft",
    }  # fmt: skip


def test_a_parent_by_hand(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    first = store.import_checkpoint(checkpoint(peft_adapters.make), "first")
    second = store.import_checkpoint(
        checkpoint(peft_adapters.make, method="dora"),
        "second",
        parent="first",
        stage=2,
        how="stack",
        stage_dtype="bf16",
    )
    lineage = store.show("second").manifest.lineage
    assert lineage is not None
    assert (lineage.parent, lineage.stage, lineage.how, lineage.dtype) == (first.manifest, 2, "stack", "bf16")
    assert store.list_refs()[1].parent == "first"
    assert [step.manifest for step in store.log("second").lineage] == [second.manifest, first.manifest]
    # By id and by generation too; the id, not the name, is recorded.
    for number, parent in enumerate((first.manifest[:12], "first@1")):
        store.import_checkpoint(checkpoint(peft_adapters.make, method="dora"), f"p{number}", parent=parent, stage=2,
                                how="stack", stage_dtype="bf16")  # fmt: skip
        assert store.show(f"p{number}").id == second.manifest
    with pytest.raises(InvalidInput):
        store.import_path(checkpoint(stages.make), name="x/{name}", parent="first")


def test_a_failure_keeps_the_rest(store: Store, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number in range(4):
        model(runs / f"run_{number}", number)
    (runs / "run_1" / "model.safetensors").write_bytes(b"no such thing")
    (runs / "run_3" / "state.pt").write_bytes(b"PK\x03\x04")
    report = store.import_path(runs, name="sweep/{name}")
    assert [each.ref for each in report.checkpoints] == ["sweep/run_0", "sweep/run_2"]
    assert [(each.ref, each.code, each.exit_code) for each in report.failed] == [
        ("sweep/run_1", "malformed", 5),
        ("sweep/run_3", "malformed", 5),
    ]
    for failed, file in zip(report.failed, ("model.safetensors", "state.pt"), strict=True):
        assert failed.path == str(runs / failed.ref.removeprefix("sweep/"))
        assert f"{failed.path}/{file}" in failed.message and failed.hint
    assert [row.ref for row in store.list_refs()] == ["sweep/run_0", "sweep/run_2"]
    assert nothing_unfinished(Path(store.path))
    store.restore("sweep/run_2", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(runs / "run_2")
    again = store.import_path(runs, name="sweep/{name}", damaged_as_opaque=True)
    assert len(again.checkpoints) == 4 and again.failed == ()


def test_all_of_many_fail(store: Store, tmp_path: Path) -> None:
    for number in range(2):
        model(tmp_path / "runs" / f"run_{number}", number)
        (tmp_path / "runs" / f"run_{number}" / "model.safetensors").write_bytes(b"no such thing")
    report = store.import_path(tmp_path / "runs", name="{name}")
    assert report.checkpoints == () and len(report.failed) == 2 and report.logical_bytes == report.new_bytes == 0
    assert store.list_refs() == []


def test_a_stage_whose_parent_failed(checkpoint: Made, store: Store, tmp_path: Path) -> None:
    """It is not taken in under a lineage that is not true; it can be, alone, once the user says so."""
    chain = tmp_path / "chain"
    for number in (1, 2, 3):
        shutil.copytree(checkpoint(peft_adapters.make), chain / f"stage_{number}")
        (chain / f"stage_{number}" / "note.txt").write_text(str(number))
    (chain / "stage_2" / "adapter_model.safetensors").write_bytes(b"no such thing")
    report = store.import_path(chain, name="c/{name}")
    assert [each.ref for each in report.checkpoints] == ["c/stage_1"]
    assert [(each.ref, each.exit_code) for each in report.failed] == [("c/stage_2", 5), ("c/stage_3", 2)]
    assert "c/stage_2" in report.failed[1].message and report.failed[1].hint


def test_one_that_fails_raises(store: Store, tmp_path: Path) -> None:
    model(tmp_path / "run", 1)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(CkptfmtError):
        store.import_path(tmp_path / "run", name="x")


def test_names_of_many(store: Store, tmp_path: Path) -> None:
    """`{name}` is the path below; what no ref can be called is spelled with '-'; files that belong nowhere are told."""
    for name in ("run 1 (best)", "größe", "deep/er/run_2", "a,b"):
        model(tmp_path / "runs" / name, len(name))
    (tmp_path / "runs" / "notes.md").write_text("notes")
    (tmp_path / "runs" / "deep" / "plot.png").write_bytes(b"png")
    report = store.import_path(tmp_path / "runs", name="x/{name}/y")
    assert sorted(each.ref for each in report.checkpoints) == [
        "x/a-b/y",
        "x/deep/er/run_2/y",
        "x/gr-e/y",
        "x/run-1-best-/y",
    ]
    assert report.left == ("deep/plot.png", "notes.md")
