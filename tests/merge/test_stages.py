"""Chains of stages: one pass over the base gives the bits that PEFT gives stage by stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptfmt.errors import BaseMismatch, IntegrityError, MergeError
from tests.fixtures import chains
from tests.merge.comparing import differing


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_continued_stages_have_the_bits_of_peft(chained: Any, chain: Path, tmp_path: Path, stage: int) -> None:
    report = chained.merge(f"run/stage-{stage}", tmp_path / "out")
    assert differing(tmp_path / "out", chain / f"continue_{stage}") == 0
    assert (report.stages, len(report.adapters), report.binding) == (stage, stage, "stated")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_dtypes_of_the_base(store: Any, checkpoint: Any, tmp_path: Path, dtype: str) -> None:
    chain = checkpoint(chains.make, "chain", dtype=dtype, stages=2)
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    store.import_checkpoint(chain / "stage_2", "two", base="llama", parent="one", how="continue")
    store.merge("two", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "continue_2") == 0


def test_stages_held_in_another_dtype(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    store.import_checkpoint(chain / "stage_2", "two", base="llama", parent="one", how="continue", stage_dtype="fp16")
    store.merge("two", tmp_path / "out", dtype="fp16")
    assert differing(tmp_path / "out", chain / "float16_2") == 0


def test_stacked_adapters(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    store.import_checkpoint(chain / "stage_2", "two", base="llama", parent="one", how="stack")
    store.merge("two", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "stack_2") == 0


def test_parent_only_leaves_out_what_came_before_the_parent(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    for stage in (1, 2, 3):
        parent = f"s{stage - 1}" if stage > 1 else None
        how = "parent-only" if parent else None
        store.import_checkpoint(chain / f"stage_{stage}", f"s{stage}", base="llama", parent=parent, how=how)
    report = store.merge("s3", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "parent_only_3") == 0
    assert len(report.adapters) == 2


def test_a_resumed_adapter_stands_in_its_parents_place(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_2", "early", base="llama")
    store.import_checkpoint(chain / "stage_1", "late", base="llama", parent="early", how="resume")
    report = store.merge("late", tmp_path / "out")
    assert differing(tmp_path / "out", chain / "continue_1") == 0
    assert len(report.adapters) == 1


def test_the_merged_directory_loads_and_gives_pefts_logits(chained: Any, chain: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    chained.merge("run/stage-3", tmp_path / "out")
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    reference = AutoModelForCausalLM.from_pretrained(chain / "continue_3")
    tokens = torch.arange(12).view(1, -1)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, reference(tokens).logits)


def test_generating_in_fp16(chained: Any, chain: Path, tmp_path: Path) -> None:
    """`dtype` casts the base first, as `from_pretrained(dtype=…)` does before PEFT merges."""
    chained.merge("run/stage-1", tmp_path / "out", dtype="fp16")
    assert differing(tmp_path / "out", chain / "float16_1") == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"


def test_the_record_says_what_was_done(chained: Any, tmp_path: Path) -> None:
    report = chained.merge("run/stage-3", tmp_path / "out")
    record = json.loads((tmp_path / "out/ckptfmt_merge.json").read_text())
    assert record["root"] == report.root
    assert [item["held_in"] for item in record["adapters"]] == ["base", "base", "output"]
    assert {item["scaling"]["model.layers.0.self_attn.q_proj.weight"] for item in record["adapters"]} == {2.0}
    assert record["computed"]["threads"] >= 1
    card = (tmp_path / "out/README.md").read_text()
    assert report.base_root in card and "3. adapter" in card


def test_a_merge_is_itself_a_checkpoint_of_that_root(chained: Any, tmp_path: Path) -> None:
    report = chained.merge("run/stage-2", tmp_path / "out")
    chained.import_checkpoint(tmp_path / "out", "merged")
    assert chained.show("merged").manifest.root == report.root


def test_a_lineage_that_does_not_say_how(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    store.import_checkpoint(chain / "stage_2", "two", base="llama", parent="one")
    with pytest.raises(MergeError, match="does not say how") as error:
        store.merge("two", tmp_path / "out")
    assert "--how" in (error.value.hint or "")
    store.merge("two", tmp_path / "out", how="continue")
    assert differing(tmp_path / "out", chain / "continue_2") == 0


def test_a_gap_in_the_chain_is_named(chained: Any, tmp_path: Path) -> None:
    parent = chained.show("run/stage-2").manifest.lineage.parent
    path = Path(chained.path) / "manifests" / parent[:2] / f"{parent}.json"
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{parent[:16]}.*stage 2.*gap") as error:
        type(chained).open(chained.path).merge("run/stage-3", tmp_path / "out")
    assert error.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_an_ancestor_on_another_base_is_named(store: Any, chain: Path, tmp_path: Path) -> None:
    store.add_base("llama", chain / "base")
    store.add_base("other", chain / "continue_1")
    store.import_checkpoint(chain / "stage_1", "one", base="other")
    store.import_checkpoint(chain / "stage_2", "two", base="llama", parent="one", how="continue")
    with pytest.raises(BaseMismatch, match="'other'") as error:
        store.merge("two", tmp_path / "out")
    assert error.value.exit_code == 3


def test_what_it_was_trained_on_is_told_only_where_that_is_another_model(
    store: Any, chain: Path, tmp_path: Path
) -> None:
    """Adapters often name a 4-bit base and are merged onto its 16-bit sibling: both stand in the record."""
    store.add_base("llama", chain / "base")
    store.import_checkpoint(chain / "stage_1", "one", base="llama")
    assert store.merge("one", tmp_path / "one").trained_on is None  # Its hint is the very directory of the base.
    shutil.copytree(chain / "stage_1", tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "unsloth/llama-bnb-4bit"}))
    store.import_checkpoint(tmp_path / "adapter", "two", base="llama")
    assert store.merge("two", tmp_path / "two").trained_on == "unsloth/llama-bnb-4bit"
    assert "unsloth/llama-bnb-4bit" in (tmp_path / "two/README.md").read_text()
