"""A messy tree of people's checkpoints, with what is redundant in it known by how it was made.

Real tools make one site of each kind; further sites are copies whose float data is changed by one mask, so that what
was equal within a site stays equal and nothing is equal across sites.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ckptfmt import Store
from ckptfmt.api import cleaning
from ckptfmt.api.results_reclaim import CleanupReport, PurgeReport
from ckptfmt.containers import FileSource, cut_file
from ckptfmt.containers.protocol import Cut
from ckptfmt.reclaim.proving import Prover, prove
from ckptfmt.reclaim.space import allocated_below
from tests.exactness import made
from tests.fixtures import chains, experts, hf, nanogpt, stages, torchtune_outputs, trainer, training_pt

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
TRAINING_STATE = ("optimizer.pt", "rng_state.pth", "scheduler.pt")
HOUR = 3600

REPORTED = {
    "out_merged/ckpt.pt": None,
    "linked/model.safetensors": None,
    "stopped/checkpoint-6/checkpoint-is-incomplete.txt": None,
    "stopped/checkpoint-6/model.safetensors": None,
    "out_standard/ckpt.pt.tmp": None,
}
"""What is only told: frozen weights inside a file, a second link, partial saves."""


def make_site(site: Path) -> None:
    """One directory with everything that the seeds tell of."""
    trainer.make(site / "trainer_full")
    trainer.make_peft(site / "trainer_peft")
    trainer.make_bloated(site / "bloated")
    trainer.make_bloated(site / "bloated_bin", merged=False, pickled=True)
    experts.make(site / "dylo", weights="merged")
    experts.make(site / "dylo_un", weights="unmerged")
    torchtune_outputs.make(site / "tune")
    torchtune_outputs.make_experiment(site / "sweep")
    chains.make(site / "chain")
    stages.make(site / "boot")
    nanogpt.make(site / "out_standard")
    nanogpt.make(site / "out_lora", lora=True, merged=False)
    nanogpt.make(site / "out_merged", lora=True)
    training_pt.make(site / "train")
    training_pt.make(site / "train", step=1000)
    # The base copied beside an adapter.
    shutil.copytree(site / "chain" / "stage_1", site / "copied")
    shutil.copy2(site / "chain" / "base" / "config.json", site / "copied")
    for path in (site / "chain" / "base").glob("model*"):
        shutil.copy2(path, site / "copied")
    # Models of the same form that have nothing to do with one another.
    for seed in (5, 6):
        hf.make(site / f"independent_{seed}", seed=seed)
    # A copy of one, and a link to another.
    shutil.copytree(site / "independent_5", site / "independent_5_backup")
    (site / "linked").mkdir()
    os.link(site / "independent_6" / "model.safetensors", site / "linked" / "model.safetensors")
    # What was stopped while it was saved.
    stopped = site / "stopped" / "checkpoint-6"
    stopped.mkdir(parents=True)
    (stopped / "checkpoint-is-incomplete.txt").touch()
    (stopped / "model.safetensors").write_bytes(b"half of a model" * 100)
    (site / "out_standard" / "ckpt.pt.tmp").write_bytes(b"PK half" * 100)
    # Links that lead out, and a loop.
    (site / "latest").symlink_to("trainer_full/checkpoint-4")
    (site / "loop").symlink_to(".")
    (site / "outside").symlink_to("/usr/share")


def expected(site: Path) -> dict[str, str | None]:
    """What a scan must find in a site: path, and what `goes_with` says of it."""
    wanted = {path: goes for path, goes in _expected().items() if (site / path).exists()}
    return wanted | {f"copied/{path.name}": "adapter" for path in (site / "copied").glob("model*")}


def _expected() -> dict[str, str | None]:
    found: dict[str, str | None] = dict(REPORTED)
    for run, file in (
        ("bloated", "model.safetensors"),
        ("bloated_bin", "pytorch_model.bin"),
        ("dylo", "model.safetensors"),
        ("dylo_un", "model.safetensors"),
    ):
        found |= {f"{run}/checkpoint-{step}/{file}": "adapter" for step in (2, 4)}
    for run in ("trainer_full", "trainer_peft", "bloated", "bloated_bin", "dylo", "dylo_un"):
        found |= {f"{run}/checkpoint-2/{file}": "none" for file in TRAINING_STATE}
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    found |= {f"tune/epoch_{epoch}/{file}": "adapter" for epoch in (0, 1) for file in shards}
    files = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]
    found |= {f"sweep/results/run_001/hf_model/{file}": "adapter" for file in (*files, "model.safetensors.index.json")}
    exports = ("continue_1", "continue_2", "continue_3", "float16_1", "float16_2", "float16_3")
    found |= {f"chain/{name}/model.safetensors": "adapter" for name in (*exports, "parent_only_3")}
    # With so small updates, in bf16, these come out as the same model as continue_2.
    found |= {f"chain/{name}/model.safetensors": "full" for name in ("parent_only_2", "stack_2")}
    found |= {"trainer_full/model.safetensors": "full", "independent_5_backup/model.safetensors": "full"}
    return found


def make_tree(tree: Path, original: Path, sites: int) -> list[str]:
    """`sites` sites below `tree`; their names. The first is as the tools made it."""
    names = [f"site_{number}" for number in range(sites)]
    for number, name in enumerate(names):
        shutil.copytree(original, tree / name, symlinks=True)
        linked = tree / name / "linked" / "model.safetensors"
        linked.unlink()
        if number:
            change(tree / name, number)
            for path in (tree / name / "chain").glob("float16_*"):  # A mask and a rounding do not commute.
                shutil.rmtree(path)
        os.link(tree / name / "independent_6" / "model.safetensors", linked)
        settle(tree / name)
    return names


def settle(site: Path) -> None:
    """Mtimes of yesterday, each its own: directories' last, as they were made."""
    begin = time.time_ns() - 24 * HOUR * 10**9
    paths = sorted(site.rglob("*"), key=lambda path: (path.is_dir() and not path.is_symlink(), -len(path.parts), path))
    for index, path in enumerate([*paths, site]):
        if not path.is_symlink():
            os.utime(path, ns=(begin + index * 1_000_003, begin + index * 1_000_003))


