from __future__ import annotations

import random
import subprocess
import sys

import pytest

from ckptfmt.layouts import Found, find_checkpoints, stage_of, unclaimed
from ckptfmt.layouts.listing import join

FULL = ["config.json", "model.safetensors", "tokenizer.json"]
ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
STATE = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"]

MESSY = [
    "README.md",
    *(f"base/{name}" for name in [*FULL, "original/consolidated.00.pth", ".cache/huggingface/x.metadata"]),
    *(f"full/{name}" for name in [*FULL, "training_args.bin", "runs/events.out"]),
    *(f"full/checkpoint-{n}/{name}" for n in (500, 1000) for name in FULL + STATE),
    *(f"lora/checkpoint-{n}/{name}" for n in (9, 10) for name in ADAPTER + STATE),
    *(f"lora/checkpoint-10/ref/{name}" for name in ADAPTER),
    "lora/checkpoint-11/checkpoint-is-incomplete.txt",
    "lora/checkpoint-11/adapter_model.safetensors",
    "lora/README.md",
    *(f"dpo/{name}" for name in ADAPTER),
    *(f"dpo/ref/{name}" for name in ADAPTER),
    *(f"moe/checkpoint-7/peft_adapters/expert_{n}/{name}" for n in range(2) for name in ADAPTER),
    *(f"moe/checkpoint-7/{name}" for name in ["config.json", "dylo_moe_state/router.pt", *STATE]),
    *(f"boot/stage_{n}_outputs/lora_adapters/{name}" for n in (1, 2) for name in ADAPTER),
    *(f"boot/stage_{n}_outputs/test_results/evaluation.json" for n in (1, 2)),
    *(f"boot/stage-3/lora_adapters/{name}" for name in ADAPTER),
    *(f"boot/stage_4_lora/{name}" for name in ADAPTER),
    *(f"boot/stage5/{name}" for name in FULL),
    *(f"tune/epoch_{n}/{name}" for n in (0, 1) for name in [*ADAPTER, "adapter_model.pt", *FULL]),
    "tune/recipe_state/recipe_state.pt",
    "tune/log.txt",
    *(f"results/run_00{n}/hf_model/{name}" for n in range(2) for name in FULL),
    *(f"results/run_00{n}/adapter/{name}" for n in range(2) for name in ADAPTER),
    "results/run_000/eval.json",
    *(f"checkpoints/checkpoint_bigram_carolyn_hax_step{n}_11102025_231500.pt" for n in ("0500", "1000")),
    "checkpoints/tokenizer.json",
    "out_lora/ckpt.pt",
    "out_lora/meta.pkl",
    "hub/models--acme--tiny/blobs/abc",
    "hub/models--acme--tiny/refs/main",
    *(f"hub/models--acme--tiny/snapshots/0e9e39f/{name}" for name in [*FULL, "checkpoint-5/model.safetensors"]),
    "odd/encoder.pt",
    "odd/decoder.pt",
    "odd/words/list.txt",
    "data/train.bin",
    "data/train.txt",
    ".git/objects/model.safetensors",
    "work/.ckptfmt/shards/00/aa.safetensors",
]

EXPECTED = {
    "base": ("hf-full", None),
    "boot/stage-3": ("stage", 3),
    "boot/stage5": ("hf-full", 5),
    "boot/stage_1_outputs": ("stage", 1),
    "boot/stage_2_outputs": ("stage", 2),
    "boot/stage_4_lora": ("peft", 4),
    "checkpoints/checkpoint_bigram_carolyn_hax_step0500_11102025_231500": ("training-pt", None),
    "checkpoints/checkpoint_bigram_carolyn_hax_step1000_11102025_231500": ("training-pt", None),
    "dpo": ("peft", None),
    "full": ("trainer", None),
    "full/checkpoint-500": ("trainer", None),
    "full/checkpoint-1000": ("trainer", None),
    "hub/models--acme--tiny/snapshots/0e9e39f": ("hf-full", None),
    "lora/checkpoint-9": ("trainer", None),
    "lora/checkpoint-10": ("trainer", None),
    "moe/checkpoint-7": ("experts", None),
    "odd": ("unknown", None),
    "out_lora/ckpt": ("universal", None),
    "results/run_000/adapter": ("peft", None),
    "results/run_000/hf_model": ("hf-full", None),
    "results/run_001/adapter": ("peft", None),
    "results/run_001/hf_model": ("hf-full", None),
    "tune/epoch_0": ("torchtune", None),
    "tune/epoch_1": ("torchtune", None),
}


