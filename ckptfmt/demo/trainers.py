"""Checkpoints of training loops: the transformers Trainer with merged weights beside the adapter, and LoRA experts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ckptfmt.demo.adapters import Tuning, rows_of, with_lora
from ckptfmt.demo.made import Size
from ckptfmt.demo.model import train


class MergedBeside(TrainerCallback):  # type: ignore[misc]
    """What many training scripts do: after each save, write the merged weights into the checkpoint as well."""

    def on_save(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Write `model.safetensors` and `config.json` beside the adapter that the Trainer has just saved."""
        merged = copy.deepcopy(model).merge_and_unload().to(torch.bfloat16)
        merged.save_pretrained(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def save_trainer(base: Path, directory: Path, tuning: Tuning, size: Size, *, seed: int) -> list[Path]:
    """Run a Trainer that saves twice.

    Returns:
        Its checkpoint directories, the earlier first.
    """
    rows = rows_of(base, tuning.part, size, seed=seed)
    half = max(1, size.tune_steps // 2)
    trainer = Trainer(
        model=with_lora(base, tuning, seed=seed),
        args=TrainingArguments(
            output_dir=str(directory),
            max_steps=2 * half,
            save_steps=half,
            logging_steps=1,
            per_device_train_batch_size=size.batch,
            learning_rate=tuning.rate,
            lr_scheduler_type="constant",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[MergedBeside()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [directory / f"checkpoint-{step}" for step in (half, 2 * half)]


def save_experts(base: Path, run: Path, parts: tuple[str, ...], size: Size, *, seed: int) -> Path:
    """Train one LoRA expert for each part of the text and a router over them, and save all of it in one checkpoint.

    The full weights, with every expert merged, lie beside the experts: the kind of checkpoint that is 26 times too
    large.

    Returns:
        The checkpoint's directory, in the directory `run`.
    """
    from peft import LoraConfig

    rank, steps = 8, max(2, size.tune_steps // 3)
    model = with_lora(base, Tuning(rank=rank, targets=("q_proj", "v_proj"), part=parts[0]), seed=seed)
    config: LoraConfig = model.peft_config["default"]
    names = [f"expert_{number}" for number in range(len(parts))]
    history: list[dict[str, float]] = []
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        model.add_adapter(name, copy.deepcopy(config))
        model.set_adapter(name)
        rows = rows_of(base, part, size, seed=seed)
        losses, optimizer = train(model, rows, steps=steps, rate=2e-3, batch=size.batch, seed=seed + number)
        history += [{"step": len(history) + k + 1, "loss": round(loss, 6)} for k, loss in enumerate(losses)]
    model.delete_adapter("default")
    directory = run / f"checkpoint-{len(history)}"
    for name in names:
        # peft writes a named adapter into a directory of that name.
        model.save_pretrained(directory / "peft_adapters", selected_adapters=[name], save_embedding_layers=False)
    router, library, schedule = _train_router(model, base, parts, size, seed=seed)

    state = directory / "dylo_moe_state"
    state.mkdir(parents=True)
    settings = {"num_experts": len(parts), "lora_r": rank, "lora_alpha": 2 * rank, "hidden_size": size.hidden}
    (state / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    torch.save(router.state_dict(), state / "router.pt")
    torch.save(library, state / "skill_library.pt")
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    torch.save(schedule, directory / "scheduler.pt")
    trainer_state = {"global_step": len(history), "max_steps": len(history), "log_history": history}
    (directory / "trainer_state.json").write_text(json.dumps(trainer_state, indent=2) + "\n", encoding="utf-8")
    merged = model.merge_and_unload(adapter_names=names)
    merged.to(torch.bfloat16).save_pretrained(directory)
    return directory


def _train_router(
    model: Any, base: Path, parts: tuple[str, ...], size: Size, *, seed: int
) -> tuple[torch.nn.Linear, dict[str, torch.Tensor], dict[str, float]]:
    """A linear router from mean embeddings to experts, the mean embedding of each part, and its schedule's state."""
    embed = model.get_input_embeddings()
    with torch.no_grad():
        means = [embed(rows_of(base, part, size, seed=seed)).mean(dim=1) for part in parts]
    points = torch.cat(means)
    labels = torch.cat([torch.full((len(rows),), number) for number, rows in enumerate(means)])
    torch.manual_seed(seed)
    router = torch.nn.Linear(size.hidden, len(parts))
    optimizer = torch.optim.AdamW(router.parameters(), lr=1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(router(points), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    library = {part: rows.mean(dim=0) for part, rows in zip(parts, means, strict=True)}
    return router, library, {"last_epoch": 20, "base_lr": 1e-2}
