"""A tree of adapters and of what they were merged into comes to about the adapters' bytes, whatever its names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptfmt import Store
from ckptfmt.api.results import ImportReport
from ckptfmt.transfer.ordering import nearest, work_order
from ckptfmt.transfer.planning import plan_import
from tests.conftest import Made
from tests.fixtures import chains
from tests.transfer.trees import photograph

pytestmark = pytest.mark.fixtures

STAGES = 3


def copied(source: Path, target: Path, **names: str) -> Path:
    """A tree of some of the parts of a chain, under other names."""
    for part, name in names.items():
        shutil.copytree(source / part, target / name)
    return target


def layouts_of(store: Store, report: ImportReport) -> list[str]:
    """The layouts of the checkpoints in the order in which they were taken in."""
    taken = sorted(Path(store.path, "refs").glob("*/1.json"), key=lambda path: path.stat().st_mtime_ns)
    layout = {each.ref.replace("/", ","): each.layout for each in report.checkpoints}
    return [layout[path.parent.name] for path in taken if path.parent.name in layout]


def against_adapters(store: Store, report: ImportReport, *, but: int = 0) -> None:
    """Every full model is stored as what its adapters make of it; `but` one that is the base."""
    whole = [each for each in report.checkpoints if each.layout == "hf-full"]
    merged = [each for each in whole if "lowrank" in each.encodings]
    assert len(whole) == len(merged) + but and merged
    for each in merged:
        assert "delta" not in each.encodings, each
        logical, stored = each.encodings["lowrank"].logical_bytes, each.encodings["lowrank"].stored_bytes
        assert stored < logical / 40, each


@pytest.mark.parametrize(
    "names",
    [
        {"stage_1": "adapter", "continue_1": "merged"},
        {"stage_1": "run/z_adapter", "continue_1": "run/full"},
        {"stage_1": "zz/lora", "continue_1": "exports/hf_model"},
        {"stage_1": "run-2/checkpoint-9", "continue_1": "run-1/checkpoint-10"},
    ],
    ids=["first", "last", "apart", "numbers"],
)
def test_an_adapter_is_taken_before_what_it_was_merged_into(
    store: Store, tmp_path: Path, checkpoint: Made, names: dict[str, str]
) -> None:
    chain = checkpoint(chains.make, stages=STAGES)
    store.add_base("base", chain / "base")
    tree = copied(chain, tmp_path / "tree", **names)
    report = store.import_path(tree, name="x/{name}", base="base")
    against_adapters(store, report)
    plan = store.plan_import(tree, name="x/{name}")
    assert [each.ref for each in report.checkpoints] == [each.ref for each in plan.checkpoints]
    for each in plan.checkpoints:
        store.restore(each.ref, tmp_path / "back" / each.ref)
        assert photograph(tmp_path / "back" / each.ref) == photograph(Path(each.path))


@pytest.mark.parametrize("prefix", ["", "a_"], ids=["merged last", "merged first"])
def test_stages_and_what_was_merged_of_them(store: Store, tmp_path: Path, checkpoint: Made, prefix: str) -> None:
    """Adapters of all stages beside the models that were merged of them, the base among them, and nothing is stated."""
    chain = checkpoint(chains.make, stages=STAGES)
    names = {f"stage_{n}": f"stage_{n}_lora" for n in range(1, STAGES + 1)}
    names |= {f"continue_{n}": f"{prefix}stage_{n}_merged" for n in range(1, STAGES + 1)}
    tree = copied(chain, tmp_path / "tree", base="tiny-llama-base", **names)
    report = store.import_path(tree, name="boot/{name}")
    assert report.failed == () and len(report.checkpoints) == 2 * STAGES + 1
    against_adapters(store, report, but=1)
    order = layouts_of(store, report)
    assert order == ["hf-full", *["peft"] * STAGES, *["hf-full"] * STAGES]
    assert store.verify().damaged == ()


def test_an_adapter_of_many_is_found_by_its_name(store: Store, tmp_path: Path, checkpoint: Made) -> None:
    """More adapters than are tried: those with likely names come first, not those that were taken in last."""
    chain = checkpoint(chains.make, stages=STAGES)
    store.add_base("base", chain / "base")
    tree = copied(chain, tmp_path / "tree", stage_1="adapters/run_000", continue_1="models/run_000")
    for number in range(1, 30):
        copied(chain, tree, stage_2=f"adapters/run_{number:03}")
        (tree / f"adapters/run_{number:03}" / "note.txt").write_text(str(number))
    against_adapters(store, store.import_path(tree, name="sweep/{name}", base="base"))


def test_the_nearest_names() -> None:
    runs = [f"sweep/run_{number:03}/adapter" for number in range(12)]
    assert nearest("sweep/run_007/hf_model", runs, 3)[0] == "sweep/run_007/adapter"
    assert nearest("full/stage-3", ["lora/stage-1", "lora/stage-3", "lora/stage-2"], 3)[0] == "lora/stage-3"
    assert nearest("x", ["a", "b"], 2) == ["b", "a"]


def order_of(tree: Path) -> list[str]:
    planned = plan_import(str(tree), "{name}").checkpoints
    return [each.ref for each in work_order(planned)]


def names(tree: Path, *paths: str, base: str | None = None) -> None:
    """Files of which an import's plan sees no more than the names, and what an adapter calls its base."""
    for path in paths:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(json.dumps({"base_model_name_or_path": base}) if path.endswith("config.json") else "")


