"""Merged checkpoints whose adapter is known take next to nothing, wherever it is, and come back to the byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfmt import Store
from ckptfmt.encodings.prediction import Prediction, parse_prediction
from ckptfmt.errors import InvalidInput
from ckptfmt.store.store import open_store
from tests.fixtures.common import quiet, train
from tests.fixtures.hf import Kind, new_model
from tests.fixtures.nanogpt import LORA, Gpt
from tests.transfer.trees import photograph

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Made:
    """A base, an adapter trained on it, and what PEFT merges of both."""

    def __init__(self, directory: Path, dtype: str = "bfloat16", kind: Kind = "llama", **config: Any) -> None:
        self.base, self.adapter, self.merged = (directory / name for name in ("base", "adapter", "merged"))
        self.dtype = dtype
        self._make(kind, {"r": 8, "lora_alpha": 12, "target_modules": "all-linear", **config})

    @quiet
    def _make(self, kind: Kind, config: dict[str, Any]) -> None:
        import peft

        narrow, cast, saved = (config.pop(name, None) for name in ("narrow", "cast", "saved"))
        torch.manual_seed(0)
        new_model(kind, seed=0).to(DTYPES[self.dtype]).save_pretrained(self.base)
        model = peft.get_peft_model(new_model(kind, seed=0), peft.LoraConfig(task_type="CAUSAL_LM", **config))
        train(model, 3)
        model.save_pretrained(self.adapter)
        import transformers

        base = transformers.AutoModelForCausalLM.from_pretrained(self.base, dtype=DTYPES[self.dtype])
        loaded = peft.PeftModel.from_pretrained(base, self.adapter, autocast_adapter_dtype=not narrow)
        if narrow == "and saved":
            loaded.save_pretrained(self.adapter)
        if cast:
            loaded.to(DTYPES[cast])
        if saved:
            _narrow_file(self.adapter / "adapter_model.safetensors", DTYPES[saved])
            base = transformers.AutoModelForCausalLM.from_pretrained(self.base, dtype=DTYPES[self.dtype])
            loaded = peft.PeftModel.from_pretrained(base, self.adapter)
        loaded.merge_and_unload().save_pretrained(self.merged)

    def together(self, target: Path) -> Path:
        """What trainers save: the merged weights and the adapter in one directory."""
        shutil.copytree(self.merged, target)
        for path in self.adapter.iterdir():
            shutil.copy(path, target)
        return target


def _narrow_file(path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def lowrank_of(store: Store, name: str) -> tuple[int, int]:
    """Logical and stored bytes of what is stored as lowrank."""
    found = store.show(name).encodings.get("lowrank")
    return (found.logical_bytes, found.stored_bytes) if found else (0, 0)


def rules_of(store: Store) -> set[str]:
    """Every rounding rule that some object is stored by."""
    return {stage.rule for each in predictions_of(store) for stage in each.stages}


def predictions_of(store: Store) -> list[Prediction]:
    """Of every object that is stored by one."""
    engine = open_store(str(store.path))
    found = []
    for generation in engine.refs.manifests():
        manifest = engine.manifest(generation.target or "")
        for extents in (file.extents for file in manifest.files):
            for copies in engine.catalog().find_many([extent.digest for extent in extents]).values():
                if copies[0].stored.encoding == "lowrank":
                    found.append(parse_prediction(copies[0].stored.reference))
    engine.close()
    return found


def comes_back(store: Store, name: str, original: Path, target: Path) -> None:
    store.restore(name, target)
    assert photograph(target) == photograph(original)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"narrow": "and saved"}], ids=["lora", "rslora", "narrow"]
)
def test_merged_weights_beside_their_adapter(store: Store, tmp_path: Path, dtype: str, config: dict[str, Any]) -> None:
    made = Made(tmp_path / "made", dtype, **config)
    both = made.together(tmp_path / "both")
    store.add_base("base", made.base)
    store.import_checkpoint(both, "run", base="base")
    logical, stored = lowrank_of(store, "run")
    # A float32 product is known to its last bit or two: one element in fifty is another.
    assert logical > 10_000 and stored < logical / (8 if dtype == "float32" else 40)
    comes_back(store, "run", both, tmp_path / "back")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("how", ["loaded", "cast"])
def test_factors_that_were_narrowed_for_the_merge(store: Store, tmp_path: Path, dtype: str, how: str) -> None:
    """Saved in float32, merged in 16 bits: loaded without `autocast`, or the whole model was cast, base and all."""
    made = Made(tmp_path, dtype, narrow="loaded") if how == "loaded" else Made(tmp_path, "float32", cast=dtype)
    both = made.together(tmp_path / "both")
    store.add_base("base", made.base)
    store.import_checkpoint(both, "run", base="base")
    logical, stored = lowrank_of(store, "run")
    assert logical > 10_000 and stored < logical / 40
    narrow = {"bfloat16": "BF16", "float16": "F16"}[dtype]
    assert rules_of(store) == {f"twice-{narrow}"}
    assert {stage.left for each in predictions_of(store) for stage in each.stages} == {f"F32>{narrow}"}
    comes_back(store, "run", both, tmp_path / "back")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_factors_of_16_bits_that_were_merged_in_float32(store: Store, tmp_path: Path, dtype: str) -> None:
    made = Made(tmp_path / "made", dtype, saved="bfloat16")
    store.add_base("base", made.base)
    store.import_checkpoint(made.adapter, "adapter", base="base")
    store.import_checkpoint(made.merged, "merged", base="base")
    logical, stored = lowrank_of(store, "merged")
    assert logical > 10_000 and stored < logical / 40
    assert rules_of(store) == {"once"}
    comes_back(store, "merged", made.merged, tmp_path / "back")


@pytest.mark.parametrize("order", ["stated", "found"])
def test_the_adapter_is_in_the_store(store: Store, tmp_path: Path, order: str) -> None:
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    store.import_checkpoint(made.adapter, "adapters/one", base="base")
    store.import_checkpoint(made.merged, "merged", base="base" if order == "stated" else None)
    logical, stored = lowrank_of(store, "merged")
    assert logical > 10_000 and stored < logical / 40
    assert rules_of(store) == {"once"}
    store.drop("adapters/one")
    comes_back(store, "merged", made.merged, tmp_path / "back")


def test_the_adapter_is_given(store: Store, tmp_path: Path) -> None:
    """It gets no name of its own: what is stored against it keeps it."""
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    done = store.import_checkpoint(made.merged, "merged", base="base", adapter=made.adapter)
    assert done.encodings["lowrank"].logical_bytes > 10_000 and not done.notes
    assert [row.ref for row in store.list_refs()] == ["merged"]
    comes_back(store, "merged", made.merged, tmp_path / "back")


def test_an_adapter_that_is_given_and_of_no_use_is_told(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    other = Made(tmp_path / "other", lora_alpha=3, r=4)
    done = store.import_checkpoint(made.merged, "merged", base="base", adapter=other.adapter)
    assert "lowrank" not in done.encodings and any("nothing was stored against it" in note for note in done.notes)
    with pytest.raises(InvalidInput, match="no adapter lies there"):
        store.import_checkpoint(made.merged, "again", base="base", adapter=made.base)


def test_conv1d_weights_lie_the_other_way_round(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made", kind="gpt2", target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    store.add_base("base", made.base)
    both = made.together(tmp_path / "both")
    store.import_checkpoint(both, "run", base="base")
    logical, stored = lowrank_of(store, "run")
    assert logical > 10_000 and stored < logical / 40
    comes_back(store, "run", both, tmp_path / "back")


def test_an_embedding_is_updated_by_the_transpose(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made", target_modules=["embed_tokens"])
    store.add_base("base", made.base)
    both = made.together(tmp_path / "both")
    store.import_checkpoint(both, "run", base="base")
    assert lowrank_of(store, "run")[0] > 10_000
    comes_back(store, "run", both, tmp_path / "back")


def test_an_adapter_of_another_run_is_tried_and_not_believed(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    other = Made(tmp_path / "other", lora_alpha=3, r=4)
    store.add_base("base", made.base)
    store.import_checkpoint(other.adapter, "other", base="base")
    store.import_checkpoint(made.merged, "merged", base="base")
    assert lowrank_of(store, "merged") == (0, 0)
    comes_back(store, "merged", made.merged, tmp_path / "back")


def test_fast_predicts_nothing(store: Store, tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    store.add_base("base", made.base)
    store.import_checkpoint(made.together(tmp_path / "both"), "run", base="base", effort="fast")
    assert lowrank_of(store, "run") == (0, 0)


def test_a_stage_merged_onto_the_stage_before(store: Store, tmp_path: Path) -> None:
    """What the parent is, merged, is what this stage's adapter was merged onto."""
    made = Made(tmp_path / "made")
    second = tmp_path / "second"
    _merge_again(made, second)
    store.add_base("base", made.base)
    store.import_checkpoint(made.together(tmp_path / "both"), "stage-1", base="base", stage=1)
    store.import_checkpoint(second, "stage-2", base="base", parent="stage-1", how="continue", stage=2)
    logical, stored = lowrank_of(store, "stage-2")
    assert logical > 10_000 and stored < logical / 40
    comes_back(store, "stage-2", second, tmp_path / "back")