def files_of(found: Found, paths: list[str]) -> set[str]:
    if found.files is not None:
        return {join(found.root, path) for path in found.files}
    return {path for path in paths if not found.root or path.startswith(found.root + "/")}


def test_a_messy_directory() -> None:
    found = find_checkpoints(MESSY)
    assert {each.name: (each.layout, each.stage) for each in found} == EXPECTED
    names = [each.name for each in found]
    assert names.index("full/checkpoint-500") < names.index("full/checkpoint-1000")
    assert unclaimed(MESSY, found) == sorted(
        [
            ".git/",
            "README.md",
            "work/.ckptfmt/",
            "lora/README.md",
            "lora/checkpoint-11/adapter_model.safetensors",
            "lora/checkpoint-11/checkpoint-is-incomplete.txt",
            "tune/log.txt",
            "results/run_000/eval.json",
            "data/train.bin",
            "data/train.txt",
        ]
    )


def test_files_belong_to_one_checkpoint_but_for_vocabularies() -> None:
    found = find_checkpoints(MESSY)
    owners: dict[str, list[str]] = {}
    for each in found:
        for path in files_of(each, MESSY):
            owners.setdefault(path, []).append(each.name)
    assert {path for path, names in owners.items() if len(names) > 1} == {"checkpoints/tokenizer.json"}
    assert owners["out_lora/meta.pkl"] == ["out_lora/ckpt"]
    assert owners["tune/recipe_state/recipe_state.pt"] == ["tune/epoch_1"]
    assert owners["full/runs/events.out"] == ["full"]
    assert owners["lora/checkpoint-10/ref/adapter_config.json"] == ["lora/checkpoint-10"]
    assert owners["hub/models--acme--tiny/snapshots/0e9e39f/checkpoint-5/model.safetensors"]
    assert owners["base/.cache/huggingface/x.metadata"] == ["base"]


def test_the_order_of_paths_means_nothing() -> None:
    shuffled = list(MESSY)
    random.Random(1).shuffle(shuffled)
    assert find_checkpoints(shuffled) == find_checkpoints(MESSY)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], [Found("", "", None, "unknown")]),
        (["a.txt", "b/c.txt"], [Found("", "", None, "unknown")]),
        (FULL, [Found("", "", None, "hf-full")]),
        (["ckpt.pt"], [Found("ckpt", "", ("ckpt.pt",), "universal")]),
        (["weights.safetensors"], [Found("", "", None, "unknown")]),
        ([*FULL, ".hydra/config.yaml"], [Found("", "", None, "hf-full")]),
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], [Found("", "", None, "hf-full")]),
        (
            ["model_index.json", "unet/diffusion.safetensors", "text/model.safetensors"],
            [Found("", "", None, "hf-full")],
        ),
        (["best.pt", "best.ckpt"], [Found(name, "", (name,), "training-pt") for name in ("best.ckpt", "best.pt")]),
        (["lora_adapters/adapter_config.json", "training_logs/metrics.json"], [Found("", "", None, "stage")]),
        (["optimizer.pt", "a/adapter_config.json"], [Found("a", "a", None, "peft")]),
        (["__0_0.distcp", ".metadata"], [Found("", "", None, "unknown")]),
    ],
)
def test_small_cases(paths: list[str], expected: list[Found]) -> None:
    assert find_checkpoints(paths) == expected


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("stage_1_outputs", 1),
        ("stage-2", 2),
        ("stage_3_lora", 3),
        ("stage4", 4),
        ("Stage 12", 12),
        ("stage", None),
        ("stage1b", None),
        ("upstage_2", None),
        ("staged_2", None),
    ],
)
def test_stage_numbers(name: str, stage: int | None) -> None:
    assert stage_of(name) == stage


def test_many_files_are_found_quickly() -> None:
    paths = [f"runs/run_{run}/checkpoint-{step}/{name}" for run in range(100) for step in range(20) for name in ADAPTER]
    assert len(find_checkpoints(paths)) == 2000


@pytest.mark.parametrize(
    "path", ["step" + "a-" * 2000 + "!.pt", "a/" * 1500 + "model.safetensors", "checkpoint_a_" + "step1_" * 500 + "x"]
)
def test_hostile_names_cost_nothing(path: str) -> None:
    assert find_checkpoints([path])
    assert len(unclaimed([path], find_checkpoints([path]))) <= 1


def test_layouts_load_neither_torch_nor_numpy() -> None:
    allowed = "import sys, ckptfmt.layouts; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", allowed], check=False).returncode == 0