def test_the_order_of_work_by_names_alone(tmp_path: Path) -> None:
    """Bases by what adapters call them, not what was merged of an earlier stage; adapters; weights; as they count."""
    tree = tmp_path / "tree"
    for number in (2, 10):
        names(tree, f"checkpoint-{number}/adapter_config.json", f"checkpoint-{number}/adapter_model.safetensors")
    names(tree, "a_merged/model.safetensors", "both/model.safetensors", "both/adapter_model.safetensors")
    names(tree, "stage_1_merged/model.safetensors", "stage_2_merged/model.safetensors")
    names(tree, "stage_1_x/adapter_model.safetensors", "stage_1_x/adapter_config.json", base="/elsewhere/zz-model")
    names(tree, "stage_2_x/adapter_config.json", "stage_2_x/adapter_model.safetensors", base="./stage_1_merged/")
    names(tree, "zz-model/model.safetensors", "y/ckpt_lora.pt", "y/ckpt.pt")
    (tree / "checkpoint-2/adapter_config.json").write_text("{no JSON")
    (tree / "checkpoint-10/adapter_config.json").write_text('["base_model_name_or_path"]')
    assert order_of(tree) == [
        "zz-model",
        *("checkpoint-2", "checkpoint-10", "y/ckpt_lora", "stage_1_x", "stage_2_x"),
        "both",
        *("a_merged", "y/ckpt", "stage_1_merged", "stage_2_merged"),
    ]


def test_a_base_in_a_hub_cache_comes_first(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names(tree, "a/model.safetensors", "hub/models--acme--tiny/snapshots/0e9e39f/model.safetensors")
    names(tree, "hub/models--acme--tiny/refs/main", "lora/adapter_config.json", base="acme/tiny")
    assert order_of(tree) == ["hub/models--acme--tiny/snapshots/0e9e39f", "lora", "a"]


def test_stages_as_their_outputs_lie(store: Store, tmp_path: Path, checkpoint: Made) -> None:
    """Adapters below `lora_adapters/`, merged models that sort before them, the base known to the store."""
    chain = checkpoint(chains.make, stages=STAGES)
    store.add_base("base", chain / "base")
    tree = tmp_path / "tree"
    for number in range(1, STAGES + 1):
        copied(chain, tree / f"stage_{number}_outputs", **{f"stage_{number}": "lora_adapters"})
        names(tree, f"stage_{number}_outputs/training_logs/metrics.json")
        copied(chain, tree, **{f"continue_{number}": f"stage_{number}_merged"})
    report = store.import_path(tree, name="boot/{name}", base="base", how="continue")
    assert sorted(each.layout for each in report.checkpoints) == ["hf-full"] * STAGES + ["stage"] * STAGES
    against_adapters(store, report)
    assert report.notes == ()
