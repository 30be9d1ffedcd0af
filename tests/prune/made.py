"""Stores with the runs of a Trainer, a few hundred bytes a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ckptfmt.api import Store
from tests.store import making


def trainer(directory: Path, step: int, loss: float, seed: int) -> Path:
    """`checkpoint-N` of a Trainer."""
    making.write_small(directory, {"a": 1, "own": seed})
    state = {"global_step": step, "log_history": [{"step": step, "eval_loss": loss}]}
    (directory / "trainer_state.json").write_text(json.dumps(state))
    return directory


LOSSES: Mapping[str, Mapping[int, float]] = {
    "sweep/a": {100: 0.9, 200: 0.4, 300: 0.6, 1000: 0.5},
    "sweep/b": {100: 0.7, 200: 0.8, 300: 0.2},
}


def fill(store: Store, sources: Path) -> None:
    """Two runs, the checkpoints of one in another order than their steps."""
    seed = 0
    for run, losses in LOSSES.items():
        for step, loss in sorted(losses.items(), reverse=run.endswith("b")):
            seed += 1
            name = f"{run}/checkpoint-{step}"
            store.import_path(trainer(sources / name, step, loss, seed), name=name)
