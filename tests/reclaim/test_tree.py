"""The tree of all kinds: scan finds what is redundant, cleaning frees what was said, and all of it comes back."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.api.scanning import scan
from ckptfmt.reclaim.proving import prove, prove_fresh
from tests.reclaim import making
from tests.store.making import tree_of

pytestmark = pytest.mark.fixtures

TWO_HOURS_NS = 7200 * 10**9
SITES = 5


def test_every_redundant_file_of_two_hundred_checkpoints_and_no_other(original: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names = making.make_tree(tree, original, SITES)
    before = tree_of(tree)
    report = scan([tree], now_ns=time.time_ns() + TWO_HOURS_NS)
    assert len(report.checkpoints) >= 200
    wanted = {f"{tree}/{name}/{path}": goes for name in names for path, goes in making.expected(tree / name).items()}
    assert {row.path: row.goes_with for row in report.redundant} == wanted
    assert report.unread == ()
    assert [each.problem for each in report.checkpoints if each.problem] == []
    assert tree_of(tree) == before
    by_default = [row for row in report.redundant if row.goes_with in ("full", "adapter")]
    assert report.reclaimable_bytes == sum(-(-row.bytes // 4096) * 4096 for row in by_default)


def test_a_save_that_may_still_go_on_is_no_partial_one(original: Path, tmp_path: Path) -> None:
    names = making.make_tree(tmp_path / "tree", original, 1)
    report = scan([tmp_path / "tree"])
    assert names
    assert [row.path for row in report.redundant if row.kind == "partial-save"] == []


def cycle(tree: Path, store: Store, prover: Any) -> None:
    """Clean with a hold, undo; clean again, purge; restore everything."""
    before = tree_of(tree)
    said = scan([tree]).reclaimable_bytes
    assert said > 0

    planned = cleaning.plan(store, [tree])
    assert planned.shown.freed_bytes == said
    in_store = making.allocated(Path(store.path))
    held = cleaning.execute(store, planned, prover=prover)
    assert held.refused == ()
    assert (held.held_bytes, held.freed_bytes) == (said, 0)
    assert making.allocated(Path(store.path)) - in_store == held.grown_bytes <= planned.shown.needed_bytes
    assert scan([tree]).reclaimable_bytes == 0
    gone = {file.path for each in planned.shown.checkpoints for file in each.files}
    now = tree_of(tree)
    for path, node in before.items():
        assert (f"{tree}/{path}" in gone) == (path not in now), path
        assert path not in now or now[path] == node, path

    assert held.receipt is not None
    undone = cleaning.undo_cleanup(store, held.receipt)
    assert undone.refused == ()
    assert undone.files == planned.shown.files
    assert tree_of(tree) == before

    taken = making.allocated(tree)
    in_store = making.allocated(Path(store.path))
    done = cleaning.execute(store, cleaning.plan(store, [tree], hold_days=0), prover=prover)
    assert done.refused == ()
    assert done.refs == (), "what stands in the store already is not taken in again"
    assert done.freed_bytes == said == taken - making.allocated(tree)
    assert making.allocated(Path(store.path)) - in_store == done.grown_bytes
    assert {path for path in before if path not in tree_of(tree)} == {path.removeprefix(f"{tree}/") for path in gone}

    for each in planned.shown.checkpoints:
        out = tree.parent / "restored"
        store.restore(each.ref, out)
        for path in sorted(out.rglob("*")):
            file = path.relative_to(out).as_posix()
            found = [root for root in (each.path, str(Path(each.path).parent)) if _below(root, file, tree) in before]
            assert found, (each.ref, file)
            node = before[_below(found[0], file, tree)]
            assert tree_of(path)["."] == node, (each.ref, file)
        shutil.rmtree(out)
    assert store.verify().damaged == ()


def _below(root: str, file: str, tree: Path) -> str:
    return (Path(root) / file).relative_to(tree).as_posix()


def test_a_site_is_cleaned_undone_cleaned_again_and_restored(original: Path, tmp_path: Path) -> None:
    making.make_tree(tmp_path / "tree", original, 1)
    with Store.init(tmp_path / "store") as store:
        cycle(tmp_path / "tree", store, prove)


@pytest.mark.torture
def test_two_hundred_checkpoints_are_cleaned_undone_cleaned_again_and_restored(original: Path, tmp_path: Path) -> None:
    making.make_tree(tmp_path / "tree", original, SITES)
    with Store.init(tmp_path / "store") as store:
        cycle(tmp_path / "tree", store, prove_fresh)


def resume(directory: Path, model: Any, steps: int) -> float:
    """Resume a run by transformers' Trainer; the loss at its end."""
    from transformers import Trainer, TrainingArguments

    from tests.fixtures.common import quiet, rows, tokenizer
    from tests.fixtures.trainer import arguments

    @quiet
    def go() -> float:
        given = arguments(directory, 0, save_strategy="no", eval_strategy="no")
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**{**given, "max_steps": steps}),
            train_dataset=rows(),
            eval_dataset=rows()[:4],
            processing_class=tokenizer(),
        )
        done = trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == steps
        return float(done.training_loss)

    return go()


