from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptfmt import Store
from tests.cli.made import adapter, full

RUN_STEPS = (10, 20, 30)
SCALING = 2.0
"""`lora_alpha / r` of `adapter`."""


def trainer(directory: Path, step: int, seed: int = 0) -> Path:
    """A Trainer's checkpoint with an adapter: metrics by step, and an optimizer's moments."""
    adapter(directory, seed=seed)
    history = [
        {"step": at, "epoch": at / 10, "loss": 4.0 / at, "eval_loss": 5.0 / at, "eval_accuracy": at / 100}
        for at in range(10, step + 1, 10)
    ]
    state = {"global_step": step, "epoch": step / 10, "log_history": history, "best_metric": None}
    (directory / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return directory


def merged(directory: Path, base: Path, adapter_directory: Path) -> Path:
    """The base with an adapter merged into it."""
    shutil.copytree(base, directory)
    weights = load_file(base / "model.safetensors")
    factors = load_file(adapter_directory / "adapter_model.safetensors")
    for name in weights:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors:
            product = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            weights[name] = (weights[name] + np.float32(SCALING) * product).astype(np.float32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people have: `base`, `other`, `checkpoint-10` to `-30`, `stage-1` to `-3`, `merged-1`. Do not change it."""
    # In a directory of its own: the picker is walked there, and beside it lie those of all tests before.
    top = tmp_path_factory.mktemp("homes") / "people"
    top.mkdir()
    base = full(top / "base")
    full(top / "other", seed=5)
    for step in RUN_STEPS:
        trainer(top / f"checkpoint-{step}", step, seed=step)
    for stage in (1, 2, 3):
        adapter(top / f"stage-{stage}", seed=stage)
    merged(top / "merged-1", base, top / "stage-1")
    return top


@pytest.fixture(scope="session")
def made_store(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of them. Do not change it.

    `sweep/run-1/checkpoint-10` to `-30` (the last one pinned, labelled `best`), `stages/stage-1` to `-3` (each one
    trained on the one before; the first one has two generations), `merged/stage-1`, `other`, and a referenced `tiny`.
    """
    path = tmp_path_factory.mktemp("stores") / "store.ckptfmt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTFMT_CACHE", str(tmp_path_factory.mktemp("made-cache")))
        with Store.init(path) as store:
            store.add_base("tiny", people / "base")
            for step in RUN_STEPS:
                store.import_path(people / f"checkpoint-{step}", name=f"sweep/run-1/checkpoint-{step}", base="tiny")
            store.import_path(people / "stage-2", name="stages/stage-1", base="tiny")
            store.import_path(people / "stage-1", name="stages/stage-1", base="tiny", stage=1)
            for stage in (2, 3):
                store.import_path(
                    people / f"stage-{stage}",
                    name=f"stages/stage-{stage}",
                    base="tiny",
                    parent=f"stages/stage-{stage - 1}",
                    stage=stage,
                )
            store.import_path(people / "merged-1", name="merged/stage-1", base="tiny")
            store.import_path(people / "other", name="other")
            store.tag("sweep/run-1/checkpoint-30", ("best",))
            store.pin("sweep/run-1/checkpoint-30")
    return path


@pytest.fixture
def writable_store(made_store: Path, quick: Path) -> Iterator[Path]:
    """A copy of `made_store` that a test may change."""
    path = quick / "store.ckptfmt"
    shutil.copytree(made_store, path)
    yield path