def change(site: Path, mask: int) -> None:
    """Change the float data of every weight file alike."""
    for path in weight_files(site):
        with FileSource(path) as source:
            cut = cut_file(source, path.name)
        if not isinstance(cut, Cut):
            continue
        data = np.memmap(path, np.uint8, "r+")
        for span in cut.extents:
            if span.dtype in FLOATS and span.length >= 64:
                data[span.offset : span.offset + span.length : FLOATS[span.dtype]] ^= mask
        data.flush()


def weight_files(site: Path) -> Iterator[Path]:
    for path in site.rglob("*"):
        real = path.is_file() and not path.is_symlink() and "stopped" not in path.parts
        if real and path.suffix in (".safetensors", ".bin", ".pt"):
            yield path


@dataclass(frozen=True)
class Place:
    """A store and a tree of checkpoints."""

    root: Path
    store: Store

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    def bloated(self, name: str = "run", seed: int = 0, element: str = "BF16") -> Path:
        """An adapter with the base's weights beside it, a few kilobytes; returns the weights."""
        family = made.family(element, square=(64, 64), embedding=(48, 64), tall=(64, 64), rank=2, seed=seed)
        family.write(self.root / f"made-{name}")
        target = self.tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.root / f"made-{name}" / "both", target)
        shutil.rmtree(self.root / f"made-{name}")
        settle(target)
        return target / made.WEIGHTS

    def plan(self, **options: Any) -> cleaning.Planned:
        return cleaning.plan(self.store, [self.tree], **options)

    def clean(self, prover: Prover = prove, **options: Any) -> CleanupReport:
        return cleaning.execute(self.store, self.plan(**options), prover=prover)


def purge_of(store: Store, receipt: str | None = None, prover: Prover = prove) -> PurgeReport:
    """Plan and execute a purge: of one receipt, or of all whose hold is over."""
    return cleaning.execute_purge(store, cleaning.plan_purge(store, receipt), prover=prover)


def allocated(*paths: Path) -> int:
    """What `du` says of directories, each file once."""
    return sum(allocated_below(str(path)) for path in paths)