@quiet
def _merge_again(made: Made, target: Path) -> None:
    import peft
    import transformers

    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.bfloat16)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    tuned = peft.get_peft_model(model, config)
    train(tuned, 3)
    tuned.save_pretrained(target)
    tuned.merge_and_unload().save_pretrained(target)


class Chain:
    """Stages, each trained on what the stage before was merged into; `merged` is the last one's."""

    def __init__(self, directory: Path, dtype: str, number: int, **config: Any) -> None:
        self.base, self.merged = directory / "base", directory / "merged"
        self.adapters = [directory / f"stage-{index}" for index in range(1, number + 1)]
        self._make(DTYPES[dtype], config)

    @quiet
    def _make(self, dtype: torch.dtype, config: dict[str, Any]) -> None:
        import peft

        narrow = config.pop("narrow", False)
        model = new_model("llama", seed=0).to(dtype)
        model.save_pretrained(self.base)
        for index, adapter in enumerate(self.adapters):
            torch.manual_seed(index)
            lora = peft.LoraConfig(
                **{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", **config}
            )
            tuned = peft.get_peft_model(model.float(), lora)
            train(tuned, 3)
            tuned.save_pretrained(adapter)
            model = tuned.unload().to(dtype)
            model = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=not narrow).merge_and_unload()
        model.save_pretrained(self.merged)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [2, 4])
