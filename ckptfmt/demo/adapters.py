"""LoRA fine-tuning with peft, and the adapters, merged models and stage outputs that come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ckptfmt.demo import text
from ckptfmt.demo.made import Size
from ckptfmt.demo.model import WHOLE_BYTES, load, load_tokenizer, save_full, score, sequences, train

ATTENTION: Final = ("q_proj", "v_proj")
EVERYWHERE: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Tuning:
    """One fine-tuning: rank, what it adapts, which part of the text it sees, and its learning rate."""

    rank: int
    targets: tuple[str, ...]
    part: str
    rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it: the peft model, its optimizer, the loss of each step, and scores before and after.

    A score is the loss and the share of next tokens predicted right.
    """

    model: Any
    optimizer: Any
    losses: tuple[float, ...]
    before: tuple[float, float]
    after: tuple[float, float]


def with_lora(base: Path, tuning: Tuning, *, seed: int) -> Any:
    """The model in `base` held in fp32, frozen, with fresh LoRA adapters: a `peft.PeftModel`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=2 * tuning.rank,
        lora_dropout=0.0,
        target_modules=list(tuning.targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(load(base, torch.float32), config)


def tune(base: Path, tuning: Tuning, size: Size, *, seed: int) -> Tuned:
    """Fine-tune the model in `base` on one part of the text."""
    model = with_lora(base, tuning, seed=seed)
    rows = rows_of(base, tuning.part, size, seed=seed)
    held, rows = rows[: size.batch], rows[size.batch :] if len(rows) > size.batch else rows
    before = score(model, held)
    losses, optimizer = train(model, rows, steps=size.tune_steps, rate=tuning.rate, batch=size.batch, seed=seed)
    return Tuned(model=model, optimizer=optimizer, losses=tuple(losses), before=before, after=score(model, held))


def rows_of(base: Path, part: str, size: Size, *, seed: int) -> torch.Tensor:
    """Training sequences of one part of the text: int64 of shape (n, `size.context`)."""
    return sequences(load_tokenizer(base), text.sentences(part, size_bytes=10_000, seed=seed), size)


def save_adapter(model: Any, directory: Path) -> None:
    """Save the adapters alone, as peft does."""
    model.save_pretrained(directory, save_embedding_layers=False)


def save_merged(base: Path, adapter: Path, directory: Path, *, shard_bytes: int = WHOLE_BYTES) -> None:
    """Merge the adapter in `adapter` into the model in `base` in bf16, and save all of it."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load(base, torch.bfloat16), str(adapter)).merge_and_unload()
    save_full(merged, load_tokenizer(base), directory, shard_bytes=shard_bytes)


def save_stage(tuned: Tuned, directory: Path, *, stage: int, part: str) -> Path:
    """Save what a stage of a bootstrapping run leaves: adapters, training log, test results.

    Returns:
        The directory of the adapters.
    """
    adapters = directory / "lora_adapters"
    save_adapter(tuned.model, adapters)
    steps = [{"step": number + 1, "loss": round(loss, 6)} for number, loss in enumerate(tuned.losses)]
    _write_json(
        directory / "training_logs" / "metrics.json",
        {"stage": stage, "final_loss": round(tuned.losses[-1], 6), "steps": steps},
    )
    _write_json(
        directory / "test_results" / "evaluation.json",
        {
            "stage": stage,
            "part": part,
            "loss_before": round(tuned.before[0], 6),
            "loss_after": round(tuned.after[0], 6),
            "success_rate_before": round(tuned.before[1], 4),
            "success_rate": round(tuned.after[1], 4),
        },
    )
    return adapters


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