@pytest.mark.parametrize("keep", ["adapter", "full"])
def test_trainer_directories_still_resume(original: Path, tmp_path: Path, keep: Any) -> None:
    import peft

    from tests.fixtures.hf import new_model
    from tests.fixtures.peft_adapters import config_of

    runs = ("bloated", "trainer_full", "trainer_peft")
    for run in runs:
        shutil.copytree(original / run, tmp_path / "tree" / run)
        shutil.copytree(original / run, tmp_path / "untouched" / run)

    def model(run: str) -> Any:
        plain = new_model("llama", 0)
        return plain if run == "trainer_full" else peft.get_peft_model(plain, config_of("lora"))

    with Store.init(tmp_path / "store") as store:
        planned = cleaning.plan(store, [tmp_path / "tree"], keep_weights=keep, hold_days=0)
        assert all(each.resumes is not False for each in planned.shown.checkpoints)
        report = cleaning.execute(store, planned, prover=prove)
    assert report.freed_bytes > 0
    assert (tmp_path / "tree" / "bloated" / "checkpoint-4" / "model.safetensors").exists() == (keep == "full")
    resume(tmp_path / "tree" / "trainer_full", model("trainer_full"), 6)
    assert resume(tmp_path / "tree" / "trainer_peft", model("trainer_peft"), 6) == resume(
        tmp_path / "untouched" / "trainer_peft", model("trainer_peft"), 6
    )
    resume(tmp_path / "tree" / "bloated", model("bloated"), 6)


def test_without_weights_it_says_that_nothing_resumes(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original / "trainer_full", tmp_path / "tree" / "run")
    with Store.init(tmp_path / "store") as store:
        planned = cleaning.plan(store, [tmp_path / "tree"], keep_weights="none", hold_days=0)
        found = scan([tmp_path / "tree"], store=store)
        assert found.reclaimable["none"] == planned.shown.freed_bytes > found.reclaimable["adapter"]
        said = {Path(each.path).name: each.resumes for each in planned.shown.checkpoints}
        assert said == {"run": None, "checkpoint-2": False, "checkpoint-4": False}
        report = cleaning.execute(store, planned, prover=prove)
        assert report.refused == ()
        assert report.freed_bytes == planned.shown.freed_bytes
        left = {path.name for path in (tmp_path / "tree").rglob("*") if path.is_file() and path.suffix != ".json"}
        assert left <= {"training_args.bin", "chat_template.jinja"}
        store.restore("tree/run/checkpoint-2", tmp_path / "out")
        assert tree_of(tmp_path / "out") == tree_of(original / "trainer_full" / "checkpoint-2")


def test_experts_two_directories_down_resume_by_their_own_code_and_the_plan_says_so(
    original: Path, tmp_path: Path
) -> None:
    import peft

    from tests.fixtures.hf import new_model
    from tests.fixtures.peft_adapters import config_of

    for run in ("dylo", "trainer_peft", "bloated"):
        shutil.copytree(original / run, tmp_path / "tree" / run)
    with Store.init(tmp_path / "store") as store:
        planned = cleaning.plan(store, [tmp_path / "tree"], hold_days=0)
        said = {Path(each.path).relative_to(tmp_path / "tree").parts[0]: each for each in planned.shown.checkpoints}
        cleaning.execute(store, planned, prover=prove)
    assert said["dylo"].resumes
    assert "at most one directory down" in (said["dylo"].note or "")
    assert all(each.note is None for name, each in said.items() if name != "dylo"), said
    left = [path.name for path in (tmp_path / "tree" / "dylo").rglob("*.safetensors")]
    assert set(left) == {"adapter_model.safetensors"}
    with pytest.raises(ValueError, match="valid checkpoint"):
        resume(tmp_path / "tree" / "dylo", peft.get_peft_model(new_model("llama", 0), config_of("lora")), 6)
