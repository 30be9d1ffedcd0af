"""`optimize`: lost adapters found again in a store, every file as before, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptfmt import Store
from ckptfmt.errors import InvalidInput, NotFound
from ckptfmt.progress import Silent
from tests.fixtures.common import quiet
from tests.transfer.trees import photograph


@quiet
def _make(base: Path, merged: Path, stages: int) -> None:
    import peft
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=384, num_hidden_layers=1, num_attention_heads=4, vocab_size=300
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base)
    held = base
    for stage in range(1, stages + 1):
        model = transformers.AutoModelForCausalLM.from_pretrained(held, dtype=torch.bfloat16)
        lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        tuned = peft.get_peft_model(model, lora)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(0.02)
        held = merged / f"stage-{stage}"
        tuned.merge_and_unload().save_pretrained(held)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and two merged stages below `merged`; the adapters are lost."""
    directory = tmp_path_factory.mktemp("lost")
    _make(directory / "base", directory / "merged", 2)
    return directory


def comes_back(store: Store, name: str, original: Path, target: Path) -> None:
    store.restore(name, target)
    assert photograph(target) == photograph(original)


def lowrank(store: Store, name: str) -> tuple[int, int]:
    found = store.show(name).encodings.get("lowrank")
    return (found.objects, found.stored_bytes) if found else (0, 0)


@pytest.mark.parametrize("keep", ["reference", "copy"])
def test_a_lost_adapter_is_found(store: Store, made: Path, tmp_path: Path, keep: str) -> None:
    store.add_base("base", made / "base", keep=keep)  # type: ignore[arg-type]
    done = store.import_checkpoint(made / "merged" / "stage-1", "merged", base="base")
    before = store.show("merged")
    report = store.optimize(["merged"])
    after = store.show("merged")
    [each] = report.checkpoints
    assert (after.id, after.manifest) == (before.id, before.manifest) and done.manifest == after.id
    assert each.recovered == 2 and lowrank(store, "merged")[0] == 2
    assert report.before_bytes - report.after_bytes > 100_000
    rows = {row.ref: row for row in store.list_refs()}
    assert rows["merged"].stored_bytes == pytest.approx(report.after_bytes, rel=0.35)
    comes_back(store, "merged", made / "merged" / "stage-1", tmp_path / "back")
    assert store.verify().damaged == ()
    again = store.optimize()
    assert (again.before_bytes, again.checkpoints[0].tried) == (report.after_bytes, 0)


def test_each_stage_against_the_one_before(store: Store, made: Path, tmp_path: Path) -> None:
    """Stage 2 is the base and two adapters, but stage 1 and one."""
    store.add_base("base", made / "base")
    store.import_checkpoint(made / "merged" / "stage-1", "run/stage-1", base="base", stage=1)
    store.import_checkpoint(
        made / "merged" / "stage-2", "run/stage-2", base="base", parent="run/stage-1", how="continue", stage=2
    )
    report = store.optimize()
    assert [each.recovered for each in report.checkpoints] == [2, 2]
    for stage in (1, 2):
        comes_back(store, f"run/stage-{stage}", made / "merged" / f"stage-{stage}", tmp_path / f"back-{stage}")


def test_max_finds_it_at_once(store: Store, made: Path, tmp_path: Path) -> None:
    store.add_base("base", made / "base")
    done = store.import_checkpoint(made / "merged" / "stage-1", "merged", base="base", effort="max")
    assert done.encodings["lowrank"].objects == 2
    comes_back(store, "merged", made / "merged" / "stage-1", tmp_path / "back")


class Stopping(Silent):
    """Raises after some steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_stopped_it_goes_on(store: Store, made: Path, tmp_path: Path) -> None:
    store.add_base("base", made / "base")
    store.import_checkpoint(made / "merged" / "stage-1", "merged", base="base")
    found = set()
    for steps in range(1, 40):
        try:
            last = store.optimize(progress=Stopping(steps))
        except KeyboardInterrupt:
            assert store.verify().damaged == ()
            found.add(lowrank(store, "merged")[0])
            continue
        break
    assert found == {0, 1, 2} and last.checkpoints[0].recovered == 0
    comes_back(store, "merged", made / "merged" / "stage-1", tmp_path / "back")


def test_quick_looks_for_no_adapter_and_finds_what_came_later(store: Store, made: Path, tmp_path: Path) -> None:
    """Imported before its base was known, it is stored against it now."""
    store.import_checkpoint(made / "merged" / "stage-1", "merged")
    store.add_base("base", made / "base")
    report = store.optimize(recovery=False)
    assert report.after_bytes < report.before_bytes and lowrank(store, "merged") == (0, 0)
    comes_back(store, "merged", made / "merged" / "stage-1", tmp_path / "back")
    (made / "base").rename(tmp_path / "gone")
    try:
        comes_back(store, "merged", made / "merged" / "stage-1", tmp_path / "again")
        assert store.show("merged").needs_base is None
    finally:
        (tmp_path / "gone").rename(made / "base")


def test_words_that_mean_nothing(store: Store, made: Path) -> None:
    with pytest.raises(NotFound):
        store.optimize(["nothing"])
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="cuda"):
            store.optimize(device="cuda")