def test_stages_that_were_merged_one_after_another(store: Store, tmp_path: Path, dtype: str, number: int) -> None:
    """Only the last stage was saved merged: all adapters together predict it."""
    made = Chain(tmp_path / "made", dtype, number)
    store.add_base("base", made.base)
    parent = None
    for index, adapter in enumerate(made.adapters[:-1], 1):
        store.import_checkpoint(
            adapter, f"stage-{index}", base="base", parent=parent, how="continue" if parent else None, stage=index
        )
        parent = f"stage-{index}"
    last = tmp_path / "last"
    shutil.copytree(made.merged, last)
    shutil.copytree(made.adapters[-1], last, dirs_exist_ok=True)
    store.import_checkpoint(last, "last", base="base", parent=parent, how="continue", stage=number)
    logical, stored = lowrank_of(store, "last")
    assert logical > 10_000 and stored < logical / (4 if dtype == "float32" else 40)
    assert {len(each.stages) for each in predictions_of(store)} == {number}
    comes_back(store, "last", last, tmp_path / "back")
    assert store.verify().damaged == ()


@pytest.mark.parametrize("where", ["parent", "store", "names", "import", "given"])
def test_where_the_stages_before_are_found(store: Store, tmp_path: Path, where: str) -> None:
    made = Chain(tmp_path / "made", "bfloat16", 2, narrow=True)
    store.add_base("base", made.base)
    merged = made.merged
    if where == "import":
        merged = tmp_path / "all"
        shutil.copytree(made.merged, merged)
        # PEFT saves `default` at the top, and any other below.
        shutil.copytree(made.adapters[0], merged, dirs_exist_ok=True)
        shutil.copytree(made.adapters[1], merged / "other")
        store.import_checkpoint(merged, "merged", base="base")
    else:
        store.import_checkpoint(made.adapters[0], "adapters/1", base="base")
        if where == "given":
            store.import_checkpoint(merged, "merged", base="base", parent="adapters/1", adapter=made.adapters[1])
        else:
            parent, how = (None, None) if where == "names" else ("adapters/1", "continue")
            store.import_checkpoint(made.adapters[1], "adapters/2", base="base", parent=parent, how=how)
            parent = "adapters/2" if where == "parent" else None
            store.import_checkpoint(merged, "merged", base="base", parent=parent)
    logical, stored = lowrank_of(store, "merged")
    assert logical > 10_000 and stored < logical / 40
    assert {len(each.stages) for each in predictions_of(store)} == {2}
    comes_back(store, "merged", merged, tmp_path / "back")


