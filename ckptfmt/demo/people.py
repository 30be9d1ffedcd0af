"""What people have on their disks: a base, a sweep, three stages, Trainer directories, experts and loose `.pt` files.

Everything is really trained, on the text that ships with the project, without a network. The same seed on the same
machine makes the same checkpoints.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ckptfmt.demo import text
from ckptfmt.demo.adapters import ATTENTION, EVERYWHERE, Tuning, save_adapter, save_merged, save_stage, tune
from ckptfmt.demo.made import DEMO, Made, MadeCheckpoint, Say, Size, check_installed, set_environment
from ckptfmt.demo.model import make_base, quiet
from ckptfmt.errors import Conflict

BASE_NAME: Final = "demo-base"

SWEEP: Final = (
    Tuning(rank=8, targets=ATTENTION, part="log"),
    Tuning(rank=16, targets=EVERYWHERE, part="log", rate=5e-4),
)
STAGES: Final = (
    Tuning(rank=16, targets=ATTENTION, part="log"),
    Tuning(rank=8, targets=ATTENTION, part="questions"),
    Tuning(rank=16, targets=ATTENTION, part="steps"),
)


def make_people(root: Path, *, size: Size = DEMO, seed: int = 0, say: Say = lambda _: None) -> Made:
    """Make a base and the checkpoints that people have of it below `root`.

    Raises:
        InvalidInput: transformers is not installed.
        Conflict: `root` has something in it.
    """
    check_installed()
    set_environment()
    if root.exists() and any(root.iterdir()):
        raise Conflict(f"{root} is not empty", code="target-exists", hint="name a directory that does not exist yet")
    start = time.monotonic()
    base = root / "base"
    with quiet():
        say("a base model, trained from nothing")
        losses = make_base(base, size, seed=seed)
        say(f"a base model: its loss fell from {losses[0]:.2f} to {losses[1]:.2f}")
        checkpoints = [
            *_sweep(root, base, size, seed=seed, say=say),
            *_stages(root, base, size, seed=seed, say=say),
            *_trainer(root, base, size, seed=seed, say=say),
            *_experts(root, base, size, seed=seed, say=say),
            *_loose(root, base, size, seed=seed, say=say),
        ]
    return Made(
        root=root,
        base=base,
        base_name=BASE_NAME,
        base_loss=losses,
        checkpoints=tuple(checkpoints),
        seconds=time.monotonic() - start,
    )


def _sweep(root: Path, base: Path, size: Size, *, seed: int, say: Say) -> list[MadeCheckpoint]:
    """A sweep over the base: each run as a full export, and the adapter it came from. The second export has shards."""
    made: list[MadeCheckpoint] = []
    whole = (base / "model.safetensors").stat().st_size
    for number, tuning in enumerate(SWEEP):
        say(f"run {number} of a sweep: LoRA of rank {tuning.rank}, exported whole")
        run = root / "results" / f"run_{number:03d}"
        tuned = tune(base, tuning, size, seed=seed + number)
        save_adapter(tuned.model, run / "adapter")
        save_merged(base, run / "adapter", run / "hf_model", shard_bytes=whole // 2 if number else whole)
        made += [
            MadeCheckpoint(run / "adapter", "PEFT adapter", f"sweep/{run.name}/adapter"),
            MadeCheckpoint(run / "hf_model", "full export", f"sweep/{run.name}/hf_model", merged=True),
        ]
    return made


def _stages(root: Path, base: Path, size: Size, *, seed: int, say: Say) -> list[MadeCheckpoint]:
    """A chain: stage N is trained on stage N-1 merged; both the adapters and the merged model are kept."""
    made: list[MadeCheckpoint] = []
    current, parent, merged_parent = base, None, None
    for stage, tuning in enumerate(STAGES, start=1):
        say(
            f"stage {stage}: LoRA on the part '{tuning.part}', on top of stage {stage - 1}"
            if parent
            else f"stage {stage}: LoRA on the part '{tuning.part}', on top of the base"
        )
        outputs, merged = root / f"stage_{stage}_outputs", root / f"stage_{stage}_merged"
        tuned = tune(current, tuning, size, seed=seed + 10 + stage)
        adapters = save_stage(tuned, outputs, stage=stage, part=tuning.part)
        save_merged(current, adapters, merged)
        name, merged_name = f"stages/stage-{stage}", f"merged/stage-{stage}"
        made += [
            MadeCheckpoint(outputs, "stage outputs", name, stage=stage, parent=parent),
            MadeCheckpoint(merged, "stage, merged", merged_name, stage=stage, parent=merged_parent, merged=True),
        ]
        current, parent, merged_parent = merged, name, merged_name
    return made


def _trainer(root: Path, base: Path, size: Size, *, seed: int, say: Say) -> list[MadeCheckpoint]:
    from ckptfmt.demo.trainers import save_trainer

    say("a Trainer run that writes merged weights beside its adapters")
    tuning = Tuning(rank=8, targets=("q_proj", "k_proj", "v_proj", "o_proj"), part="letters")
    paths = save_trainer(base, root / "trainer", tuning, size, seed=seed)
    return [MadeCheckpoint(path, "Trainer + merged", f"trainer/{path.name}") for path in paths]


def _experts(root: Path, base: Path, size: Size, *, seed: int, say: Say) -> list[MadeCheckpoint]:
    from ckptfmt.demo.trainers import save_experts

    say(f"a mixture of {len(text.PARTS)} LoRA experts with a router, full weights beside it")
    path = save_experts(base, root / "results_full", text.PARTS, size, seed=seed)
    return [MadeCheckpoint(path, "LoRA experts", f"experts/{path.name}")]


def _loose(root: Path, base: Path, size: Size, *, seed: int, say: Say) -> list[MadeCheckpoint]:
    from ckptfmt.demo.plain import save_training, save_universal

    say("loose .pt files: a merged universal checkpoint, and a training run with its optimizer")
    tuning = Tuning(rank=16, targets=ATTENTION, part="letters")
    tuned = tune(base, tuning, size, seed=seed + 20)
    universal = root / "out_lora_rank16" / "ckpt.pt"
    save_universal(tuned, universal, size, rank=tuning.rank)
    training = save_training(base, root / "checkpoints", "log", size, seed=seed)
    return [
        MadeCheckpoint(universal, "universal .pt", "loose/out_lora_rank16"),
        *(
            MadeCheckpoint(path, "training .pt", f"loose/bigram_{path.stem.split('_')[3]}", of_base=False)
            for path in training
        ),
    ]