def test_adapters_that_came_later_are_found_by_optimize(store: Store, tmp_path: Path) -> None:
    made = Chain(tmp_path / "made", "bfloat16", 2)
    store.add_base("base", made.base)
    store.import_checkpoint(made.adapters[0], "first", base="base")
    store.import_checkpoint(made.merged, "merged", base="base", parent="first", how="continue")
    assert lowrank_of(store, "merged") == (0, 0)
    store.import_checkpoint(made.adapters[1], "second", base="base", parent="first", how="continue")
    store.optimize(["merged"], recovery=False, again=True)
    logical, stored = lowrank_of(store, "merged")
    assert logical > 10_000 and stored < logical / 40
    assert {len(each.stages) for each in predictions_of(store)} == {2}
    comes_back(store, "merged", made.merged, tmp_path / "back")


@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_inside_a_universal_checkpoint(store: Store, tmp_path: Path, dtype: str) -> None:
    """Saved merged after it was saved with LoRA in it: linear layers and the embedding, whose factors are both by rows.

    That family multiplies in the dtype of its weights.
    """
    torch.manual_seed(0)
    model = Gpt({**LORA, "n_embd": 96}).to(DTYPES[dtype])
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.03)
    for name, state in (("before", model.state_dict()), ("merged", model.get_merged_state_dict())):
        (tmp_path / name).mkdir()
        document = {"model": state, "model_args": {**LORA, "n_embd": 96}, "iter_num": 1, "best_val_loss": 1.0}
        torch.save(document, tmp_path / name / "ckpt.pt")
    store.import_checkpoint(tmp_path / "before", "run/1")
    store.import_checkpoint(tmp_path / "merged", "run/2")
    logical, stored = lowrank_of(store, "run/2")
    updated = [tensor for tensor in model.get_merged_state_dict() if tensor.endswith(("c_attn.weight", "wte.weight"))]
    found = predictions_of(store)
    assert len(found) == len(updated) == 3 and {each.stages[0].form for each in found} == {"product", "across"}
    assert stored < logical / (4 if dtype == "float32" else 40)
    comes_back(store, "run/2", tmp_path / "merged", tmp_path / "back")


def test_a_stage_that_leaves_modules_alone(store: Store, tmp_path: Path) -> None:
    """What the first stage alone updated is found although the second did not."""
    made = Chain(tmp_path / "made", "bfloat16", 1, target_modules=["q_proj", "v_proj"])
    both = made.merged.parent / "both"
    _merge_further(made, both)
    store.add_base("base", made.base)
    store.import_checkpoint(made.adapters[0], "first", base="base")
    store.import_checkpoint(both, "second", base="base", parent="first", how="continue")
    found = predictions_of(store)
    assert {len(each.stages) for each in found} == {1}
    # Of q_proj, and of two modules that the second stage updated; the others are too small.
    assert sorted(each.rows * each.columns for each in found) == [32 * 32] * 2 + [64 * 32] * 4
    comes_back(store, "second", both, tmp_path / "back")


@quiet
def _merge_further(made: Chain, target: Path) -> None:
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.bfloat16)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj"])
    tuned = peft.get_peft_model(model, config)
    train(tuned, 3)
    tuned.save_pretrained(target)
    tuned.merge_and_unload().save_pretrained(target)
